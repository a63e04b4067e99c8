"""Which names the values of a recipe read: what reads nothing that differs between two points is the same for both."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_gpubench.recipes.checking import CASE_NAMES, condition_text
from pytest_gpubench.recipes.expressions import ExpressionError, parse
from pytest_gpubench.recipes.templating import is_computed, names_in
from pytest_gpubench.recipes.yamltree import Node

_EVERYTHING = frozenset(CASE_NAMES)


def names_read(node: Node) -> frozenset[str]:
    """Names that the expressions inside a value read; all of them where one is not valid (its evaluation will say so)."""
    try:
        return frozenset(name for text in _texts(node) if is_computed(text) for name in names_in(text))
    except ExpressionError:
        return _EVERYTHING


def server_reads(recipe: Node) -> frozenset[str]:
    """Names that decide a recipe's server: those of its conditions, flags, draft and environment."""
    when = recipe.get("when")
    parts = when.items if when else []
    conditions = (_condition_reads(part) for part in parts)
    values = (
        names_read(found) for layer in (recipe, *parts) for key in ("serve", "speculative", "env") if (found := layer.get(key))
    )
    return frozenset().union(*conditions, *values)


def _condition_reads(part: Node) -> frozenset[str]:
    condition = part.get("if")
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
