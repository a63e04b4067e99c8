"""Markup that is safe by construction: whatever is not :class:`Markup` is escaped, and nothing else makes markup."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import TypeAlias

from pytest_gpubench.model.printing import printable

LONGEST_TEXT = 4000
"""Characters of one text in the page; the rest is left out, with a word about it."""

_VOID = frozenset({"meta", "input", "br", "hr"})


class Markup(str):
    """Text that is markup already. Only this module and the shipped assets make it."""

    __slots__ = ()


Child: TypeAlias = "str | int | float | Iterable[Child] | None"
Attribute: TypeAlias = "str | int | float | bool | None"


def tag(name: str, *children: Child, **attributes: Attribute) -> Markup:
    """An element. Names are constants of our code; ``class_`` is ``class``, ``data_x`` is ``data-x``, None and False leave out."""
    parts = ["<", name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        word = key.rstrip("_").replace("_", "-")
        parts.append(f" {word}" if value is True else f' {word}="{html.escape(_text(value), quote=True)}"')
    parts.append(">")
    if name not in _VOID:
        _put(parts, children)
        parts.append(f"</{name}>")
    return Markup("".join(parts))


def join(*children: Child) -> Markup:
    """Children beside each other."""
    parts: list[str] = []
    _put(parts, children)
    return Markup("".join(parts))


def clip(text: str, longest: int = LONGEST_TEXT) -> str:
    """The text, or its beginning and how much was left out."""
    return text if len(text) <= longest else f"{text[:longest]}… ({len(text) - longest:,} characters left out)"


def _put(parts: list[str], children: Iterable[Child]) -> None:
    for child in children:
        if child is None:
            continue
        if isinstance(child, Markup):
            parts.append(child)
        elif isinstance(child, str | int | float):
            parts.append(html.escape(_text(child), quote=False))
        else:
            _put(parts, child)


def _text(value: str | float) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".") if abs(value) < 1e15 else "-"
    return printable(clip(str(value)))
