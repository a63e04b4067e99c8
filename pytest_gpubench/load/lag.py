"""How late the measuring process is: a kernel timer on its own event loop, and the CPU time at each of its beats."""

from __future__ import annotations

import random
import statistics
import time
from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass

from pytest_gpubench.load.timing import Alarm

_SHORTEST_NS = 5_000_000
_LONGEST_NS = 15_000_000
"""Between beats, at random: a regular beat would always, or never, meet the bursts of a regular server."""


@dataclass(frozen=True, slots=True)
class LagSummary:
    """Over a window, in seconds."""

    mean: float = 0.0
    p99: float = 0.0
    worst: float = 0.0
    samples: int = 0
    cpu: float = 0.0
    """CPU seconds of the process, threads included."""


class LagProbe:
    """Beats about 100 times a second while it is open; each beat costs some microseconds."""

    def __init__(self) -> None:
        self._stamps, self._lags, self._cpu = array("q"), array("q"), array("q")
        self._random = random.Random(0)  # noqa: S311  # reproducible, not secret
        self._alarm = Alarm(self._beat)

    def start(self) -> None:
        """Take the first beat now."""
        self._note(0)
        self._order()

    def stop(self) -> None:
        """Take the last beat now."""
        self._alarm.close()
        self._note(0)

    def summary(self, start_ns: int, end_ns: int) -> LagSummary:
        """Of the beats within the window."""
        first, last = bisect_left(self._stamps, start_ns), bisect_right(self._stamps, end_ns)
        lags = sorted(self._lags[first:last])
        if not lags:
            return LagSummary()
        # CPU from beat to beat, stretched to the window's edges
        low, high = max(0, first - 1), min(len(self._stamps) - 1, last)
        span = self._stamps[high] - self._stamps[low]
        share = (self._cpu[high] - self._cpu[low]) / span if span > 0 else 0.0
        p99 = lags[max(0, min(len(lags) - 3, int(0.99 * len(lags))))]  # of few beats the third worst: one is chance
        return LagSummary(statistics.fmean(lags) / 1e9, p99 / 1e9, lags[-1] / 1e9, len(lags), share * (end_ns - start_ns) / 1e9)

    def _beat(self, when_ns: int) -> None:
        self._note(max(0, time.monotonic_ns() - when_ns))
        self._order()

    def _order(self) -> None:
        self._alarm.at(time.monotonic_ns() + self._random.randint(_SHORTEST_NS, _LONGEST_NS))

    def _note(self, lag_ns: int) -> None:
        self._stamps.append(time.monotonic_ns())
        self._lags.append(lag_ns)
        self._cpu.append(time.process_time_ns())
