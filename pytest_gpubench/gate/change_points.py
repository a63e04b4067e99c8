"""Change points of a series: where its level moved for good. Pure; numpy alone.

A series is the logarithm of one metric, one value per run, since the launches of a run are
correlated. One value that stands alone is pulled in to its neighbours, whatever it is. Then the
piece whose mean differs most from that of the rest is found (circular binary segmentation: a
regression that was mended after a few runs is such a piece, as is everything from a regression on),
by Student's t with the spread unknown. It is believed where t is larger than in all but one in 200
series of normal noise that went through the same steps, and the pieces are searched in turn. At
last every change must hold against the spread that is left within all pieces, so that fewer series
than that have one.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pytest_gpubench.gate.statistics import SPREAD_FLOOR, Array

FALSE_ALARM = 0.005
"""Share of series of normal noise in which a piece looks like a change, before it is confirmed."""
MIN_RUNS = 6
"""Fewer do not tell a change from noise."""
MAX_RUNS = 1000
"""The newest are searched."""
LEAST = 2
"""Runs of a piece: one run is an odd one."""
REACH = 2
"""Neighbours on each side that a value is pulled in to."""
MARGIN = 0.25
"""How far beyond their range it may lie, as a share of that. With 0 steps are found later; with 0.5
one odd launch makes more than 1% of series look as if they had one."""

# Largest t of a piece against the rest in 1 - FALSE_ALARM of series of normal noise, by the number
# of runs: experiments/gate/change_points.py --constants.
_LIMITS: dict[int, float] = {
    6: 9.428,
    7: 10.204,
    8: 9.339,
    9: 8.892,
    10: 8.734,
    12: 8.237,
    14: 7.961,
    17: 7.617,
    20: 7.342,
    25: 7.017,
    30: 6.847,
    40: 6.576,
    50: 6.428,
    70: 6.271,
    100: 6.171,
    150: 6.136,
    200: 6.137,
    300: 6.172,
    500: 6.285,
    1000: 6.319,
}
_AT = np.array(sorted(_LIMITS))
_LIMIT = np.array([_LIMITS[count] for count in sorted(_LIMITS)])


@dataclass(frozen=True, slots=True)
class Change:
    """The level moved between two runs."""

    index: int
    """Of the first run at the new level."""
    before: float
    """Level on the log scale."""
    after: float

    @property
    def size(self) -> float:
        """As a share of the old level: 0.05 is 5% more."""
        return float(np.expm1(self.after - self.before))


def change_points(logs: Sequence[float] | Array) -> list[Change]:
    """Where the level of a series moved, oldest first.

    Args:
        logs: one value per run, oldest first, on the log scale.
    """
    given = np.asarray(logs, dtype=np.float64)
    skipped = max(0, len(given) - MAX_RUNS)
    values = pull_lone(given[skipped:])
    if len(values) < MIN_RUNS:
        return []
    found = _refined(values, _confirmed(values, _search(values, 0, len(values))))
    ends = [0, *found, len(values)]
    levels = [float(values[a:b].mean()) for a, b in itertools.pairwise(ends)]
    return [
        Change(skipped + index, before, after)
        for index, before, after in zip(found, levels, levels[1:], strict=False)
    ]


def pull_lone(values: Array) -> Array:
    """Each value within the range of its neighbours and a quarter of it beyond, two on each side
    (at an end the nearest four), along the last axis: one odd run cannot look like a level, and an
    edge stays where it is."""
    count = values.shape[-1]
    if count <= 2 * REACH:
        return values
    places = np.arange(count)
    first = np.clip(places - REACH, 0, count - 2 * REACH - 1)
    around = first[:, None] + np.arange(2 * REACH + 1)
    others = around[around != places[:, None]].reshape(count, 2 * REACH)
    near = values[..., others]
    low, high = near.min(axis=-1), near.max(axis=-1)
    beyond = MARGIN * (high - low)
    pulled: Array = np.clip(values, low - beyond, high + beyond)
    return pulled


def strongest(values: Array, floor: float = 0.0) -> tuple[Array, Array, Array]:
    """The piece that differs most from the rest, along the last axis: its t, its begin and its
    end. It, and what is left on each side of it, has no run or at least two."""
    count = values.shape[-1]
    centred = values - values.mean(axis=-1, keepdims=True)
    total = (centred**2).sum(axis=-1)
    sums = np.concatenate([np.zeros((*values.shape[:-1], 1)), centred.cumsum(axis=-1)], axis=-1)
    best = np.full(values.shape[:-1], -1.0)
    begin, end = np.zeros(best.shape, dtype=int), np.zeros(best.shape, dtype=int)
    for length in range(LEAST, count - LEAST + 1):
        at = np.arange(count - length + 1)
        at = at[(at != LEAST - 1) & (count - at - length != LEAST - 1)]
        if not len(at):
            continue
        between = (sums[..., at + length] - sums[..., at]) ** 2 * (
            count / (length * (count - length))
        )
        top = between.argmax(axis=-1)
        value = np.take_along_axis(between, top[..., None], axis=-1)[..., 0]
        better = value > best
        best = np.where(better, value, best)
        begin = np.where(better, at[top], begin)
        end = np.where(better, at[top] + length, end)
    spread = np.maximum((total - best) / (count - 2), max(floor, 1e-12) ** 2)
    return np.sqrt(np.maximum(best, 0) / spread), begin, end


def limit(runs: int) -> float:
    """The t from which on a piece of so many runs is believed to differ."""
    return float(np.interp(np.log(runs), np.log(_AT), _LIMIT))


def _search(values: Array, begin: int, end: int) -> list[int]:
    """Every change within a stretch, as it is found."""
    if end - begin < MIN_RUNS:
        return []
    t, left, right = strongest(values[begin:end], SPREAD_FLOOR)
    if float(t) < limit(end - begin):
        return []
    cuts = [begin + int(cut) for cut in (left, right) if 0 < cut < end - begin]
    ends = [begin, *cuts, end]
    inside = [cut for a, b in itertools.pairwise(ends) for cut in _search(values, a, b)]
    return sorted([*cuts, *inside])


def _confirmed(values: Array, found: list[int]) -> list[int]:
    """Those that hold against the spread within all pieces; the weakest goes first."""
    while found:
        ends = [0, *found, len(values)]
        pieces = [values[a:b] for a, b in itertools.pairwise(ends)]
        within = sum(float(((piece - piece.mean()) ** 2).sum()) for piece in pieces)
        spread = max((within / max(len(values) - len(pieces), 1)) ** 0.5, SPREAD_FLOOR)
        strengths = [
            abs(float(after.mean() - before.mean())) / (1 / len(before) + 1 / len(after)) ** 0.5
            for before, after in itertools.pairwise(pieces)
        ]
        weakest = int(np.argmin(strengths))
        if strengths[weakest] / spread >= limit(len(values)):
            return found
        found = found[:weakest] + found[weakest + 1 :]
    return found


def _refined(values: Array, found: list[int]) -> list[int]:
    """Each change where it fits best between its neighbours."""
    placed = list(found)
    for number, index in enumerate(found):
        begin = placed[number - 1] if number else 0
        end = found[number + 1] if number + 1 < len(found) else len(values)
        if index - begin < LEAST or end - index < LEAST:
            continue
        piece = values[begin:end] - values[begin:end].mean()
        cuts = np.arange(LEAST, len(piece) - LEAST + 1)
        sums = piece.cumsum()[cuts - 1]
        placed[number] = begin + int(cuts[np.argmax(sums**2 / (cuts * (len(piece) - cuts)))])
    return placed
