"""pytest started by the command line: a selection over the package's own suite."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytest_gpubench.model.failures import CommandError

_SUITE = "pytest_gpubench.suite"
_NOTHING_SELECTED = 5
_COUNT_OF_ITEMS = re.compile(r"\S*: \d+")
"""How pytest lists what it collected where it is told to be quiet twice; it says nothing to a
person."""


def selection_plan(
    recipes: Sequence[Path],
    keyword: str | None = None,
    markexpr: str | None = None,
    server_per: str | None = None,
) -> dict[str, Any]:
    """The plan of a selection; what pytest says goes to stderr.

    Raises:
        CommandError: where pytest refuses or selects nothing, with its exit code; its own words
            are on stderr already.
    """
    return _collected("plan", recipes, keyword, markexpr, server_per)


def selection_matrix(
    recipes: Sequence[Path],
    keyword: str | None = None,
    markexpr: str | None = None,
    server_per: str | None = None,
    more: Sequence[str] = (),
) -> dict[str, Any]:
    """The matrix of a selection, as ``selection_plan``.

    Args:
        more: further arguments of pytest, for instance ``--gpubench-launches=3``.
    """
    return _collected("matrix", recipes, keyword, markexpr, server_per, more)


def _collected(
    option: str,
    recipes: Sequence[Path],
    keyword: str | None,
    markexpr: str | None,
    server_per: str | None,
    more: Sequence[str] = (),
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"{option}.json")
        arguments = ["-q", "-q", "--no-header", "-p", "no:cacheprovider"]
        arguments += [f"--gpubench-{option}={path}", *more]
        arguments += [f"--gpubench-recipes={recipe}" for recipe in recipes]
        arguments += [f"-k={keyword}"] if keyword else []
        arguments += [f"-m={markexpr}"] if markexpr else []
        arguments += [f"--gpubench-server-per={server_per}"] if server_per else []
        _run_pytest(option, [*arguments, "--pyargs", _SUITE])
        try:
            document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            words = f"no {option} could be made: see pytest's words above"
            raise CommandError(words, 4) from None
        return document


def _run_pytest(option: str, arguments: Sequence[str]) -> None:
    # In a process of its own: pytest rewrites assertions, which this process has imported already.
    command = [sys.executable, "-m", "pytest", *arguments]
    done = subprocess.run(command, capture_output=True, check=False)
    said = [*_lines(done.stdout), *_lines(done.stderr)]
    print(*said, sep="\n", end="\n" if said else "", file=sys.stderr, flush=True)
    if done.returncode == _NOTHING_SELECTED:
        words = (
            f"no {option}: the selection matches no case; gpubench plan without -k and -m lists all"
        )
        raise CommandError(words, _NOTHING_SELECTED)
    if done.returncode:
        # A signal's number is negative; a shell says 128 and the number.
        code = done.returncode if done.returncode > 0 else 128 - done.returncode
        raise CommandError(f"no {option} could be made: see pytest's words above", code)


def _lines(output: bytes) -> list[str]:
    lines = output.decode("utf-8", "replace").splitlines()
    return [line for line in lines if line and not _COUNT_OF_ITEMS.fullmatch(line)]
