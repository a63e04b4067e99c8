"""The closed loop: C slots, each sends its next request the moment the one before has ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pytest_gpubench.load.transport import Exchange, Slot, open_connection

_WATCH_INTERVAL = 0.25
_CONNECT_BURST = 64
_IDLE_LIMIT_NS = 2_000_000_000
"""uvicorn drops idle connections after 5 s; older ones are reopened before a phase so that none dies under a request."""


@dataclass(slots=True)
class ClosedLoop:
    """Slots with open connections, used for one phase after another."""

    root: str
    concurrency: int
    connect_timeout: float
    read_timeout: float
    on_progress: Callable[[int, int], None] = lambda done, total: None  # noqa: ARG005
    _slots: list[Slot] = field(default_factory=list)
    _wires: Sequence[bytes] = ()
    _exchanges: list[Exchange] = field(default_factory=list)
    _next: int = 0
    _done: int = 0
    _finished: asyncio.Future[None] | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def open(self) -> None:
        """Connect every slot that has no fresh connection.

        Raises:
            OSError: if the server does not take a connection.
        """
        now = time.monotonic_ns()
        for slot in self._slots:
            if now - slot.active_ns > _IDLE_LIMIT_NS:
                slot.close()
        self._slots = [slot for slot in self._slots if slot.connected]
        missing = self.concurrency - len(self._slots)
        while missing > 0:  # in parts: listen backlogs are finite
            fresh = [Slot(self._ended) for _ in range(min(missing, _CONNECT_BURST))]
            await asyncio.gather(*(open_connection(self.root, slot, self.connect_timeout) for slot in fresh))
            self._slots += fresh
            missing -= len(fresh)

    async def run(self, wires: Sequence[bytes]) -> list[Exchange]:
        """Send all requests at the concurrency and wait for the last one; failures are in the exchanges, never raised.

        Raises:
            OSError: if the slots cannot be connected before the start.
        """
        if not wires:
            return []
        await self.open()
        loop = asyncio.get_running_loop()
        self._wires, self._exchanges, self._next, self._done = wires, [], 0, 0
        self._finished = loop.create_future()
        watch = loop.create_task(self._watch())
        try:
            start = time.monotonic_ns()
            for slot in self._slots[: len(wires)]:
                self._send_next(slot, start)
            await self._finished
        finally:
            watch.cancel()
        return sorted(self._exchanges, key=lambda exchange: exchange.number)

    def close(self) -> None:
        for slot in self._slots:
            slot.close()

    def _send_next(self, slot: Slot, due_ns: int) -> None:
        if self._next >= len(self._wires):
            return
        exchange = Exchange(self._next, due_ns)
        self._next += 1
        if slot.connected:
            slot.begin(exchange, self._wires[exchange.number])
        else:
            fresh = self._slots[self._slots.index(slot)] = Slot(self._ended)
            task = asyncio.get_running_loop().create_task(self._connect_and_begin(fresh, exchange))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connect_and_begin(self, slot: Slot, exchange: Exchange) -> None:
        try:
            await open_connection(self.root, slot, self.connect_timeout)
        except OSError as error:
            exchange.end_ns = time.monotonic_ns()
            exchange.error = f"no connection: {error or type(error).__name__}"
            self._ended(slot, exchange, exchange.end_ns)
        else:
            slot.begin(exchange, self._wires[exchange.number])

    def _ended(self, slot: Slot, exchange: Exchange, now: int) -> None:
        self._exchanges.append(exchange)
        self._done += 1
        self._send_next(slot, now)
        if self._done == len(self._wires) and self._finished is not None and not self._finished.done():
            self._finished.set_result(None)

    async def _watch(self) -> None:
        limit = int(self.read_timeout * 1e9)
        while True:
            await asyncio.sleep(min(_WATCH_INTERVAL, self.read_timeout / 4))
            now = time.monotonic_ns()
            for slot in self._slots:
                if slot.exchange is not None and now - slot.active_ns > limit:
                    slot.fail(f"stalled: no data for {self.read_timeout:g} s")
            self.on_progress(self._done, len(self._wires))
