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
    with tempfile.TemporaryDirectory() as folder:
        plan = Path(folder, "plan.json")
        arguments = ["-q", "-q", "--no-header", "-p", "no:cacheprovider", f"--gpubench-plan={plan}"]
        arguments += [f"--gpubench-recipes={path}" for path in recipes]
        arguments += ["-k", keyword] if keyword else []
        arguments += ["-m", markexpr] if markexpr else []
        arguments += [f"--gpubench-server-per={server_per}"] if server_per else []
        # In a process of its own: pytest rewrites assertions, which this process has imported already.
        subprocess.run([sys.executable, "-m", "pytest", *arguments, "--pyargs", _SUITE], stdout=sys.stderr, check=False)
        if not plan.is_file():
            raise GpubenchError("no plan could be made: see pytest's words above")
        document: dict[str, Any] = json.loads(plan.read_text(encoding="utf-8"))
        return document
