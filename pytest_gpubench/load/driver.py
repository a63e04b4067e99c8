"""Who is sent when: closed loop (an answer makes room for the next request), open loop (a schedule
decides), and when it is enough.

Schedules are pure: the same workload gives the same one.
"""

from __future__ import annotations

import asyncio
import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pytest_gpubench.load.protocol import Phase, StopReason
from pytest_gpubench.load.timing import TimerFd
from pytest_gpubench.load.transport import MAX_ANSWER, Exchange, Pool
from pytest_gpubench.model.workload import Workload

_MIN_BATCHES = 10
_T = 2.262
"""Student's t at 97.5% with 9 degrees of freedom: right for ten batches, cautious for more."""
_WATCH_INTERVAL = 0.25


@dataclass(slots=True)
class StopRule:
    """Told of every measured exchange that ended, asked before another is sent.

    The interval is that of batch means: a batch is as many requests as are in flight together,
    since those are not independent. For the rule alone TTFT is taken at the first read with an
    event and TPOT over the asked output tokens; throughput and goodput follow from the end-to-end
    time, which is the closed loop's own law (requests in flight = throughput x time).
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
        """Whether no request should be sent any more, ``elapsed_ns`` after the first measured one
        was due."""
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
    """Half the 95% confidence interval of the batches' mean, relative to it; None for too few
    batches to say."""
    if len(means) < _MIN_BATCHES:
        return None
    middle = statistics.fmean(means)
    if middle <= 0:
        return None
    return _T * statistics.stdev(means) / math.sqrt(len(means)) / middle


@dataclass(frozen=True, slots=True)
class Job:
    """One request to be sent."""

    wire: bytes
    due_ns: int | None = None
    """Open loop: nanoseconds after the start; None: as soon as there is room."""
    after: tuple[int, ...] = ()
    """Numbers of earlier jobs, all of which must have ended before; empty: it begins a session."""
    pause_ns: int = 0
    """From the end of the last of these until it is due."""
    needs_answer: bool = False
    """Whether it is left out where one of these has failed."""
    measured: bool = True
    most_bytes: int = MAX_ANSWER
    """An answer that is longer fails."""


@dataclass(slots=True)
class Driver:
    """Sends jobs over open connections, one run after another; failures are in the exchanges, never
    raised."""

    root: str
    concurrency: int
    connect_timeout: float
    read_timeout: float
    reuse: bool = True
    """Whether a connection serves one request after another; else each has its own."""
    on_end: Callable[[Exchange], None] = lambda exchange: None  # noqa: ARG005
    """Told of every exchange that is over; called in the measuring loop, so it must be cheap."""
    on_progress: Callable[[int, int], None] = lambda done, total: None  # noqa: ARG005
    first_measured_ns: int | None = None
    """Due time of the first measured request."""
    _pool: Pool = field(init=False)
    _jobs: Sequence[Job] = ()
    _heads: Sequence[int] = ()
    _next: int = 0
    _open: dict[int, int] = field(default_factory=dict)
    """Of each session that has begun and not ended, by its first job: jobs that are sent, or wait
    for their pause. What it has beside these can never be sent once none of them is left."""
    _roots: Sequence[int] = ()
    """The first job of each job's session."""
    _followers: dict[int, list[int]] = field(default_factory=dict)
    _unmet: list[int] = field(default_factory=list)
    """Of each job, those before it that have not ended."""
    _start_ns: int = 0
    _exchanges: list[Exchange] = field(default_factory=list)
    _stop: StopRule = field(default_factory=StopRule)
    _finished: asyncio.Future[None] | None = None
    _timer: TimerFd | None = None

    def __post_init__(self) -> None:
        self._pool = Pool(
            self.root, self.connect_timeout, self.read_timeout, self._ended, self.reuse
        )

    async def open(self) -> None:
        """Connect beforehand.

        Raises:
            OSError: if the server takes no connection.
        """
        await self._pool.open(self.concurrency)

    async def run(
        self,
        jobs: Sequence[Job],
        *,
        start_ns: int = 0,
        ramp: float = 0.0,
        stop: StopRule | None = None,
    ) -> list[Exchange]:
        """Send all jobs, or until ``stop`` says so, and wait for the last answer.

        Args:
            jobs: all with a due time (open loop) or all without (closed loop), each behind those
                that it comes after.
            start_ns: when to start (``monotonic_ns``); past: at once.
            ramp: seconds over which the closed loop's slots start.
            stop: told of every end, asked before every start.

        Returns:
            The exchanges of the jobs that were begun, in the order of the jobs.

        Raises:
            OSError: if the server takes no connection before the start.
        """
        if not jobs:
            return []
        await self.open()
        self._jobs = jobs
        self._heads = [number for number, job in enumerate(jobs) if not job.after]
        self._roots, self._followers = sessions_of(jobs)
        self._unmet = [len(job.after) for job in jobs]
        self._exchanges, self._next, self._open, self._stop = [], 0, {}, stop or StopRule()
        self._finished = asyncio.get_running_loop().create_future()
        await asyncio.sleep(max(0.0, (start_ns - time.monotonic_ns()) / 1e9 - 0.001))
        # The rest is waited for by looking: sleeping would end late by as much as the kernel likes,
        # in each worker by another.
        while time.monotonic_ns() < start_ns:
            pass
        watch = asyncio.get_running_loop().create_task(self._watch())
        self._start_ns = time.monotonic_ns()
        try:
            if jobs[0].due_ns is None:
                self._start_slots(ramp)
            else:
                self._timer = TimerFd(self._send_due)
                self._timer.at(self._start_ns + jobs[0].due_ns)
            await self._finished
        finally:
            watch.cancel()
            if self._timer is not None:
                self._timer.close()
                self._timer = None
        return sorted(self._exchanges, key=lambda exchange: exchange.number)

    def close(self) -> None:
        """Drop the connections."""
        self._pool.close()

    def _start_slots(self, ramp: float) -> None:
        slots = min(self.concurrency, len(self._heads))
        for slot in range(slots):
            if ramp and slot:
                asyncio.get_running_loop().call_later(ramp * slot / slots, self._start_slot_late)
            else:
                self._begin_next(self._start_ns)

    def _start_slot_late(self) -> None:
        if self._finished is not None and not self._finished.done():
            self._begin_next(time.monotonic_ns())

    def _begin_next(self, due_ns: int) -> None:
        """The next session of the closed loop, if there is one."""
        if self._next < len(self._heads) and not self._stopped(due_ns):
            head = self._heads[self._next]
            self._next += 1
            self._open[head] = 1
            self._begin(head, due_ns)

    def _send_due(self, _when_ns: int) -> None:
        """Everything of the schedule that is due by now."""
        while self._next < len(self._heads):
            head = self._heads[self._next]
            due_ns = self._start_ns + (self._jobs[head].due_ns or 0)
            if self._stopped(due_ns):
                self._finish_if_idle()
                return
            if due_ns > time.monotonic_ns():
                if self._timer is not None:
                    self._timer.at(due_ns)
                return
            self._next += 1
            self._open[head] = 1
            self._begin(head, due_ns)

    def _begin(self, number: int, due_ns: int) -> None:
        job = self._jobs[number]
        if job.measured and self.first_measured_ns is None:
            self.first_measured_ns = due_ns
        self._pool.send(Exchange(number, due_ns, most_bytes=job.most_bytes), job.wire)

    def _stopped(self, now_ns: int) -> bool:
        return self.first_measured_ns is not None and self._stop.reached(
            now_ns - self.first_measured_ns
        )

    def _ended(self, exchange: Exchange, now_ns: int) -> None:
        self._exchanges.append(exchange)
        if self._jobs[exchange.number].measured:
            self._stop.note(exchange)
        answered = looks_answered(exchange)  # before its bytes are given away
        self.on_end(exchange)
        root = self._roots[exchange.number]
        for follower in self._followers.get(exchange.number, ()):
            job = self._jobs[follower]
            if job.needs_answer and not answered:
                continue
            self._unmet[follower] -= 1
            if not self._unmet[follower] and not self._stopped(now_ns):
                self._open[root] += 1
                self._begin_after(follower, now_ns + job.pause_ns, now_ns)
        self._less(root, now_ns)

    def _begin_after(self, number: int, due_ns: int, now_ns: int) -> None:
        if due_ns <= now_ns:
            self._begin(number, due_ns)
        else:
            asyncio.get_running_loop().call_later(
                (due_ns - now_ns) / 1e9, self._pause_over, number, due_ns
            )

    def _pause_over(self, number: int, due_ns: int) -> None:
        now_ns = time.monotonic_ns()
        if self._stopped(now_ns):
            self._less(self._roots[number], now_ns)
        else:
            # Loops round to their clock's milliseconds: nothing is due after it was sent.
            self._begin(number, min(due_ns, now_ns))

    def _less(self, root: int, now_ns: int) -> None:
        """One job of a session is over; with the last of them the session is."""
        self._open[root] -= 1
        if self._open[root]:
            return
        del self._open[root]
        if self._jobs[0].due_ns is None:
            self._begin_next(now_ns)
        self._finish_if_idle()

    def _finish_if_idle(self) -> None:
        more = self._next < len(self._heads) and not self._stopped(time.monotonic_ns())
        if not self._open and not more and self._finished is not None and not self._finished.done():
            self._finished.set_result(None)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(min(_WATCH_INTERVAL, self.read_timeout / 4))
            self._pool.fail_silent()
            self.on_progress(len(self._exchanges), len(self._jobs))


