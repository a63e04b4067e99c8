"""Markup that is safe by construction: whatever is not :class:`Markup` is escaped, and nothing else
makes markup."""

from __future__ import annotations

import html
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from pytest_gpubench.gate.wording import quantity
from pytest_gpubench.model.metrics import METRICS
from pytest_gpubench.model.printing import printable
from pytest_gpubench.model.verdicts import Status
from pytest_gpubench.report.numbers import short

LONGEST_TEXT = 4000
"""Characters of one text in the page; the rest is left out, with a word about it."""

_VOID = frozenset({"meta", "input", "br", "hr"})


class Markup(str):
    """Text that is markup already. Only this module and the shipped assets make it."""

    __slots__ = ()


Child: TypeAlias = "str | int | float | Iterable[Child] | None"
Attribute: TypeAlias = "str | int | float | bool | None"


def tag(name: str, *children: Child, **attributes: Attribute) -> Markup:
    """An element. Names are constants of our code; ``class_`` is ``class``, ``data_x`` is
    ``data-x``, None and False leave out."""
    parts = ["<", name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        word = key.rstrip("_").replace("_", "-")
        parts.append(
            f" {word}" if value is True else f' {word}="{html.escape(_text(value), quote=True)}"'
        )
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
    return (
        text
        if len(text) <= longest
        else f"{text[:longest]}… ({len(text) - longest:,} characters left out)"
    )


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


def shown(metric: str, value: float) -> str:
    """A metric's value with its unit; a metric that this version does not know has none."""
    return quantity(metric, value) if metric in METRICS else short(value)


GLYPHS = {
    Status.FAIL: "✕",
    Status.INVALID: "⊘",
    Status.INCONCLUSIVE: "?",
    Status.WAIVED: "⚑",
    Status.PASS: "✓",
    Status.UNGATED: "\u2013",
}
"""A status is told by a sign and a word, never by colour alone."""


ABSENT = "\u2013"
"""A cell without a value."""


def section(name: str, title: str, *children: Child, lead: str = "") -> Markup:
    """A section of the page with an anchor; ``lead`` says what it shows."""
    return tag(
        "section",
        tag("h2", title, id=f"{name}-title"),
        tag("p", lead, class_="lead") if lead else None,
        children,
        id=name,
        aria_labelledby=f"{name}-title",
    )


def more(number: int, words: str) -> Markup | None:
    """How many of something are left out, where any are."""
    return tag("p", f"{number:,} more {words}.", class_="note") if number > 0 else None


def figure(caption: str, drawing: Markup, note: str = "", tags: str = "") -> Markup:
    """A chart with its caption above."""
    words = [caption, tag("span", note, class_="muted") if note else None]
    return tag("figure", tag("figcaption", words), drawing, data_tags=tags or None)


def badge(status: Status) -> Markup:
    """A verdict's sign and word."""
    return tag(
        "span",
        tag("span", GLYPHS[status], aria_hidden="true"),
        f" {status.value}",
        class_=f"badge {status.value.lower()}",
    )


def table(
    head: Sequence[Child],
    rows: Iterable[Sequence[Child] | Markup],
    *,
    class_: str = "",
    caption: str = "",
) -> Markup:
    """A table that scrolls sideways in its own box; a row is its cells (the first one names it) or
    a ready ``tr``."""
    lines = [row if isinstance(row, Markup) else table_row(row) for row in rows]
    made = tag(
        "table",
        tag("caption", caption, class_="hidden-words") if caption else None,
        tag("thead", tag("tr", [tag("th", cell, scope="col") for cell in head])),
        tag("tbody", lines),
        class_=class_ or None,
    )
    return tag(
        "div", made, class_="scroll", tabindex=0, role="group", aria_label=caption or "table"
    )


def table_row(cells: Sequence[Child], tags: str = "") -> Markup:
    """A row whose first cell names it."""
    first, *others = cells
    return tag(
        "tr",
        tag("th", first, scope="row"),
        [tag("td", cell) for cell in others],
        data_tags=tags or None,
    )


def facts(pairs: Iterable[tuple[str, Child]]) -> Markup:
    """Names and values in a list; empty values are left out."""
    items = [
        tag("div", tag("dt", name), tag("dd", value))
        for name, value in pairs
        if value not in (None, "")
    ]
    return tag("dl", items, class_="facts")


def link(address: str, words: str = "") -> Markup | str:
    """A link for http(s) addresses, plain text else: an address may come from anywhere."""
    if address.startswith(("https://", "http://")) and not any(
        letter.isspace() for letter in address
    ):
        return tag("a", words or address, href=address, rel="noopener noreferrer nofollow")
    return address


def shell_text(argv: Sequence[str], env: Mapping[str, str]) -> str:
    """Environment and command line as one would type them, a flag a line."""
    lines = [f"{name}={shlex.quote(value)}" for name, value in sorted(env.items())]
    current = ""
    for word in map(shlex.quote, argv):
        if word.startswith("--") and current:
            lines.append(current)
            current = f"  {word}"
        else:
            current = f"{current} {word}" if current.strip() else f"{current}{word}"
    return " \\\n".join([*lines, current] if current else lines)


def copyable(text: str, what: str) -> Markup:
    """Text with a button that copies it; without the page's script the button is hidden."""
    button = tag("button", "Copy", type="button", class_="copy", aria_label=f"Copy {what}")
    return tag("div", button, tag("pre", tag("code", text), tabindex=0), class_="copyable")
