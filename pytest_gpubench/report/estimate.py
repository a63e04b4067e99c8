"""How long a selection will take, from what the results folder knows of the same cases and servers;
never a guess without evidence.

The model: a start of a server takes what its last start took, a case what its last measurement took
from start to finish. A case without a record takes the mean of the known cases of its server. If
less than half of the cases or servers are known that way, the time is unknown.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pytest_gpubench.report.numbers import finite, seconds

_MOST_RUNS = 20
_MOST_FILES = 400
_MOST_BYTES = 8 * 2**20


@dataclass(frozen=True, slots=True)
class Wanted:
    """One planned launch of a server."""

    server: str
    workloads: tuple[str, ...]
    """Labels of the cases measured on it."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds, and on how much of the plan they rest."""

    seconds: float | None
    known: int = 0
    total: int = 0

    def __str__(self) -> str:
        if self.seconds is None:
            return "unknown: too few earlier results of these cases"
        part = "" if self.known == self.total else f" of {self.known} of {self.total} cases"
        return f"about {seconds(_rounded(self.seconds))}, from earlier results{part}"


def _rounded(value: float) -> float:
    step = next((step for below, step in ((100, 5), (7200, 60)) if value < below), 300)
    return max(step, round(value / step) * step)


def estimate(wanted: Sequence[Wanted], results: Path) -> Estimate:
    """Time for the planned launches, by the newest earlier records in a results folder."""
    total = sum(len(launch.workloads) for launch in wanted)
    memory = _Memory(results)
    if not total or not memory.runs:
        return Estimate(None, 0, total)
    spent, known, starts_known, with_times = 0.0, 0, 0, 0
    for launch in wanted:
        start = memory.seconds(launch.server, "init")
        found = {label: memory.seconds(launch.server, label) for label in launch.workloads}
        times = [time for time in found.values() if time is not None]
        known += len(times)
        starts_known += start is not None
        if not times:
            continue
        with_times += 1
        mean = statistics.fmean(times)
        spent += (start or 0.0) + sum(mean if time is None else time for time in found.values())
    if known * 2 < total or starts_known * 2 < len(wanted):
        return Estimate(None, known, total)
    # Servers of which nothing is known take what the others take.
    return Estimate(spent * len(wanted) / max(with_times, 1), known, total)


class _Memory:
    """The newest record of each case and start, read when asked for, each once."""

    def __init__(self, results: Path) -> None:
        self.runs = _newest_runs(results)
        self._read = 0
        self._known: dict[tuple[str, str], float | None] = {}

    def seconds(self, server: str, label: str) -> float | None:
        """From start to finish of the last measurement of a case; ``init``: of the last start."""
        key = server, label
        if key not in self._known:
            paths = (run / server / label / "launch-1.json" for run in self.runs)
            record = next(filter(None, map(self._record, paths)), {})
            self._known[key] = _ready(record) if label == "init" else _span(record)
        return self._known[key]

    def _record(self, path: Path) -> Mapping[str, Any]:
        if self._read >= _MOST_FILES:
            return {}
        try:
            if path.stat().st_size > _MOST_BYTES:
                return {}
            self._read += 1
            record = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        return record if isinstance(record, dict) and not record.get("failure") else {}


def _newest_runs(results: Path) -> list[Path]:
    try:
        runs = [path for path in results.iterdir() if path.is_dir()]
    except OSError:
        return []
    return sorted(runs, reverse=True)[:_MOST_RUNS]


def _span(record: Mapping[str, Any]) -> float | None:
    try:
        began, ended = (datetime.fromisoformat(record[name]) for name in ("started", "finished"))
        span = (ended - began).total_seconds()
    except (KeyError, TypeError, ValueError):
        return None
    return span if 0 < span < 1e6 else None


def _ready(record: Mapping[str, Any]) -> float | None:
    phases = record.get("phases")
    ready = finite(phases.get("ready")) if isinstance(phases, dict) else None
    return ready if ready is not None and 0 < ready < 1e6 else None
