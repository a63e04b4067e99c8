"""Baselines as data: append-only launches of a case; anchor and window follow from them. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pytest_gpubench.gate.baseline_key import differences, key_digest
from pytest_gpubench.model.frozen import FrozenMap

WINDOW = 20
"""Launches that a comparison looks back on."""
ANCHOR = 8
"""Launches of the fixed anchor: the first ones since the last accepted change of a metric."""
MIN_LAUNCHES = 5
"""Fewer do not show their own spread."""


@dataclass(frozen=True, slots=True)
class LaunchEntry:
    """One recorded launch."""

    run: str
    """Name of the run's folder: unique."""
    launch: str
    date: str
    """ISO 8601, UTC."""
    key: str
    """Digest of its key."""
    metrics: FrozenMap
    requests: int = 0
    axis: FrozenMap = field(default_factory=FrozenMap)
    anchors: FrozenMap = field(default_factory=FrozenMap)
    """Metrics whose anchor begins anew here, and why: ``improved``, or ``accepted`` and a note."""
    answers: str = ""
    """Of an evaluation: which questions were answered right (``accuracy_verdicts``)."""
    rounds: int = 1
    """Of which the metrics are means."""
    noise: FrozenMap = field(default_factory=FrozenMap)
    """Metric to the standard deviation of its logarithm between the rounds."""

    @property
    def id(self) -> str:
        return f"{self.run}/{self.launch}"


@dataclass(frozen=True, slots=True)
class History:
    """What a baseline says about one metric: values of launches, oldest first."""

    window: tuple[float, ...] = ()
    anchor: tuple[float, ...] = ()
    """Empty while the window has not outgrown it."""
    earlier: tuple[float, ...] = ()
    """Before the last accepted change; used for the spread only, where the window is short."""
    dates: tuple[str, ...] = ()
    """Of the window."""
    axis: FrozenMap = field(default_factory=FrozenMap)
    """Of the newest launch."""
    rounds: tuple[tuple[int, float | None], ...] = ()
    """Of the window: how many rounds a launch's value is the mean of, and the standard deviation of
    the logarithm between them."""
    anchor_rounds: tuple[tuple[int, float | None], ...] = ()
    """The same of the anchor."""

    @property
    def enough(self) -> bool:
        """Whether level and spread are known."""
        return len(self.window) >= MIN_LAUNCHES or (
            bool(self.window) and len(self.earlier) >= MIN_LAUNCHES
        )

    @property
    def days(self) -> int:
        """Calendar days (UTC) that the window spans."""
        return len({date[:10] for date in self.dates})


@dataclass(frozen=True, slots=True)
class Baseline:
    """All recorded launches of one case, of every key it ever had."""

    case: str
    keys: FrozenMap = field(default_factory=FrozenMap)
    """Digest to key."""
    launches: tuple[LaunchEntry, ...] = ()

    def comparable(self, key: FrozenMap) -> tuple[LaunchEntry, ...]:
        """Launches with this key, oldest first."""
        return self.of_digest(key_digest(key))

    def of_digest(self, digest: str) -> tuple[LaunchEntry, ...]:
        """Launches with the key of this digest, oldest first."""
        return tuple(sorted((one for one in self.launches if one.key == digest), key=_when))

    def mismatch(self, key: FrozenMap) -> tuple[str, ...]:
        """Fields in which the key differs from the newest; empty where launches with it exist."""
        if not self.launches or self.comparable(key):
            return ()
        before = self.keys[max(self.launches, key=_when).key]
        return differences(before, key) if isinstance(before, FrozenMap) else ()

    def history(self, key: FrozenMap, metric: str) -> History:
        """Window, anchor and earlier launches of a metric."""
        entries = [entry for entry in self.comparable(key) if metric in entry.metrics]
        begins = _begins(entries, metric)
        era, past = entries[begins:], entries[:begins]
        window = era[-WINDOW:]
        anchor = era[:ANCHOR] if len(era) > ANCHOR else []
        earlier = past[_begins(past, metric) :][-WINDOW:] if len(window) < MIN_LAUNCHES else []
        return History(
            window=_values(window, metric),
            anchor=_values(anchor, metric),
            earlier=_values(earlier, metric),
            dates=tuple(entry.date for entry in window),
            axis=window[-1].axis if window else FrozenMap(),
            rounds=_rounds(window, metric),
            anchor_rounds=_rounds(anchor, metric),
        )


def _when(entry: LaunchEntry) -> tuple[str, str]:
    return entry.date, entry.id


def _begins(entries: Sequence[LaunchEntry], metric: str) -> int:
    """Index of the launch with which the anchor of a metric begins."""
    return max((index for index, entry in enumerate(entries) if metric in entry.anchors), default=0)


def _rounds(entries: Iterable[LaunchEntry], metric: str) -> tuple[tuple[int, float | None], ...]:
    noises = [(entry.rounds, entry.noise.get(metric)) for entry in entries]
    return tuple(
        (rounds, float(noise) if isinstance(noise, int | float) else None)
        for rounds, noise in noises
    )


def append(baseline: Baseline, key: FrozenMap, entries: Iterable[LaunchEntry]) -> Baseline:
    """The baseline with more launches; those that it has stay: a retry changes nothing."""
    known = {(entry.key, entry.id) for entry in baseline.launches}
    digest = key_digest(key)
    new = [
        replace(
            entry,
            key=digest,
            metrics=FrozenMap({name: _number(value) for name, value in entry.metrics.items()}),
        )
        for entry in entries
        if (digest, entry.id) not in known
    ]
    if not new:
        return baseline
    launches = tuple(sorted((*baseline.launches, *new), key=_when))
    return replace(baseline, keys=FrozenMap({**baseline.keys, digest: key}), launches=launches)


def mark(entries: Iterable[LaunchEntry], metrics: Mapping[str, str]) -> tuple[LaunchEntry, ...]:
    """The entries of one run, the first the new anchor of these metrics (metric to reason)."""
    marked = tuple(entries)
    if not marked or not metrics:
        return marked
    return (replace(marked[0], anchors=FrozenMap({**marked[0].anchors, **metrics})), *marked[1:])


def prune(baseline: Baseline, keep: int = WINDOW) -> Baseline:
    """Only what verdicts still need: of each key the newest ``keep`` launches (at least a window)
    and every launch of an anchor."""
    keep = max(keep, WINDOW)
    needed: set[tuple[str, str]] = set()
    for digest in baseline.keys:
        mine = baseline.of_digest(digest)
        needed |= {(digest, entry.id) for entry in mine[-keep:]}
        for metric in {name for entry in mine for name in entry.metrics}:
            with_metric = [entry for entry in mine if metric in entry.metrics]
            begins = _begins(with_metric, metric)
            short = len(with_metric) - begins < MIN_LAUNCHES
            first = max(0, begins - WINDOW) if short else begins
            needed |= {(digest, entry.id) for entry in with_metric[first : begins + ANCHOR]}
    launches = tuple(entry for entry in baseline.launches if (entry.key, entry.id) in needed)
    keys = {entry.key: baseline.keys[entry.key] for entry in launches}
    return replace(baseline, launches=launches, keys=FrozenMap(keys))


def _values(entries: Iterable[LaunchEntry], metric: str) -> tuple[float, ...]:
    return tuple(_number(entry.metrics[metric]) for entry in entries)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
