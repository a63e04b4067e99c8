"""Where the time of a case, or of a start, goes: seconds by name, for its record."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from pytest_gpubench.load.protocol import RequestRecord
from pytest_gpubench.measure.compute import window_of


class Spans:
    """Adds up spans of time; what is timed twice under one name is summed."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seconds: dict[str, float] = {}

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Time the block, also where it raises."""
        begun = self._clock()
        try:
            yield
        finally:
            self.add(name, self._clock() - begun)

    def add(self, name: str, seconds: float) -> None:
        """Add what was timed elsewhere."""
        self._seconds[name] = self._seconds.get(name, 0.0) + max(0.0, seconds)

    def split(self, begun: float, marks: dict[str, float]) -> None:
        """Add the spans that end at these moments, the first of which began at ``begun``."""
        for name, moment in marks.items():
            self.add(name, moment - begun)
            begun = max(begun, moment)

    @property
    def seconds(self) -> dict[str, float]:
        """So far, to the millisecond."""
        return {name: round(value, 3) for name, value in self._seconds.items()}


def stages(records: Sequence[RequestRecord]) -> dict[str, float]:
    """When the stages of a load run ended that is over now, as ``time.monotonic``."""
    begun = min((record.due_ns for record in records), default=0) / 1e9
    first, last = (moment / 1e9 for moment in window_of(records))
    now = time.monotonic()
    if not last:  # the warm-up had failed
        return {"prompts": begun or now, "warmup": now}
    return {"prompts": begun, "warmup": first, "measured": last, "results": now}