def looks_answered(exchange: Exchange) -> bool:
    """Whether an exchange seems to have gone well, by its first and last read alone: what else is
    wrong with it is found when it is parsed."""
    if exchange.error or not exchange.reads:
        return False
    status, last = exchange.reads[0][1][:12], exchange.reads[-1][1]
    return status.endswith(b" 200") and b'{"error"' not in last


def sessions_of(jobs: Sequence[Job]) -> tuple[list[int], dict[int, list[int]]]:
    """The first job of each job's session, and the jobs that come after each."""
    roots: list[int] = []
    followers: dict[int, list[int]] = {}
    for number, job in enumerate(jobs):
        roots.append(roots[job.after[0]] if job.after else number)
        for before in job.after:
            followers.setdefault(before, []).append(number)
    return roots, followers


def due_offsets(workload: Workload, phase: Phase, number: int) -> list[float]:
    """Seconds after the start at which each of ``number`` arrivals is due, by the workload's rate
    and distribution.

    The schedule of poisson and gamma is scaled so that its mean rate is exactly the one asked for:
    otherwise two seeds would ask for different loads. A ramp is not applied here (``ramped``).

    Raises:
        ValueError: for a closed loop or a trace, which have no rate.
    """
    if workload.arrival not in ("constant", "poisson", "gamma"):
        raise ValueError(f"arrival {workload.arrival!r} has no rate")
    gap = 1 / workload.request_rate
    if workload.arrival == "constant" or number < 2:
        return [index * gap for index in range(number)]
    shape = workload.burstiness if workload.arrival == "gamma" else 1.0
    rng = random.Random(f"{workload.seed}/{phase}/arrivals")  # noqa: S311  # reproducible, not secret
    offsets = [0.0]
    for _ in range(number - 1):
        offsets.append(offsets[-1] + rng.gammavariate(shape, gap / shape))
    scale = (number - 1) * gap / offsets[-1] if offsets[-1] > 0 else 1.0
    return [offset * scale for offset in offsets]


def ramped(offset: float, ramp: float) -> float:
    """The time at which an arrival of a steady schedule is due if the rate grows linearly from 0
    over ``ramp`` seconds.

    The n-th arrival keeps its number: where the steady schedule would have sent n requests by
    ``offset``, the growing one has sent as many by the result. After the ramp it is the steady
    schedule, ``ramp / 2`` later.
    """
    if offset < ramp / 2:
        return math.sqrt(2 * ramp * offset)
    return offset + ramp / 2
