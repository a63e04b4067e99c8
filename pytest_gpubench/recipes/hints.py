"""What is meant by a selection that names what does not exist: the field, its type, the nearest name."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pytest_gpubench.recipes.problems import did_you_mean

MARK = "gpubench"
_CALL = re.compile(rf"(?<![\w.:-]){MARK}\(([^()]*)\)")
_ARGUMENT = re.compile(r"(\w+)\s*=\s*('[^']*'|\"[^\"]*\"|[^,\s]+)")
_WORD = re.compile(r"[\w.:+-]+")
_KINDS: dict[type, str] = {str: "text in quotes", int: "a number without quotes", bool: "True or False"}
_MOST_SHOWN = 12


def field_errors(expression: str, fields: Mapping[str, type]) -> list[str]:
    """What of ``gpubench(field=value)`` in a ``-m`` expression can match no case at all, a sentence each.

    Args:
        fields: name to type of the mark's fields.
    """
    wrong = []
    for name, text, value in _arguments(expression):
        kind = fields.get(name)
        if kind is None:
            near = did_you_mean(name, fields)
            wrong.append(f"{MARK}() has no field '{name}'{near} (fields: {', '.join(fields)})")
        elif type(value) is not kind:
            words = f"the field '{name}' is {_KINDS[kind]}, not {text}"
            other = _as_kind(value, kind)
            wrong.append(words + (f"; write {name}={other!r}" if other is not None else ""))
    return wrong


def nearest(expression: str, tags: Collection[str], values: Mapping[str, Collection[Any]]) -> list[str]:
    """For an expression of ``-k`` or ``-m`` that selects nothing: each word and value that no case has, with the nearest one.

    Args:
        tags: words of the cases.
        values: by field of the mark, the values that cases have.
    """
    hints = []
    for name, text, value in _arguments(expression):
        known = values.get(name, ())
        if known and value not in known:
            near = did_you_mean(str(value), map(str, known)) if isinstance(value, str) else ""
            hints.append(f"no case has {name}={text}{near or f' (there is {_listed(known)})'}")
    for word in dict.fromkeys(_WORD.findall(_CALL.sub(" ", expression))):
        if word in ("and", "or", "not") or any(word.lower() in tag for tag in tags):
            continue
        near = did_you_mean(word, tags)
        if near:
            hints.append(f"no case has the word '{word}'{near}")
    return hints


def _arguments(expression: str) -> Iterator[tuple[str, str, object]]:
    for inside in _CALL.findall(expression):
        for name, text in _ARGUMENT.findall(inside):
            try:
                yield name, text, ast.literal_eval(text)
            except (ValueError, SyntaxError):
                continue  # pytest says so itself


def _as_kind(value: object, kind: type) -> object:
    """The value in the type that the field has, None where there is none."""
    if kind is str and not isinstance(value, bool | None):
        return str(value)
    if kind is int and isinstance(value, str) and re.fullmatch(r"\d{1,9}", value):
        return int(value)
    if kind is bool and str(value).lower() in ("true", "1", "false", "0"):
        return str(value).lower() in ("true", "1")
    return None


def _listed(known: Collection[Any]) -> str:
    words = [repr(value) for value in sorted(known, key=lambda value: (isinstance(value, str), value))]
    return ", ".join(words[:_MOST_SHOWN]) + (", ..." if len(words) > _MOST_SHOWN else "")
