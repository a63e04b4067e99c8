"""Who is sent when: closed loop (an answer makes room for the next request) and open loop (a schedule decides)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pytest_gpubench.load.pool import Pool
from pytest_gpubench.load.stopping import StopRule
from pytest_gpubench.load.timing import Alarm
from pytest_gpubench.load.transport import MAX_ANSWER, Exchange

_WATCH_INTERVAL = 0.25


@dataclass(frozen=True, slots=True)
class Job:
    """One request to be sent."""

    wire: bytes
    due_ns: int | None = None
    """Open loop: nanoseconds after the start; None: as soon as there is room."""
    follows: bool = False
    """The next turn of the job before it: sent when that has ended and the think time has passed."""
    measured: bool = True
    most_bytes: int = MAX_ANSWER
    """An answer that is longer fails."""


@dataclass(slots=True)
class Driver:
    """Sends jobs over open connections, one run after another; failures are in the exchanges, never raised."""

    root: str
    concurrency: int
    connect_timeout: float
    read_timeout: float
    think_time: float = 0.0
    on_end: Callable[[Exchange], None] = lambda exchange: None  # noqa: ARG005
    """Told of every exchange that is over; called in the measuring loop, so it must be cheap."""
    on_progress: Callable[[int, int], None] = lambda done, total: None  # noqa: ARG005
    first_measured_ns: int | None = None
    """Due time of the first measured request."""
    _pool: Pool = field(init=False)
    _jobs: Sequence[Job] = ()
    _heads: Sequence[int] = ()
    _next: int = 0
    _open: int = 0
    """Conversations that have begun and not ended."""
    _start_ns: int = 0
    _exchanges: list[Exchange] = field(default_factory=list)
    _stop: StopRule = field(default_factory=StopRule)
    _finished: asyncio.Future[None] | None = None
    _alarm: Alarm | None = None

    def __post_init__(self) -> None:
        self._pool = Pool(self.root, self.connect_timeout, self.read_timeout, self._ended)

    async def open(self) -> None:
        """Connect beforehand.

        Raises:
            OSError: if the server takes no connection.
        """
        await self._pool.open(self.concurrency)

    async def run(
        self, jobs: Sequence[Job], *, start_ns: int = 0, ramp: float = 0.0, stop: StopRule | None = None
    ) -> list[Exchange]:
        """Send all jobs, or until ``stop`` says so, and wait for the last answer.

        Args:
            jobs: all with a due time (open loop) or all without (closed loop), the turns of a conversation one after another.
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
        self._jobs, self._heads = jobs, [number for number, job in enumerate(jobs) if not job.follows]
        self._exchanges, self._next, self._open, self._stop = [], 0, 0, stop or StopRule()
        self._finished = asyncio.get_running_loop().create_future()
        await asyncio.sleep(max(0.0, (start_ns - time.monotonic_ns()) / 1e9 - 0.001))
        while time.monotonic_ns() < start_ns:
            pass
        watch = asyncio.get_running_loop().create_task(self._watch())
        self._start_ns = time.monotonic_ns()
        try:
            if jobs[0].due_ns is None:
                self._start_slots(ramp)
            else:
                self._alarm = Alarm(self._send_due)
                self._alarm.at(self._start_ns + jobs[0].due_ns)
            await self._finished
        finally:
            watch.cancel()
            if self._alarm is not None:
                self._alarm.close()
                self._alarm = None
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
        """The next conversation of the closed loop, if there is one."""
        if self._next < len(self._heads) and not self._stopped(due_ns):
            head = self._heads[self._next]
            self._next += 1
            self._open += 1
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
                if self._alarm is not None:
                    self._alarm.at(due_ns)
                return
            self._next += 1
            self._open += 1
            self._begin(head, due_ns)

    def _begin(self, number: int, due_ns: int) -> None:
        job = self._jobs[number]
        if job.measured and self.first_measured_ns is None:
            self.first_measured_ns = due_ns
        self._pool.send(Exchange(number, due_ns, most_bytes=job.most_bytes), job.wire)

    def _stopped(self, now_ns: int) -> bool:
        return self.first_measured_ns is not None and self._stop.reached(now_ns - self.first_measured_ns)

    def _ended(self, exchange: Exchange, now_ns: int) -> None:
        self._exchanges.append(exchange)
        if self._jobs[exchange.number].measured:
            self._stop.note(exchange)
        self.on_end(exchange)
        following = exchange.number + 1
        if following < len(self._jobs) and self._jobs[following].follows and not self._stopped(now_ns):
            if self.think_time:
                asyncio.get_running_loop().call_later(self.think_time, lambda: self._begin(following, time.monotonic_ns()))
            else:
                self._begin(following, now_ns)
            return
        self._open -= 1
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
