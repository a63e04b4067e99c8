"""Fixtures and the types that they hand out; the types' own words are rendered by mkdocstrings."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import pytest_gpubench
from docs_reference.markdown import prose, table
from pytest_gpubench import suite
from pytest_gpubench.plugin import fixtures

_HEAD = """# Fixtures and types

A test in any file gets these by naming them. [Write a test of your own](../how-to/own-test.md) shows how.
"""
_SUITE = """
## Tests of the suite

`benchmarks/test_serving.py` imports them from `pytest_gpubench.suite`.
"""
_TYPES = """
## Types

What `pytest_gpubench` exports: what the fixtures return, and what that is made of. Sizes and times are SI: tokens, seconds.
"""


@dataclass(frozen=True, slots=True)
class Fixture:
    """One public fixture."""

    name: str
    scope: str
    gives: str
    doc: str


def public_fixtures() -> list[Fixture]:
    """The fixtures without a leading underscore, in the order of their definition."""
    found = []
    for name, value in vars(fixtures).items():
        if name.startswith("_") or type(value).__name__ != "FixtureFunctionDefinition":
            continue
        function = inspect.unwrap(value)
        gives = (
            str(inspect.signature(function).return_annotation)
            .removeprefix("Iterator[")
            .removesuffix("]")
        )
        gives = gives if not gives.startswith("Callable") else gives + "]"
        scope = value._fixture_function_marker.scope
        found.append(Fixture(name, str(scope), gives, inspect.getdoc(function) or ""))
    return found


def suite_tests() -> dict[str, str]:
    """The suite's tests and what they assert."""
    return {name: inspect.getdoc(getattr(suite, name)) or "" for name in suite.__all__}


def documented_types() -> list[type]:
    """The classes that the package exports."""
    exported = [getattr(pytest_gpubench, name) for name in pytest_gpubench.__all__]
    return [value for value in exported if isinstance(value, type)]


def api_page() -> str:
    """The page."""
    rows = [
        (f"`{one.name}`", one.scope, f"`{one.gives}`", prose(one.doc)) for one in public_fixtures()
    ]
    lines = [_HEAD, table(("fixture", "scope", "gives", "meaning"), rows), _SUITE]
    lines.append(
        table(
            ("test", "what it asserts"),
            [(f"`{name}`", prose(doc)) for name, doc in suite_tests().items()],
        )
    )
    lines.append(_TYPES)
    lines += [f"::: {found.__module__}.{found.__qualname__}\n" for found in documented_types()]
    return "\n".join(lines)
