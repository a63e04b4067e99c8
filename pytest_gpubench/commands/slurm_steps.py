"""What runs inside a submission's jobs: fetch weights, run one task, merge. And pytest, again as
long as every failure was of the class infrastructure; a verdict is never tried again."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_gpubench.commands.submission import ended_of, read_manifest
from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.report.records import RUN_FILE, json_object, write_record

ATTEMPTS = 2
"""Of one task on one node, where every failure was of the infrastructure."""


def run(step: str, folder: Path) -> int:
    """Run a step and write down how it ended, also where a signal ends it."""
    # Slurm signals every process of a step; this one waits for pytest, which stops its server. A
    # handler, as pytest would inherit an ignored signal.
    signal.signal(signal.SIGTERM, lambda *_: None)
    restarts = _number("SLURM_RESTART_COUNT") or 0
    manifest = read_manifest(folder)
    if step != "task":
        code = _fetch(manifest) if step == "fetch" else _merge(folder, manifest)
        _note(folder, step, {"exit": code, "restarts": restarts})
        return code
    index = _number("SLURM_ARRAY_TASK_ID")
    if index is None or index >= len(manifest["include"]):
        raise GpubenchError(
            "slurm-step task: SLURM_ARRAY_TASK_ID names no entry of the manifest; "
            "submit with gpubench submit"
        )
    _note(folder, f"task-{index}", {"exit": None, "restarts": restarts})
    entry = manifest["include"][index]
    arguments = [
        *manifest["pytest"],
        "-m",
        entry["selection"],
        "--color=no",
        "-p",
        "no:cacheprovider",
    ]
    arguments += ["--gpubench-reuse"] if restarts else []
    code = run_pytest(arguments, folder / "results", ATTEMPTS)
    _note(folder, f"task-{index}", {"exit": code, "restarts": restarts})
    return code


def _number(name: str) -> int | None:
    text = os.environ.get(name, "")
    return int(text) if text.isdigit() else None


def _note(folder: Path, name: str, what: dict[str, Any]) -> None:
    write_record(folder / "steps" / f"{name}.json", {"kind": "task", **what})


def _fetch(manifest: dict[str, Any]) -> int:
    command = [sys.executable, "-m", "pytest_gpubench.cli", *fetch_arguments(manifest)]
    return subprocess.run(command, check=False).returncode


def fetch_arguments(manifest: Mapping[str, Any]) -> list[str]:
    """``gpubench fetch`` for all tasks of a submission: their servers have these names only under
    the same sharing policy, and their weights are looked for in the same cache."""
    arguments = [
        "fetch",
        *manifest["recipes"],
        "-m",
        " or ".join(entry["selection"] for entry in manifest["include"]),
    ]
    if manifest.get("server_per"):
        arguments += ["--server-per", manifest["server_per"]]
    given = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    given.add_argument("--gpubench-cache-dir")
    cache = given.parse_known_args(manifest["pytest"])[0].gpubench_cache_dir
    return [*arguments, "--cache-dir", cache] if cache else arguments


def _merge(folder: Path, manifest: dict[str, Any]) -> int:
    """The report, with what became of the tasks; the exit code is that of the verdicts."""
    (folder / "results").mkdir(exist_ok=True)
    ended = [ended_of(folder, f"task-{index}") for index in range(len(manifest["include"]))]
    matrix = folder / "merged-matrix.json"
    write_record(matrix, manifest | {"ended": told_of_tasks(manifest["include"], ended)})
    report = [
        sys.executable,
        "-m",
        "pytest_gpubench.cli",
        "report",
        str(folder / "results"),
        "--matrix",
        str(matrix),
    ]
    outputs = ["-o", str(folder / "report.html"), "--markdown", str(folder / "report.md")]
    return subprocess.run([*report, *outputs], check=False).returncode


def told_of_tasks(
    entries: Sequence[Mapping[str, Any]], ended: Sequence[Mapping[str, Any]]
) -> list[str]:
    """A sentence per task that did not run, did not end by itself, or began anew."""
    lines = []
    for index, (entry, end) in enumerate(zip(entries, ended, strict=True)):
        task = f"task {index} ({entry['name']})"
        if not end:
            lines.append(f"{task} never ran")
        elif end["exit"] is None:
            lines.append(f"{task} was killed before it could end")
        elif end["exit"] not in (0, 1, 10):
            how = (
                "it was interrupted, as by scancel or a time limit"
                if end["exit"] == 2
                else f"exit code {end['exit']}"
            )
            lines.append(f"{task} did not finish: {how}")
        if end.get("restarts"):
            lines.append(f"{task} was requeued and went on (restarts: {end['restarts']})")
    return lines


def run_pytest(arguments: Sequence[str], results: Path, attempts: int) -> int:
    """The exit code of the last attempt.

    Args:
        arguments: of pytest; a ``--gpubench-results`` among them is the folder.
        results: else the folder. What an attempt has measured, the next one reuses.
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
    found = {path: json_object(path) for path in results.glob(f"*/{RUN_FILE}")}
    return {path: end for path, end in found.items() if end is not None}
