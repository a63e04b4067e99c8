"""The floor plan is held: no import circle anywhere in the package, in any form of import."""

from __future__ import annotations

import re
import sys
from functools import cache
from pathlib import Path

from tests.conftest import SURFACE

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "experiments" / "floor_plan"))

from figures import Module, circles, nested_conditionals, read_modules  # noqa: E402

ENGINE_PART = re.compile(r"\.dialects\.\w+\.\w+$")


@cache
def modules() -> dict[str, Module]:
    """Read once, and not by each process that only collects."""
    return read_modules(ROOT)


def test_no_module_is_in_a_circle_of_imports_types_included() -> None:
    assert circles(modules()) == []


def test_no_conditional_expression_is_inside_another_one() -> None:
    nested = {
        name: count
        for name, module in modules().items()
        if (count := nested_conditionals(module.tree)[1])
    }
    assert nested == {}


def test_a_name_of_a_module_occurs_once() -> None:
    names: dict[str, list[str]] = {}
    for name in modules():
        if ENGINE_PART.search(name):
            continue  # each engine's parts have the same names, by intention
        names.setdefault(name.rpartition(".")[2], []).append(name)
    assert {name: where for name, where in names.items() if len(where) > 1} == {}


def test_a_module_holds_one_idea_by_its_length() -> None:
    long = {
        name: module.text.count("\n")
        for name, module in modules().items()
        if module.text.count("\n") > 470
    }
    assert long == {}


def test_what_is_run_with_the_lowest_releases_exists() -> None:
    """A name that a move has left behind would take its tests out of that run, in silence."""
    assert [name for name in SURFACE if not (ROOT / "tests" / name).exists()] == []
