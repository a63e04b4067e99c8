"""A run in the schema of pytest-benchmark's JSON, for its own tools and for those that read it.

Durations only: these tools take every value for seconds, and their ``ops`` (1 / mean) for the rate
of which more is better. The throughput is therefore exported as seconds per output token, so that
its ``ops`` is tokens per second. One sample per launch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pytest_gpubench.model.verdicts import Status
from pytest_gpubench.report.results import CaseResult, InitResult, Run

Sample = tuple[Path, float]
"""Where it is recorded, and its value in seconds."""

_AT_THE_TOP = ("host", "versions", "git")
"""What all records of a run share: it is in ``machine_info`` and ``commit_info``."""


def pytest_benchmark_document(
    run: Run, whole: Callable[[Path], Mapping[str, Any]], project: str = ""
) -> dict[str, Any] | None:
    """The document, or None where the run measured nothing.

    What failed or is INVALID is left out, as pytest-benchmark leaves out what raised. The second
    engine of an A/B run has entries of its own.

    Args:
        whole: the full record of a path, ``read_results.read_whole``.
        project: name of the repository, for ``commit_info``.
    """
    import pytest_benchmark

    groups = dict(_groups(run))
    if not groups:
        return None
    records = {path: whole(path) for samples in groups.values() for path, _ in samples}
    first = next(
        (record for record in records.values() if record.get("git")), next(iter(records.values()))
    )
    return {
        "machine_info": _machine(
            first, sorted({str(record.get("hardware") or "") for record in records.values()} - {""})
        ),
        "commit_info": _commit(first, project),
        "benchmarks": [
            _entry(metric, subject, samples, records)
            for (metric, subject), samples in groups.items()
        ],
        "datetime": datetime.now(UTC).isoformat(),
        "version": pytest_benchmark.__version__,
    }


def _groups(run: Run) -> Iterator[tuple[tuple[str, str], list[Sample]]]:
    """Samples by metric and subject (case or server, with the arm), launches in order."""
    found: dict[tuple[str, str], list[Sample]] = {}
    results: list[CaseResult | InitResult] = [*run.cases, *run.inits]
    for result in sorted(results, key=lambda one: (one.launch.arm, one.launch.index)):
        subject = result.case if isinstance(result, CaseResult) else result.server
        arm = f":{result.launch.arm}" if result.launch.arm else ""
        for metric, seconds in _durations(result).items():
            if seconds > 0:
                found.setdefault((metric, subject + arm), []).append((result.path, seconds))
    yield from sorted(found.items(), key=lambda entry: entry[0][1])


def _durations(result: CaseResult | InitResult) -> dict[str, float]:
    """In seconds; 0 where there is none."""
    if result.failure is not None:
        return {}
    if isinstance(result, InitResult):
        return {"engine_init": result.phases.get("ready", 0.0)}
    if result.status is Status.INVALID:
        return {}
    rate = result.metrics.get("output_tput", 0.0)
    medians = {name: result.metrics.get(name, 0.0) for name in ("ttft_p50", "tpot_p50")}
    return {"seconds_per_output_token": 1 / rate if rate > 0 else 0.0, **medians}


def _entry(
    metric: str, subject: str, samples: list[Sample], records: Mapping[Path, Mapping[str, Any]]
) -> dict[str, Any]:
    from pytest_benchmark.stats import Stats

    stats: Any = Stats()  # type: ignore[no-untyped-call]
    for _, seconds in samples:
        stats.update(seconds)
    own = [
        {name: part for name, part in records[path].items() if name not in _AT_THE_TOP}
        for path, _ in samples
    ]
    return {
        "group": metric,
        "name": f"{metric}[{subject}]",
        "fullname": f"gpubench::{metric}[{subject}]",
        "params": {"case": subject},
        "param": subject,
        "extra_info": {
            "gpubench": {"metric": metric, "unit": "s", "sample": "one launch", "launches": own}
        },
        "options": {},
        "stats": {**stats.as_dict(), "data": list(stats.data), "iterations": 1},
    }


def _machine(record: Mapping[str, Any], hardware: list[str]) -> dict[str, Any]:
    """The keys of pytest-benchmark that we know of, and what it does not have: the accelerators."""
    host: Mapping[str, Any] = record.get("host") or {}
    cpu: Mapping[str, Any] = host.get("cpu") or {}
    return {
        "node": host.get("hostname"),
        "machine": host.get("machine"),
        "system": host.get("os"),
        "release": host.get("kernel"),
        "python_version": host.get("python"),
        "cpu": {"brand_raw": cpu.get("model"), "count": cpu.get("threads")},
        "hardware": hardware,
        "gpus": [gpu.get("name") for gpu in host.get("gpus") or ()],
        "driver": host.get("driver"),
        "gpubench": host,
        "versions": record.get("versions") or {},
    }


def _commit(record: Mapping[str, Any], project: str) -> dict[str, Any]:
    git: Mapping[str, Any] = record.get("git") or {}
    return {
        "id": git.get("commit") or "unversioned",
        "time": git.get("time"),
        "author_time": git.get("time"),
        "dirty": bool(git.get("dirty")),
        "project": project,
        "branch": git.get("branch") or "(unknown)",
    }
