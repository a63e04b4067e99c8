"""Command lines of others, read back into flags and values: the inverse of `command_line.flag`.

Nothing is run, and no list of an engine's flags is needed: a word that begins with a dash is a
flag, the words after it are its values. What a flag means to a recipe, `server_flags` says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pytest_gpubench.dialects.command_line import KEY_FILE
from pytest_gpubench.dialects.dialect import Dialect
from pytest_gpubench.dialects.registry import every_dialect
from pytest_gpubench.dialects.server_flags import LAUNCH, MODEL, FlagRules, follows_from_row

_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")
_PYTHON = re.compile(r"python[\d.]*")
_MOST_DIGITS = 15


@dataclass(frozen=True, slots=True)
class Option:
    """One option as it stands on a command line."""

    name: str
    """Without dashes, as a recipe spells it; with one dash where the engine's table has no long
    name for it."""
    values: tuple[str, ...]
    words: tuple[str, ...]
    """As they were given."""
    negated: bool = False
    """``--no-NAME``."""

    @property
    def value(self) -> Any:
        """What it means, for comparisons: a switch is a boolean, text that is a number is one, a
        JSON object a map."""
        if not self.values:
            return not self.negated
        if len(self.values) > 1:
            return tuple(meaning(word) for word in self.values)
        return meaning(self.values[0])


@dataclass(frozen=True, slots=True)
class Started:
    """A command line, cut where the engine's own options begin."""

    dialect: Dialect
    before: tuple[str, ...]
    """Words before the engine's start."""
    options: tuple[str, ...]


def started(words: Sequence[str]) -> Started | None:
    """The first engine that a command line starts, and the words after its start; None: none that
    is known."""
    for index, word in enumerate(words):
        for dialect in every_dialect():
            for start in dialect.starts:
                here = (PurePosixPath(word).name, *words[index + 1 : index + len(start)])
                if here != start:
                    continue
                before = tuple(words[:index])
                if start[0] == "-m":
                    if not any(_PYTHON.fullmatch(PurePosixPath(one).name) for one in before):
                        continue
                    before = _without_python(before)
                return Started(dialect, before, tuple(words[index + len(start) :]))
    return None


def _without_python(before: tuple[str, ...]) -> tuple[str, ...]:
    """Words without the interpreter and its own options, which a launch of ours has anew."""
    first = next(
        index for index, one in enumerate(before) if _PYTHON.fullmatch(PurePosixPath(one).name)
    )
    return before[:first]


def read_options(words: Sequence[str], rules: FlagRules) -> tuple[tuple[str, ...], list[Option]]:
    """The words before the first option, and the options with the words that follow each.

    A word that follows an option that takes one value at most (one of `FlagRules.ours`) stands
    among the first, too.
    """
    loose: list[str] = []
    options: list[Option] = []
    index = 0
    while index < len(words):
        word = words[index]
        index += 1
        if not _is_flag(word):
            loose.append(word)
            continue
        head, equals, inline = word.partition("=")
        values = [inline] if equals else []
        given = [word]
        while not equals and index < len(words) and not _is_flag(words[index]):
            values.append(words[index])
            given.append(words[index])
            index += 1
        name, negated = _name(head, rules)
        most = 1
        if name.partition(".")[0] in rules.ours and len(values) > most:
            loose += values[most:]
            del values[most:], given[most + 1 :]
        options.append(Option(name, tuple(values), tuple(given), negated))
    return tuple(loose), options


def settings_of(options: Sequence[Option]) -> dict[str, Any]:
    """Flag to value as the engine's parser ends up with them: the last one counts, dotted ones are
    gathered into a map, which takes the place of an earlier value of the name."""
    settings: dict[str, Any] = {}
    dotted: dict[str, dict[str, Any]] = {}
    for option in options:
        head, dot, inner = option.name.partition(".")
        if not dot or option.name.startswith("-"):
            settings[option.name] = option.value
            continue
        place = dotted.setdefault(head, {})
        *path, last = inner.split(".")
        for step in path:
            below = place.setdefault(step, {})
            if not isinstance(below, dict):
                below = place[step] = {}
            place = below
        place[last] = option.value
    return settings | dotted


def meaning(word: str) -> Any:
    """A word as a value: number, boolean, map of JSON, or the text that it is."""
    if _NUMBER.fullmatch(word) and len(word) <= _MOST_DIGITS:
        return int(word) if word.lstrip("-").isdigit() else float(word)
    if word in ("true", "True"):
        return True
    if word in ("false", "False"):
        return False
    if word.lstrip().startswith(("{", "[")):
        try:
            value = json.loads(word)
        except (ValueError, RecursionError):
            return word
        return value
    return word


def comparable(dialect: Dialect, options: Sequence[str]) -> dict[str, Any]:
    """What two command lines of one engine must have in common to be one server: flag to value,
    without what every launch gets anew, and without sizes of 1.

    Args:
        options: the words after the engine's start.
    """
    rules = dialect.flags
    loose, given = read_options(options, rules)
    settings = settings_of(given)
    for name in [name for name in settings if rules.ours.get(name) == MODEL]:
        settings["model"] = str(settings.pop(name))
    if loose:
        settings.setdefault("model", loose[0])
    for name in list(settings):
        reason = rules.ours.get(name, "")
        value = settings[name]
        said_by_silence = value is False or (value == 1 and value is not True)
        anew = reason in LAUNCH or value == KEY_FILE
        if anew or (follows_from_row(reason) and said_by_silence):
            del settings[name]
    return settings


def differences(
    ours: Mapping[str, Any], theirs: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    """(name, ours, theirs) of all that differs, absent values being None; maps are compared key by
    key, as ``name.key``."""
    for name in [*theirs, *(name for name in ours if name not in theirs)]:
        left, right = ours.get(name), theirs.get(name)
        if isinstance(left, dict) and isinstance(right, dict):
            inner = differences(left, right)
            yield from ((f"{name}.{key}", one, other) for key, one, other in inner)
        elif not _same(left, right):
            yield name, left, right


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        pairs = zip(left, right, strict=False)
        return len(left) == len(right) and all(_same(one, other) for one, other in pairs)
    if isinstance(left, dict) and isinstance(right, dict):
        return not any(differences(left, right))
    if isinstance(left, str) != isinstance(right, str):  # a text inside JSON that is a number
        left, right = (meaning(one) if isinstance(one, str) else one for one in (left, right))
    return bool(left == right)


def _is_flag(word: str) -> bool:
    return len(word) > 1 and word.startswith("-") and not _NUMBER.fullmatch(word) and word != "--"


def _name(head: str, rules: FlagRules) -> tuple[str, bool]:
    """The name of a flag and whether ``no-`` stood before it."""
    flag, dot, inner = head.partition(".")
    if not head.startswith("--"):
        name = rules.short.get(flag) or rules.synonyms.get(flag[1:])
        return (f"{name}{dot}{inner}", False) if name else (head, False)
    name = flag[2:].replace("_", "-")
    negated = bool(rules.negation) and name.startswith(rules.negation)
    if negated:
        name = name.removeprefix(rules.negation)
    if ours := rules.our_flag(name):
        name = ours[0]
    return f"{rules.synonyms.get(name, name)}{dot}{inner}", negated
