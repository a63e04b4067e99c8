"""Texts from outside (engines, files, other hosts) made fit to be printed. Pure; the one place that
knows what is not.

A terminal obeys escapes, a CI obeys lines of its job's log: what an engine writes may be neither.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# Control characters that no document may hold, line ends that only some readers see, marks that
# turn text around, lone surrogates that no file can hold, and two code points that are no
# characters.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff]"
)
# GitHub takes `::name::` at the start of a line (it skips blanks) and `##[name]` anywhere in it,
# Azure `##vso[`, TeamCity `##teamcity[`; GitLab's sections and Travis's folds have a name and a
# carriage return.
_COMMAND = re.compile(
    r"^[^\S\n]*:(?=:)|#(?=#\w*\[)|^[^\S\n]*(?:section|travis_fold|travis_time)(?=[_:]\w+:)", re.M
)


def counted(number: int, noun: str) -> str:
    """``1 case``, ``2 cases``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def listed(words: Sequence[str], most: int) -> str:
    """``a, b and 3 more``: the first ``most`` of the words, the rest counted."""
    shown = ", ".join(words[:most])
    return shown if len(words) <= most else f"{shown} and {len(words) - most} more"


def printable(text: str) -> str:
    """The text with what cannot or must not be printed replaced by U+FFFD: for documents."""
    return _UNPRINTABLE.sub("\ufffd", text)


def for_terminal(text: str) -> str:
    r"""The text for a terminal or a job's log: control characters as ``\x1b``, no line a command
    for a CI.

    Line ends and tabs stay, a Windows line end becomes a plain one. ASCII stays ASCII. Applied
    twice it changes nothing more.
    """
    text = _UNPRINTABLE.sub(_escaped, text.replace("\r\n", "\n")).replace("\r", "\\x0d")
    return _COMMAND.sub(lambda command: f"{command[0]} ", text)


def _escaped(character: re.Match[str]) -> str:
    code = ord(character[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
