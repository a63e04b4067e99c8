"""What an engine's ``/metrics`` page tells while it works: it is idle, or it hangs.

A hung engine keeps its process, its port and often its health.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from pytest_gpubench.dialects.counters import Counters
from pytest_gpubench.dialects.metrics_page import Scrape, counts_work, parse_metrics
from pytest_gpubench.model.failures import BenchmarkError, Failure

STALE_S = 5.0
"""Seconds without any count after which the gauges of several API server processes are not
believed."""
SILENT = "silent-engine"
IDLE_TIMEOUT_S = 60.0
"""For an engine to be idle before and after it is measured."""
SILENCE_TIMEOUT_S = 240.0
"""Without an ended request and without a token, while requests are in flight."""


def wait_idle(
    fetch: Callable[[], str],
    counters: Counters,
    timeout: float = 30.0,
    *,
    interval: float = 0.1,
    stale: float = STALE_S,
) -> Scrape:
    """Wait until no request runs or waits and the token counters of two scrapes agree; the second
    of them is returned.

    ``fetch`` returns the text of ``/metrics``; what it raises passes through. Times are in seconds.

    Several API server processes share a page that shows the value told last to any of them, and one
    that is behind is told last of a time when requests still ran: such a gauge stays above zero for
    good. There an engine that has counted nothing for ``stale`` seconds is idle, whatever the
    gauges say.

    Raises:
        BenchmarkError: if the page is not the engine's, or the engine is not idle in time.
    """
    limit = time.monotonic() + timeout
    previous: tuple[float | None, ...] | None = None
    counts, moved = None, time.monotonic()
    while True:
        try:
            scrape = parse_metrics(fetch())
        except ValueError as error:
            raise BenchmarkError(
                Failure(
                    "metrics-unreadable",
                    "engine",
                    f"/metrics is not in Prometheus text format: {error}",
                )
            ) from error
        if nonsense := scrape.nonsense(counters):
            summary = (
                f"/metrics is unreadable: {nonsense}, which is no count, so nobody can tell "
                "what the engine does"
            )
            raise BenchmarkError(Failure("metrics-unreadable", "engine", summary))
        running, waiting = scrape.total(counters.running), scrape.total(counters.waiting)
        if _untouched(scrape, counters):
            running, waiting = running or 0.0, waiting or 0.0
        if running is None or waiting is None:
            missing = counters.running if running is None else counters.waiting
            summary = f"/metrics lacks {missing}, so nobody can tell whether the engine is idle"
            raise BenchmarkError(
                Failure(
                    "metrics-incomplete",
                    "engine",
                    summary,
                    remedy="Switch the engine's statistics on; it must be the recipe's engine.",
                )
            )
        counted = tuple(scrape.total(name) for name in counters.progress)
        idle = running == 0 and waiting == 0
        if idle and counted == previous:
            return scrape
        previous = counted if idle else None
        latest = frozenset(
            (sample.name, sample.labels, sample.value)
            for sample in scrape.samples
            if counts_work(sample, counters)
        )
        if latest != counts:
            counts, moved = latest, time.monotonic()
        elif _gauges_lie(scrape, counters) and time.monotonic() - moved >= stale:
            return scrape
        if time.monotonic() > limit:
            summary = (
                f"the engine is not idle after {timeout:g} s: {running:g} requests running, "
                f"{waiting:g} waiting"
            )
            raise BenchmarkError(
                Failure(
                    "server-not-idle",
                    "engine",
                    summary,
                    remedy="Another client may be using the server.",
                )
            )
        time.sleep(interval)


def _gauges_lie(scrape: Scrape, counters: Counters) -> bool:
    """Whether the page was put together from several processes: prometheus_client leaves out there
    what describes only one."""
    return counters.stale_gauges and scrape.total("python_info") is None


def _untouched(scrape: Scrape, counters: Counters) -> bool:
    """Whether a page says that no request has ended yet: then gauges may be missing, not only
    zero.

    With several API server processes a gauge is off the page until it is set.
    """
    counted = [scrape.total(name) for name in counters.progress]
    return any(value is not None for value in counted) and not any(counted)


class HangWatch:
    """Notices that no request ends and no token is counted any more.

    It costs nothing while requests end, and one scrape per quarter of the limit while none does.

    Args:
        scrape: returns the text of ``/metrics``, or raises BenchmarkError.
        limit: seconds of silence that are too many.
        counters: the engine's names for what is counted.
        open_loop: requests are due by a schedule, so that an engine may rightly be idle.
    """

    def __init__(
        self,
        scrape: Callable[[], str],
        limit: float,
        counters: Counters,
        *,
        open_loop: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._scrape = scrape
        self._limit = limit
        self._counters = counters
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
            "The engine hangs: no request ended and no token was made for "
            f"{self._limit:g} s, though requests were in flight.",
            remedy=(
                "Read the engine's log from its last lines back; on a GPU look for a hung "
                "kernel or collective (py-spy dump)."
            ),
        )

    def _count(self) -> tuple[float | None, ...] | None:
        """What the engine has counted; None where it does not answer."""
        try:
            page = parse_metrics(self._scrape())
        except (BenchmarkError, ValueError):
            return None
        names = self._counters
        if page.nonsense(names):  # NaN differs from itself: it would pass for a sign of life
            return None
        idle = self._open_loop and not any(map(page.total, (names.running, names.waiting)))
        # An idle engine is given another moment each time: nothing may be due.
        return (self._clock(),) if idle else tuple(map(page.total, names.progress))
