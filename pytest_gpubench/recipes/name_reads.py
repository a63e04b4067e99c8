"""Which names the expressions of a recipe read: what reads nothing that differs between two points
is the same for both."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_gpubench.recipes.checking import CASE_NAMES, branch, condition_text
from pytest_gpubench.recipes.expressions import ExpressionError, is_computed, names_in, parse
from pytest_gpubench.recipes.yaml_tree import Node

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
