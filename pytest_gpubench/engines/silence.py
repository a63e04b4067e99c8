"""Telling a busy engine from one that hangs while a load runs: a hung one keeps its process, its port and often its health."""

from __future__ import annotations

import time
from collections.abc import Callable

from pytest_gpubench.engines.metrics_page import RUNNING, WAITING, parse_metrics
from pytest_gpubench.model.failures import BenchmarkError, Failure

SILENT = "silent-engine"
_COUNTERS = ("vllm:generation_tokens_total", "vllm:prompt_tokens_total", "vllm:request_success_total")


class SilenceWatch:
    """Notices that no request ends and no token is counted any more.

    It costs nothing while requests end, and one scrape per quarter of the limit while none does.

    Args:
        scrape: returns the text of ``/metrics``, or raises BenchmarkError.
        limit: seconds of silence that are too many.
        open_loop: requests are due by a schedule, so that an engine may rightly be idle.
    """

    def __init__(
        self, scrape: Callable[[], str], limit: float, *, open_loop: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._scrape = scrape
        self._limit = limit
        self._open_loop = open_loop
        self._clock = clock
        self._done: int | None = None
        self._counted: tuple[float | None, ...] | None = None
        self._moved = self._looked = clock()

    def note(self, done: int | None) -> None:
        """So many requests are over; None while none is sent yet."""
        if done is None or done != self._done:
            self._done, self._moved = done, self._clock()

    def check(self) -> Failure | None:
        """None while there is a sign of life."""
        now = self._clock()
        if self._done is None or now - max(self._moved, self._looked) < self._limit / 4:
            return None
        counted = self._count()
        self._looked = now = self._clock()
        if counted is not None and counted != self._counted:
            self._counted, self._moved = counted, now
        if now - self._moved < self._limit:
            return None
        return Failure(
            SILENT,
            "engine",
            f"The engine hangs: no request ended and no token was made for {self._limit:g} s, though requests were in flight.",
            remedy="Read the engine's log from its last lines back; on a GPU look for a hung kernel or collective (py-spy dump).",
        )

    def _count(self) -> tuple[float | None, ...] | None:
        """What the engine has counted; None where it does not answer."""
        try:
            page = parse_metrics(self._scrape())
        except (BenchmarkError, ValueError):
            return None
        if page.nonsense():  # NaN differs from itself: it would pass for a sign of life
            return None
        idle = self._open_loop and not page.total(RUNNING) and not page.total(WAITING)
        # An idle engine is given another moment each time: nothing may be due.
        return (self._clock(),) if idle else tuple(page.total(name) for name in _COUNTERS)
