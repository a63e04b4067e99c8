"""What is shown of a baseline: level and spread, every launch of a metric, run by run where its
level moved. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pytest_gpubench.gate import statistics, wording
from pytest_gpubench.gate.baseline_key import differences
from pytest_gpubench.gate.baselines import MIN_LAUNCHES, Baseline, LaunchEntry
from pytest_gpubench.gate.change_points import MIN_RUNS, change_points
from pytest_gpubench.gate.policy import DEFAULTS
from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.grouping import grouped
from pytest_gpubench.model.metrics import METRICS
from pytest_gpubench.model.printing import listed

GATED = tuple(policy.metric for policy in DEFAULTS)
"""What is looked at unless a metric is named: each more is another chance of a false alarm."""
_CHANGES_SHOWN = 6


@dataclass(frozen=True, slots=True)
class RunPoint:
    """One run: its launches share hour and host, so together they are one value."""

    run: str
    date: str
    """Of its first launch, ISO 8601."""
    values: tuple[float, ...]
    """Of its launches, in the metric's unit."""
    axis: FrozenMap
    accepted: str = ""
    """Why the anchor of the metric begins here; empty where it does not."""

    @property
    def level(self) -> float:
        """Geometric mean of the launches."""
        return math.exp(sum(map(math.log, self.values)) / len(self.values))


@dataclass(frozen=True, slots=True)
class Moved:
    """A change of the level."""

    index: int
    """Of the first run at the new level."""
    before: float
    """Level in the metric's unit, geometric mean."""
    after: float
    runs_before: int
    """At the old level."""
    runs_after: int
    changed: tuple[str, ...]
    """What differs in the axis between the last run before and the first one after."""

    @property
    def size(self) -> float:
        """As a share of the old level."""
        return self.after / self.before - 1


@dataclass(frozen=True, slots=True)
class MetricHistory:
    """One metric of one case with one key, oldest run first."""

    case: str
    metric: str
    key: str
    """Digest."""
    device: str
    runs: tuple[RunPoint, ...]
    moves: tuple[Moved, ...]

    def word(self, move: Moved) -> str:
        """``worse`` or ``better``; ``more`` or ``less`` of what is neither."""
        words = {
            "higher": ("better", "worse"),
            "lower": ("worse", "better"),
            "neutral": ("more", "less"),
        }
        return words[METRICS[self.metric].direction][move.size < 0]

    def line(self, move: Moved) -> str:
        """A change in a sentence."""
        first = self.runs[move.index]
        sides = (
            f"{wording.quantity(self.metric, move.before)} in "
            f"{wording.count(move.runs_before, 'run')} before, "
            f"{wording.quantity(self.metric, move.after)} in "
            f"{wording.count(move.runs_after, 'run')} since"
        )
        why = listed(move.changed, _CHANGES_SHOWN) or "nothing that is recorded changed there"
        return (
            f"{wording.percent(move.size)} ({self.word(move)}) from {first.date[:16]}, run "
            f"{first.run}: {sides}; {why}"
        )


def metric_histories(baseline: Baseline, metrics: Sequence[str] = ()) -> list[MetricHistory]:
    """The histories of a case, the key with the newest launch last.

    Args:
        metrics: only these; those that are gated by default if empty.
    """
    newest = {entry.key: entry.date for entry in baseline.launches}  # ordered by date
    found = []
    for digest in sorted(newest, key=lambda name: newest[name]):
        key = baseline.keys[digest]
        if not isinstance(key, FrozenMap):
            continue
        entries = baseline.comparable(key)
        for metric in metrics or GATED:
            runs = _runs([entry for entry in entries if metric in entry.metrics], metric)
            if runs:
                device = str(key.get("device") or "")
                moves = _moves(runs)
                found.append(MetricHistory(baseline.case, metric, digest, device, runs, moves))
    return found


def change_lines(history: MetricHistory) -> Iterator[str]:
    """Every change of the level in a sentence; one where there is none, or too few runs to tell."""
    head = f"{history.metric}, key {history.key}"
    if len(history.runs) < MIN_RUNS:
        runs = wording.count(len(history.runs), "run")
        yield f"{head}: {runs}; change points take {MIN_RUNS}"
    elif not history.moves:
        yield f"{head}: no change point in {len(history.runs)} runs"
    for move in history.moves:
        yield f"{head}: change point: {history.line(move)}"


def _runs(entries: Sequence[LaunchEntry], metric: str) -> tuple[RunPoint, ...]:
    return tuple(
        RunPoint(
            run,
            own[0].date,
            tuple(
                float(value)
                for entry in own
                if isinstance(value := entry.metrics[metric], int | float)
            ),
            own[0].axis,
            next((str(entry.anchors[metric]) for entry in own if metric in entry.anchors), ""),
        )
        for run, own in grouped(entries, lambda entry: entry.run).items()
    )


def _moves(runs: Sequence[RunPoint]) -> tuple[Moved, ...]:
    logs = np.log([run.level for run in runs])
    found = change_points(logs)
    ends = [*(one.index for one in found), len(runs)]
    begins = [0, *ends]
    return tuple(
        Moved(
            one.index,
            math.exp(one.before),
            math.exp(one.after),
            one.index - begins[number],
            ends[number + 1] - one.index,
            _changed(runs[one.index - 1].axis, runs[one.index].axis),
        )
        for number, one in enumerate(found)
    )


def _changed(before: FrozenMap, after: FrozenMap) -> tuple[str, ...]:
    """What differs, the commit of the repository last: it nearly always does."""
    found = differences(before, after)
    return tuple(sorted(found, key=lambda words: words.startswith("commit:")))


def show_lines(baseline: Baseline) -> Iterator[str]:
    """Per key what it is of; per metric level, spread and what 1 and 3 launches would find."""
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
