"""YAML recipes to cases and server specs: schema, inheritance, expressions, expansion, ids,
sharing, selection, launch plan.

Names are imported when first used: a pytest run without recipes must not pay for pydantic and yaml.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_gpubench.recipes.loading import load_recipes
    from pytest_gpubench.recipes.schema import json_schema
    from pytest_gpubench.recipes.selection import Ambiguity, find_ambiguity
    from pytest_gpubench.recipes.server_groups import plan_launches

__all__ = ["Ambiguity", "find_ambiguity", "json_schema", "load_recipes", "plan_launches"]

_HOMES = {
    "Ambiguity": "selection",
    "find_ambiguity": "selection",
    "json_schema": "schema",
    "load_recipes": "loading",
    "plan_launches": "server_groups",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
