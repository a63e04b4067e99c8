"""Runs pytest, and again as long as every failure was of the class infrastructure. A verdict is never tried again."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytest_gpubench.report.records import RUN_FILE


def run_pytest(arguments: Sequence[str], results: Path, attempts: int) -> int:
    """The exit code of the last attempt.

    Args:
        arguments: of pytest, without ``--gpubench-results``.
        results: what an attempt has measured, the next one reuses.
        attempts: at most.
    """
    command = [sys.executable, "-m", "pytest", f"--gpubench-results={results}", *arguments]
    code = 0
    for attempt in range(max(1, attempts)):
        before = _ends(results)
        code = subprocess.run(command, check=False).returncode
        new = [end for path, end in _ends(results).items() if path not in before]
        if attempt + 1 == attempts or code != 1 or len(new) != 1 or not new[0].get("retryable"):
            return code
        print(
            f"gpubench: every failure was of the infrastructure: attempt {attempt + 2} of {attempts}", file=sys.stderr, flush=True
        )
        command = [*command, "--gpubench-reuse"] if "--gpubench-reuse" not in command else command
    return code


def _ends(results: Path) -> dict[Path, dict[str, Any]]:
    found: dict[Path, dict[str, Any]] = {}
    for path in results.glob(f"*/{RUN_FILE}"):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(data, dict):
            found[path] = data
    return found
