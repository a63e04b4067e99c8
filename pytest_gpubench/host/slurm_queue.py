"""Slurm's commands: argument lists in, sentences out where they fail. Works without an accounting
database."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_gpubench.model.failures import GpubenchError

_TIMEOUT = 60.0


@dataclass(frozen=True, slots=True)
class JobState:
    """One job or one task of an array."""

    job: str
    """``12`` or ``12_3``."""
    state: str
    """Slurm's word: PENDING, RUNNING, COMPLETED, FAILED, CANCELLED, ..."""
    reason: str = ""
    restarts: int = 0


def sbatch(script: Path, arguments: Sequence[str] = ()) -> str:
    """Submit a script; the id of the job.

    Raises:
        GpubenchError: with Slurm's own words.
    """
    answer = _run(["sbatch", "--parsable", *arguments, str(script)])
    job = answer.strip().split(";")[0]
    if not job.isdigit():
        raise GpubenchError(f"sbatch answered {answer.strip()!r} instead of a job's number")
    return job


def cancel(jobs: Sequence[str]) -> None:
    """Cancel jobs; those that have ended stay as they are.

    Raises:
        GpubenchError: with Slurm's own words.
    """
    if jobs:
        _run(["scancel", *jobs])


def states(job: str) -> list[JobState]:
    """The job, or every task of it that the controller still remembers; empty once it has
    forgotten.

    Raises:
        GpubenchError: where Slurm does not answer.
    """
    try:
        text = _run(["scontrol", "--oneliner", "show", "job", job])
    except GpubenchError as error:
        if "Invalid job id" in str(error):
            return []
        raise
    return parse_states(text)


def parse_states(text: str) -> list[JobState]:
    """What ``scontrol --oneliner show job`` printed, one entry per task; waiting tasks share a line
    (``ArrayTaskId=0-3,7%2``)."""
    return [
        state
        for line in text.splitlines()
        if line.startswith("JobId=")
        for state in _states_of(line)
    ]


def _states_of(line: str) -> list[JobState]:
    fields = dict(re.findall(r"(?:^|\s)([A-Za-z:/_-]+)=(\S*)", line))
    array, task = fields.get("ArrayJobId"), fields.get("ArrayTaskId", "")
    names = (
        [f"{array}_{index}" for index in _indices(task)] if array and task else [fields["JobId"]]
    )
    restarts = fields.get("Restarts", "0")
    times = int(restarts) if restarts.isdigit() else 0
    return [
        JobState(name, fields.get("JobState", "UNKNOWN"), fields.get("Reason", ""), times)
        for name in names
    ]


def _indices(text: str) -> list[int]:
    indices: list[int] = []
    for part in text.partition("%")[0].split(","):
        first, _, last = part.partition("-")
        if first.isdigit() and (last or first).isdigit():
            indices += range(int(first), int(last or first) + 1)
    return indices


def _run(words: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=_TIMEOUT,
            check=False,
        )
    except FileNotFoundError:
        raise GpubenchError(
            f"{words[0]} is not on PATH: this host has no Slurm; submit from a login node"
        ) from None
    except subprocess.TimeoutExpired:
        raise GpubenchError(
            f"{words[0]} did not answer within {_TIMEOUT:.0f} s; see whether the Slurm "
            "controller runs"
        ) from None
    if done.returncode:
        raise GpubenchError(
            f"{words[0]} failed: {done.stderr.strip() or f'exit code {done.returncode}'}"
        )
    return done.stdout
