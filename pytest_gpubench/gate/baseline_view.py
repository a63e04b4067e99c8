"""What ``gpubench baseline`` shows of a baseline, and what it takes from the records of a run.
Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pytest_gpubench.gate import statistics, wording
from pytest_gpubench.gate.baselines import MIN_LAUNCHES, Baseline, LaunchEntry
from pytest_gpubench.gate.policy import DEFAULTS
from pytest_gpubench.gate.recording import entries_of, launch_of, subject_of
from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.metrics import METRICS


def show_lines(baseline: Baseline) -> Iterator[str]:
    """Per key: what it is of, and per metric level, spread and what one and three launches would
    find; newest key last."""
    yield f"{baseline.case}: {wording.count(len(baseline.launches), 'launch')}"
    newest = {
        name: max((one.date for one in baseline.launches if one.key == name), default="")
        for name in baseline.keys
    }
    for name in sorted(newest, key=lambda name: newest[name]):
        key = baseline.keys[name]
        if not isinstance(key, FrozenMap):
            continue
        entries = baseline.comparable(key)
        yield (
            f"  key {name}: {key.get('device', '')}, "
            f"{wording.count(len(entries), 'launch')}, newest {newest[name][:10]}"
        )
        yield from (f"    {line}" for line in _metric_lines(baseline, key, entries))


def _metric_lines(
    baseline: Baseline, key: FrozenMap, entries: Sequence[LaunchEntry]
) -> Iterator[str]:
    gated = [
        policy for policy in DEFAULTS if any(policy.metric in entry.metrics for entry in entries)
    ]
    for policy in gated:
        history = baseline.history(key, policy.metric)
        level = float(np.exp(np.mean(np.log(history.window))))
        line = (
            f"{policy.metric}: {wording.quantity(policy.metric, level)} over "
            f"{wording.count(len(history.window), 'launch')}"
        )
        if len(history.window) < MIN_LAUNCHES:
            yield f"{line}; a spread takes {MIN_LAUNCHES}"
            continue
        logs = np.log(np.asarray(history.window))
        estimate = statistics.against_baseline(logs, logs.mean()[None])
        limit = policy.log_limit(level)
        found = [
            wording.size(float(np.expm1(estimate.with_launches(count).detectable(limit))))
            for count in (1, 3)
        ]
        spread = wording.size(float(estimate.spread))
        yield (
            f"{line} on {wording.count(history.days, 'day')}, spread {spread}; 1 launch "
            f"finds {found[0]} worse, 3 find {found[1]}"
        )


def history_lines(baseline: Baseline, metric: str) -> Iterator[str]:
    """One line per launch: date, value, change since the first of its key, engine, where an anchor
    begins.

    Raises:
        GpubenchError: if no launch has the metric.
    """
    if metric not in METRICS or not any(metric in entry.metrics for entry in baseline.launches):
        known = sorted({name for entry in baseline.launches for name in entry.metrics})
        raise GpubenchError(
            f"the baseline of {baseline.case} has no metric {metric}; it has "
            f"{', '.join(known) or 'none'}"
        )
    first: dict[str, float] = {}
    for entry in baseline.launches:
        value = entry.metrics.get(metric)
        if not isinstance(value, int | float):
            continue
        change = wording.percent(value / first.setdefault(entry.key, value) - 1)
        mark = f"  anchor: {entry.anchors[metric]}" if metric in entry.anchors else ""
        engine = entry.axis.get("engine") or "?"
        yield (
            f"{entry.date[:16]}  {wording.quantity(metric, value)}  {change}  engine "
            f"{engine}  {entry.id}  key {entry.key}{mark}"
        )


def accepted_entries(
    run: str,
    records: Sequence[Mapping[str, Any]],
    metrics: Sequence[str] | None = None,
    note: str = "",
) -> tuple[str, FrozenMap, tuple[LaunchEntry, ...]]:
    """Case, key and entries of a case's records in one run, as the new anchor of what failed in
    them (or of ``metrics``).

    Args:
        run: name of the run's folder.
        records: plain JSON data of ``launch-*.json``, in the order of the launches.

    Raises:
        GpubenchError: if a record is of a failed case, of another case, or was written without its
            key.
    """
    if not records:
        raise GpubenchError(
            f"the run {run} has no record of this case; name a results folder that has"
        )
    case, gate = subject_of(records[-1]), records[-1].get("gate") or {}
    key = gate.get("key")
    for record in records:
        own = (record.get("gate") or {}).get("key")
        if subject_of(record) != case or not own or own != key:
            raise GpubenchError(
                f"the records of run {run} are not of one case with one key; accept one "
                "case at a time"
            )
    verdict = records[-1].get("verdict") or {}
    failed = [
        one["metric"]
        for one in verdict.get("metrics", ())
        if one["code"] in ("regressed", "drifted", "straddles", "too-noisy")
    ]
    anchors = dict.fromkeys(metrics or failed, f"accepted: {note}" if note else "accepted")
    launches = [launch_of(record) for record in records]
    axis = FrozenMap(gate.get("axis") or {})
    return case, FrozenMap(key), entries_of(run, launches, axis, anchors)
