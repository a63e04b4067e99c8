"""``--gpubench-results DIR`` in two words means what it means with ``=``.

pytest chooses its root folder before it knows the options of any plugin: it takes DIR for a path of
tests, and where DIR lies elsewhere it finds another root, other ini files and no recipes. The run
then begins anew with the option in one word.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

_PREFIX = "--gpubench-"
_ADDOPTS = "PYTEST_ADDOPTS"
_MOST_FILES = 20


def joined(words: Sequence[str], takes_value: Callable[[str], bool], depth: int = 0) -> list[str]:
    """The words with each of our options and its value in one; ``@FILE`` is read as pytest reads
    it.

    Args:
        takes_value: whether an option, by its name with dashes, takes a value.
    """
    result: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--":
            return [*result, word, *rest]
        if word.startswith("@") and depth < _MOST_FILES and (lines := _lines(word[1:])) is not None:
            result += joined(lines, takes_value, depth + 1)
        elif word.startswith(_PREFIX) and "=" not in word and takes_value(word):
            value = next(rest, None)
            result += [word] if value is None else [f"{word}={value}"]
        else:
            result.append(word)
    return result


def begin_anew(config: pytest.Config) -> int | None:
    """Run pytest with our options in one word where two words have misled it; its exit code, None
    where they have not."""
    given = list(config.invocation_params.args)
    added = shlex.split(os.environ.get(_ADDOPTS, ""))

    def takes_value(option: str) -> bool:
        name = option.removeprefix("--").replace("-", "_")
        return not isinstance(getattr(config.option, name, False), bool)

    ours, ours_added = joined(given, takes_value), joined(added, takes_value)
    if not any(_is_path(config, word) for word in {*ours, *ours_added} - {*given, *added}):
        return None
    if ours_added != added:
        os.environ[_ADDOPTS] = shlex.join(ours_added)
    return int(pytest.main(ours, plugins=config.invocation_params.plugins))


def _is_path(config: pytest.Config, word: str) -> bool:
    """Whether the value of a joined option exists, so that pytest has looked for its root there."""
    option, equals, value = word.partition("=")
    if not (option.startswith(_PREFIX) and equals):
        return False
    try:
        return Path(config.invocation_params.dir, value.split("::")[0]).exists()
    except (OSError, ValueError):
        return False


def _lines(name: str) -> list[str] | None:
    try:
        return Path(name).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return None
