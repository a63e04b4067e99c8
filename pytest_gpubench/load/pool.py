"""Open connections: made before the clock starts, lent to one exchange at a time, watched for silence."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pytest_gpubench.load.transport import Exchange, Slot, open_connection

_CONNECT_BURST = 64
_SILENCE_NS = 1_000_000_000
_IDLE_LIMIT_NS = 2_000_000_000
"""uvicorn drops idle connections after 5 s; older ones are not used any more, so that none dies under a request."""


@dataclass(slots=True)
class Pool:
    """Connections to one server; ``on_end`` is told of every exchange that is over, well or badly."""

    root: str
    connect_timeout: float
    read_timeout: float
    on_end: Callable[[Exchange, int], None]
    _idle: list[Slot] = field(default_factory=list)
    _busy: set[Slot] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def open(self, number: int) -> None:
        """Have so many fresh idle connections.

        Raises:
            OSError: if the server does not take one.
        """
        fresh = [slot for slot in self._idle if _usable(slot)]
        for slot in self._idle:
            if slot not in fresh:
                slot.close()
        self._idle = fresh
        while len(self._idle) < number:  # in parts: listen backlogs are finite
            part = [Slot(self._ended) for _ in range(min(number - len(self._idle), _CONNECT_BURST))]
            await asyncio.gather(*(open_connection(self.root, slot, self.connect_timeout) for slot in part))
            self._idle += part

    def send(self, exchange: Exchange, wire: bytes) -> None:
        """Send on an idle connection; where there is none, on a new one, whose making counts as the request's time."""
        while self._idle:
            slot = self._idle.pop()
            if _usable(slot):
                self._busy.add(slot)
                slot.begin(exchange, wire)
                return
            slot.close()
        task = asyncio.get_running_loop().create_task(self._connect_and_send(exchange, wire))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def fail_silent(self) -> None:
        """Give up the exchanges that have been silent for ``read_timeout`` seconds, or whose answer is broken.

        Framing is looked at once in every silence of a second: an answer that broke it will never end, and looking at every read
        would cost the measuring loop.
        """
        now = time.monotonic_ns()
        for slot in [slot for slot in self._busy if slot.unchecked_ns(now) > _SILENCE_NS]:
            if fault := slot.check_framing():
                slot.fail(fault)
        for slot in [slot for slot in self._busy if now - slot.active_ns > self.read_timeout * 1e9]:
            slot.fail(f"stalled: no data for {self.read_timeout:g} s")

    def close(self) -> None:
        """Drop every connection."""
        for slot in [*self._idle, *self._busy]:
            slot.close()

    async def _connect_and_send(self, exchange: Exchange, wire: bytes) -> None:
        slot = Slot(self._ended)
        try:
            await open_connection(self.root, slot, self.connect_timeout)
        except OSError as error:
            exchange.end_ns = time.monotonic_ns()
            exchange.error = f"no connection: {error or type(error).__name__}"
            self.on_end(exchange, exchange.end_ns)
        else:
            self._busy.add(slot)
            slot.begin(exchange, wire)

    def _ended(self, slot: Slot, exchange: Exchange, now: int) -> None:
        self._busy.discard(slot)
        if slot.connected:
            self._idle.append(slot)
        self.on_end(exchange, now)


def _usable(slot: Slot) -> bool:
    return slot.connected and time.monotonic_ns() - slot.active_ns < _IDLE_LIMIT_NS
