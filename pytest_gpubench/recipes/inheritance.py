"""How parts of a recipe are laid over each other: ``extends`` and ``when``."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import reduce

from pytest_gpubench.recipes.expressions import (
    CASE_NAMES,
    ExpressionError,
    is_computed,
    names_in,
    parse,
)
from pytest_gpubench.recipes.problems import ProblemLog, did_you_mean, join_path
from pytest_gpubench.recipes.yaml_tree import Entry, Node

MAX_GENERATIONS = 20
BRANCHES = ("if", "elif", "else")
"""Keys of a part of `when` that say where it holds."""
KEEPS_NULL = ("env", "serve")
"""In these maps null is a value: it unsets the variable in the server, and leaves the flag to the
engine, also one that we would set otherwise."""


def overlay(parent: Node, child: Node, key: str = "") -> Node:
    """``child`` laid over ``parent``: maps merge, lists and scalars replace, null removes, ``when``
    concatenates (parent first).

    Neither argument is changed; places travel with the values.
    """
    if key == "when" and isinstance(parent.value, list) and isinstance(child.value, list):
        return Node([*parent.value, *child.value], child.at)
    if not (isinstance(parent.value, dict) and isinstance(child.value, dict)):
        return without_nulls(child, key)
    merged: dict[str, Entry] = dict(parent.value)
    for name, entry in child.value.items():
        if entry.node.value is None and key not in KEEPS_NULL:
            merged.pop(name, None)
        elif name in merged:
            merged[name] = Entry(entry.key_at, overlay(merged[name].node, entry.node, name))
        else:
            merged[name] = Entry(entry.key_at, without_nulls(entry.node, name))
    return Node(merged, child.at)


def without_nulls(node: Node, key: str = "") -> Node:
    """The node with its null keys removed (nothing stands below them that they could remove),
    inside maps only."""
    if not isinstance(node.value, dict) or key == "env":
        return node
    kept = {
        name: Entry(entry.key_at, without_nulls(entry.node, name))
        for name, entry in node.value.items()
        if entry.node.value is not None or key in KEEPS_NULL
    }
    return Node(kept, node.at)


class Lineage:
    """Resolves ``extends`` over all files: a recipe or template by name to its merged form."""

    def __init__(
        self, sections: Mapping[str, Node], broken: Collection[str], log: ProblemLog
    ) -> None:
        self._sections = sections
        self._broken = broken
        self._log = log
        self._merged: dict[str, Node | None] = {}
        self._stack: list[str] = []

    def resolve(self, name: str) -> Node | None:
        """The merged form of a section, None if one of its ancestors is missing, broken or itself
        (each reported once)."""
        if name not in self._merged:
            self._stack.append(name)
            self._merged[name] = self._resolve(name)
            self._stack.pop()
        return self._merged[name]

    def _resolve(self, name: str) -> Node | None:
        section = self._sections[name]
        extends = section.get("extends")
        own = Node(
            {key: entry for key, entry in section.entries.items() if key != "extends"}, section.at
        )
        if extends is None or extends.value is None:
            return without_nulls(own)
        layers = []
        for parent in extends.items if isinstance(extends.value, list) else [extends]:
            base = self._parent(name, parent)
            if base is None:
                return None
            layers.append(base)
        # An empty list extends nothing.
        return reduce(overlay, [*layers, own]) if layers else without_nulls(own)

    def _parent(self, name: str, parent: Node) -> Node | None:
        path = join_path(name, "extends")
        if not isinstance(parent.value, str):
            return None  # the schema has said so
        if parent.value in self._broken:
            return None  # its own problems say enough
        if parent.value not in self._sections:
            known = [other for other in (*self._sections, *self._broken) if other != name]
            self._log.add(
                parent.at,
                path,
                "no recipe or template is named "
                f"'{parent.value}'{did_you_mean(parent.value, known)}",
            )
            return None
        if parent.value in self._stack:
            cycle = [*self._stack[self._stack.index(parent.value) :], parent.value]
            self._log.add(
                parent.at, path, f"extends itself: {' -> '.join(cycle)}; remove one of these links"
            )
            return None
        if len(self._stack) >= MAX_GENERATIONS:
            self._log.add(
                parent.at,
                path,
                f"more than {MAX_GENERATIONS} generations of `extends`; flatten the chain",
            )
            return None
        return self.resolve(parent.value)


def branch(part: Node) -> tuple[str, Node | None]:
    """Which of `if`, `elif`, `else` a part of `when` has, and its value."""
    for key in BRANCHES:
        if key in part.entries:
            return key, part.get(key)
    return "if", None


def condition_text(text: str) -> str:
    """The expression of an ``if``; ``${...}`` around the whole is allowed."""
    stripped = text.strip()
    return stripped[2:-1] if stripped.startswith("${") and stripped.endswith("}") else stripped


_EVERYTHING = frozenset(CASE_NAMES)


def names_read(node: Node) -> frozenset[str]:
    """Names that the expressions inside a value read; all of them where one is not valid (its
    evaluation will say so)."""
    try:
        return frozenset(
            name for text in _texts(node) if is_computed(text) for name in names_in(text)
        )
    except ExpressionError:
        return _EVERYTHING


def server_reads(recipe: Node) -> frozenset[str]:
    """Names that decide a recipe's server: those of its conditions, flags, draft and
    environment."""
    parts = recipe.items_of("when")
    conditions = (_condition_reads(part) for part in parts)
    layers = [
        layer.get(key) for layer in (recipe, *parts) for key in ("serve", "speculative", "env")
    ]
    values = (names_read(layer) for layer in layers if layer)
    return frozenset().union(*conditions, *values)


def _condition_reads(part: Node) -> frozenset[str]:
    _, condition = branch(part)
    if condition is None or not isinstance(condition.value, str):
        return frozenset()
    try:
        return parse(condition_text(condition.value)).names
    except ExpressionError:
        return _EVERYTHING


def _texts(node: Node) -> Iterator[str]:
    if isinstance(node.value, str):
        yield node.value
    for child in [entry.node for entry in node.entries.values()] or node.items:
        yield from _texts(child)
