"""When a run has enough: after a time, or with a narrow confidence interval. Cheap enough for the measuring loop."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field

from pytest_gpubench.load.protocol import StopReason
from pytest_gpubench.load.transport import Exchange

_MIN_BATCHES = 10
_T = 2.262
"""Student's t at 97.5% with 9 degrees of freedom: right for ten batches, cautious for more."""


@dataclass(slots=True)
class StopRule:
    """Told of every measured exchange that ended, asked before another is sent.

    The interval is that of batch means: a batch is as many requests as are in flight together, since those are not independent.
    For the rule alone TTFT is taken at the first read with an event and TPOT over the asked output tokens; throughput and goodput
    follow from the end-to-end time, which is the closed loop's own law (requests in flight = throughput x time).
    """

    duration: float | None = None
    interval: float | None = None
    metric: str = "output_tput"
    batch: int = 1
    output_tokens: tuple[int, ...] = ()
    """Asked output tokens by job."""
    reason: StopReason = "count"
    _part: list[float] = field(default_factory=list)
    _means: list[float] = field(default_factory=list)
    _narrow: bool = False

    def note(self, exchange: Exchange) -> None:
        """An exchange has ended; failed ones say nothing."""
        if self.interval is None or self._narrow or exchange.error or exchange.end_ns is None:
            return
        self._part.append(self._value(exchange, exchange.end_ns))
        if len(self._part) < self.batch:
            return
        self._means.append(statistics.fmean(self._part))
        self._part.clear()
        half = half_width(self._means)
        self._narrow = half is not None and half <= self.interval

    def reached(self, elapsed_ns: int) -> bool:
        """Whether no request should be sent any more, ``elapsed_ns`` after the first measured one was due."""
        if self.reason == "count":
            if self._narrow:
                self.reason = "interval"
            elif self.duration is not None and elapsed_ns >= self.duration * 1e9:
                self.reason = "duration"
        return self.reason != "count"

    def _value(self, exchange: Exchange, end_ns: int) -> float:
        if not self.metric.startswith(("ttft", "tpot", "icl", "itl", "interactivity")):
            return (end_ns - exchange.due_ns) / 1e9
        first_ns = next((stamp for stamp, data in exchange.reads if b"data:" in data), end_ns)
        if self.metric.startswith("ttft"):
            return (first_ns - exchange.due_ns) / 1e9
        return (end_ns - first_ns) / 1e9 / max(1, self.output_tokens[exchange.number] - 1)


def half_width(means: list[float]) -> float | None:
    """Half the 95% confidence interval of the batches' mean, relative to it; None for too few batches to say."""
    middle = statistics.fmean(means) if means else 0.0
    if len(means) < _MIN_BATCHES or middle <= 0:
        return None
    return _T * statistics.stdev(means) / math.sqrt(len(means)) / middle
