"""Submits two CPU-engine servers to a real Slurm, cancels one task and requeues the other, and
checks what the merge says.

    experiments/slurm/cluster.sh start
    python experiments/slurm/prove.py FOLDER

The task that measures first is cancelled (``scancel``) after its first case, the other is requeued
(``scontrol requeue``) after its first case. Expected: the cancelled server's other cases have not
reported, the requeued one has all cases and none measured twice, and the exit code is 10. Takes
about six minutes, of which two are Slurm's delay after a requeue.
"""

from __future__ import annotations

import collections
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pytest_gpubench.report.read_results import load_results

SERVERS = ("tiny-bf16-cpu-vllm-tp1", "tiny-bf16-cpu-vllm-mtp-ngram-tp1")
LIMIT_S = 1200.0
_T = TypeVar("_T")


def main() -> int:
    """Run it; the exit code is 0 where everything was as expected."""
    folder = Path(sys.argv[1]).resolve()
    gpubench = [sys.executable, "-m", "pytest_gpubench.cli"]
    selection = " or ".join(f"gpubench(server='{server}')" for server in SERVERS)
    subprocess.run(
        [*gpubench, "submit", "--slurm", "-m", selection, "--results", str(folder)], check=True
    )
    manifest = json.loads((folder / "manifest.json").read_text())
    array = manifest["jobs"]["tasks-0"]
    first = _wait(lambda: next((server for server in SERVERS if _measured(folder, server)), None))
    other = next(server for server in SERVERS if server != first)
    _act(["scancel", f"{array}_{_index(manifest, first)}"])
    _wait(lambda: _measured(folder, other))
    _act(["scontrol", "requeue", f"{array}_{_index(manifest, other)}"])
    subprocess.run([*gpubench, "status", str(folder)], check=True)
    _wait(lambda: (folder / "steps" / "merge.json").is_file())
    subprocess.run([*gpubench, "status", str(folder)], check=True)
    print((folder / "logs" / "merge.log").read_text())
    code = json.loads((folder / "steps" / "merge.json").read_text())["exit"]
    measured = collections.Counter(
        case.case
        for case in load_results([folder / "results"]).cases()
        if case.measurement and not case.reused_from
    )
    twice = [case for case, count in measured.items() if count > 1]
    missing = [
        case for entry in manifest["include"] for case in entry["cases"] if case not in measured
    ]
    print(f"exit code of the merge {code}; measured twice: {twice}; not measured: {missing}")
    return (
        0
        if code == 10
        and not twice
        and missing
        and all(case.startswith(f"{first}:") for case in missing)
        else 1
    )


def _measured(folder: Path, server: str) -> bool:
    return any((folder / "results").glob(f"*/{server}/*-c*/launch-1.json"))


def _index(manifest: dict[str, Any], server: str) -> int:
    return next(
        index for index, entry in enumerate(manifest["include"]) if server in entry["servers"]
    )


def _act(command: list[str]) -> None:
    print(" ".join(command), flush=True)
    subprocess.run(command, check=True)


def _wait(condition: Callable[[], _T | None]) -> _T:
    until = time.monotonic() + LIMIT_S
    while not (found := condition()):
        if time.monotonic() > until:
            raise SystemExit("it took too long")
        time.sleep(0.3)
    return found


if __name__ == "__main__":
    sys.exit(main())
