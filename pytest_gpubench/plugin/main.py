"""pytest started by the command line: a selection over the package's own suite."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytest_gpubench.domain.failures import GpubenchError

_SUITE = "pytest_gpubench.suite"


def selection_plan(
    recipes: Sequence[Path], keyword: str | None = None, markexpr: str | None = None, server_per: str | None = None
) -> dict[str, Any]:
    """The plan of a selection; what pytest says goes to stderr.

    Raises:
        GpubenchError: where pytest could not collect; its own words are on stderr already.
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
        arguments = ["-q", "-q", "--no-header", "-p", "no:cacheprovider", f"--gpubench-{option}={path}", *more]
        arguments += [f"--gpubench-recipes={recipe}" for recipe in recipes]
        arguments += ["-k", keyword] if keyword else []
        arguments += ["-m", markexpr] if markexpr else []
        arguments += [f"--gpubench-server-per={server_per}"] if server_per else []
        # In a process of its own: pytest rewrites assertions, which this process has imported already.
        subprocess.run([sys.executable, "-m", "pytest", *arguments, "--pyargs", _SUITE], stdout=sys.stderr, check=False)
        if not path.is_file():
            raise GpubenchError(f"no {option} could be made: see pytest's words above")
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return document
