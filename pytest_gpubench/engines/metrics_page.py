"""The engine's ``/metrics`` page as frozen values; what it tells: the engine is idle, or hangs.

A hung engine keeps its process, its port and often its health.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from pytest_gpubench.model.failures import BenchmarkError, Failure

RUNNING = "vllm:num_requests_running"
WAITING = "vllm:num_requests_waiting"
STALE_S = 5.0
"""Seconds without any count after which the gauges of several API server processes are not
believed."""
_PROGRESS = (
    "vllm:generation_tokens_total",
    "vllm:prompt_tokens_total",
    "vllm:request_success_total",
)
SILENT = "silent-engine"


@dataclass(frozen=True, slots=True)
class Sample:
    """One line of the page."""

    name: str
    labels: tuple[tuple[str, str], ...]
    """Sorted by name."""
    value: float
    cumulative: bool
    """Of a counter, histogram or summary: only its differences mean something."""


@dataclass(frozen=True, slots=True)
class Scrape:
    """The page at one moment, or the difference of two."""

    samples: tuple[Sample, ...]

    def total(self, name: str) -> float | None:
        """The sum over all label sets (engines of a data-parallel server, say); None: the page has
        no such metric."""
        values = [sample.value for sample in self.samples if sample.name == name]
        return sum(values) if values else None

    def by_label(self, name: str, label: str) -> dict[str, float]:
        """The sums per value of a label, in the page's order; empty: no such metric, or it lacks
        the label."""
        sums: dict[str, float] = {}
        for sample in self.samples:
            value = dict(sample.labels).get(label)
            if sample.name == name and value is not None:
                sums[value] = sums.get(value, 0.0) + sample.value
        return sums

    def since(self, before: Scrape) -> Scrape:
        """What was counted between ``before`` and this scrape; gauges are left out, new label sets
        count from 0.

        Raises:
            ValueError: if a counter went backwards: the server was restarted in between.
        """
        old = {(sample.name, sample.labels): sample.value for sample in before.samples}
        changes = []
        for sample in self.samples:
            if not sample.cumulative:
                continue
            change = sample.value - old.get((sample.name, sample.labels), 0.0)
            if change < 0:
                raise ValueError(
                    f"{sample.name} went backwards by {-change:g}: the server was "
                    "restarted between the two scrapes"
                )
            changes.append(Sample(sample.name, sample.labels, change, True))
        return Scrape(tuple(changes))

    def vanished(self, before: Scrape) -> tuple[str, ...]:
        """Names of what ``before`` counted and this page does not show any more; counters never
        leave a page by themselves."""
        now = {(sample.name, sample.labels) for sample in self.samples}
        return tuple(
            dict.fromkeys(
                sample.name
                for sample in before.samples
                if _counts_work(sample) and (sample.name, sample.labels) not in now
            )
        )

    def nonsense(self) -> str:
        """The first of vLLM's counts on the page that is none: not finite, or negative; empty where
        all are."""
        for sample in self.samples:
            counted = _counts_work(sample) or sample.name in (RUNNING, WAITING)
            if counted and not (
                math.isfinite(sample.value) and (sample.value >= 0 or sample.name.endswith("_sum"))
            ):
                return f"{sample.name} is {sample.value:g}"
        return ""


def parse_metrics(text: str) -> Scrape:
    """Read a page in the Prometheus text format.

    Raises:
        ValueError: if it is not in that format.
    """
    samples = []
    for family in _families(text):
        cumulative = family.type in ("counter", "histogram", "summary")
        for sample in family.samples:
            labels = tuple(sorted(sample.labels.items()))
            samples.append(
                Sample(
                    sample.name,
                    labels,
                    float(sample.value),
                    cumulative and not sample.name.endswith("_created"),
                )
            )
    return Scrape(tuple(samples))


def _families(text: str) -> Iterator[Metric]:
    try:
        yield from text_string_to_metric_families(text)
    except (
        LookupError,
        TypeError,
        AttributeError,
    ) as error:  # the parser's own stumbling over other text
        raise ValueError(f"{type(error).__name__}: {error}") from error


def wait_idle(
    fetch: Callable[[], str],
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
        BenchmarkError: if the page is not vLLM's, or the engine is not idle in time.
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
        if nonsense := scrape.nonsense():
            summary = (
                f"/metrics is unreadable: {nonsense}, which is no count, so nobody can tell "
                "what the engine does"
            )
            raise BenchmarkError(Failure("metrics-unreadable", "engine", summary))
        running, waiting = scrape.total(RUNNING), scrape.total(WAITING)
        if _untouched(scrape):
            running, waiting = running or 0.0, waiting or 0.0
        if running is None or waiting is None:
            missing = RUNNING if running is None else WAITING
            summary = f"/metrics lacks {missing}, so nobody can tell whether the engine is idle"
            raise BenchmarkError(
                Failure(
                    "metrics-incomplete",
                    "engine",
                    summary,
                    remedy="The server must be vLLM with log stats on.",
                )
            )
        counted = tuple(scrape.total(name) for name in _PROGRESS)
        idle = running == 0 and waiting == 0
        if idle and counted == previous:
            return scrape
        previous = counted if idle else None
        latest = frozenset(
            (sample.name, sample.labels, sample.value)
            for sample in scrape.samples
            if _counts_work(sample)
        )
        if latest != counts:
            counts, moved = latest, time.monotonic()
        elif _several_processes(scrape) and time.monotonic() - moved >= stale:
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


def _counts_work(sample: Sample) -> bool:
    return sample.cumulative and sample.name.startswith("vllm:")


def _several_processes(scrape: Scrape) -> bool:
    """Whether the page was put together from several processes: prometheus_client leaves out there
    what describes only one."""
    return scrape.total("python_info") is None


def _untouched(scrape: Scrape) -> bool:
    """Whether a vLLM page says that no request has ended yet: then gauges may be missing, not only
    zero.

    With several API server processes (``--data-parallel-size``, ``--api-server-count``) a gauge is
    off the page until it is set.
    """
    counted = [scrape.total(name) for name in _PROGRESS]
    return any(value is not None for value in counted) and not any(counted)


class HangWatch:
    """Notices that no request ends and no token is counted any more.

    It costs nothing while requests end, and one scrape per quarter of the limit while none does.

    Args:
        scrape: returns the text of ``/metrics``, or raises BenchmarkError.
        limit: seconds of silence that are too many.
        open_loop: requests are due by a schedule, so that an engine may rightly be idle.
    """

    def __init__(
        self,
        scrape: Callable[[], str],
        limit: float,
        *,
        open_loop: bool = False,
        clock: Callable[[], float] = time.monotonic,
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
        if page.nonsense():  # NaN differs from itself: it would pass for a sign of life
            return None
        idle = self._open_loop and not page.total(RUNNING) and not page.total(WAITING)
        # An idle engine is given another moment each time: nothing may be due.
        return (self._clock(),) if idle else tuple(page.total(name) for name in _PROGRESS)
