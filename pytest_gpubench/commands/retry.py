"""Runs pytest, and again as long as every failure was of the class infrastructure. A verdict is
never tried again."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.report.records import RUN_FILE


def run_pytest(arguments: Sequence[str], results: Path, attempts: int) -> int:
    """The exit code of the last attempt.

    Args:
        arguments: of pytest; a ``--gpubench-results`` among them is the folder.
        results: else the folder. What an attempt has measured, the next one reuses.
        attempts: at most.
    """
    given, arguments = _own_results(arguments)
    results = given or results
    command = [sys.executable, "-m", "pytest", f"--gpubench-results={results}", *arguments]
    code = 0
    for attempt in range(max(1, attempts)):
        before = _ends(results)
        code = subprocess.run(command, check=False).returncode
        new = [end for path, end in _ends(results).items() if path not in before]
        if attempt + 1 == attempts or code != 1 or len(new) != 1 or not new[0].get("retryable"):
            return code
        print(
            f"gpubench: every failure was of the infrastructure: attempt {attempt + 2} "
            f"of {attempts}",
            file=sys.stderr,
            flush=True,
        )
        command = [*command, "--gpubench-reuse"] if "--gpubench-reuse" not in command else command
    return code


def _own_results(arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The results folder that pytest's arguments name, and the other arguments."""
    given = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    given.add_argument("--gpubench-results", type=Path)
    try:
        known, rest = given.parse_known_args(list(arguments))
    except argparse.ArgumentError as error:
        raise GpubenchError(f"retry: {error}") from None
    return known.gpubench_results, rest


def _ends(results: Path) -> dict[Path, dict[str, Any]]:
    found: dict[Path, dict[str, Any]] = {}
    for path in results.glob(f"*/{RUN_FILE}"):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(data, dict):
            found[path] = data
    return found
