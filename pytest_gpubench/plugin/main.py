"""pytest started by the command line: a selection over the package's own suite."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_gpubench import suite
from pytest_gpubench.domain.failures import GpubenchError


def selection_plan(
    recipes: Sequence[Path], keyword: str | None = None, markexpr: str | None = None, server_per: str | None = None
) -> dict[str, Any]:
    """The plan of a selection; what pytest says goes to stderr.

    Raises:
        GpubenchError: where pytest could not collect; its own words are on stderr already.
    """
    with tempfile.TemporaryDirectory() as folder:
        plan = Path(folder, "plan.json")
        arguments = ["-q", "-q", "--no-header", "-p", "no:cacheprovider", "--rootdir", ".", f"--gpubench-plan={plan}"]
        arguments += [f"--gpubench-recipes={path}" for path in recipes]
        arguments += ["-k", keyword] if keyword else []
        arguments += ["-m", markexpr] if markexpr else []
        arguments += [f"--gpubench-server-per={server_per}"] if server_per else []
        with contextlib.redirect_stdout(sys.stderr):
            pytest.main([*arguments, str(suite.__file__)])
        if not plan.is_file():
            raise GpubenchError("no plan could be made: see pytest's words above")
        document: dict[str, Any] = json.loads(plan.read_text(encoding="utf-8"))
        return document
