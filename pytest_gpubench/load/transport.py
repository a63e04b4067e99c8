"""The client's side of the wire: one connection per slot, every read stamped before anything looks
at it.

Connections are made before the clock starts, lent to one exchange at a time, watched for silence.
"""

from __future__ import annotations

import asyncio
import functools
import os
import resource
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

from pytest_gpubench.load.framing import Framing, decode, ends_here, parse_head, says_done
from pytest_gpubench.model.failures import BenchmarkError, Failure

MAX_ANSWER = 256 * 2**20
"""Bytes of one answer, where the request does not say how long it may be."""
NO_CONNECTION = "no connection"
"""Begins what is said where nobody takes one."""
_CONNECT_BURST = 64
_SHORT = 4
"""Bytes of a read in which an end may be in parts."""
_now = time.monotonic_ns
_OTHER_DESCRIPTORS = 32
"""Of a measuring process: files, pipes, timers, and connections that replace others."""
_SILENCE_NS = 1_000_000_000
_IDLE_LIMIT_NS = 2_000_000_000
"""uvicorn drops idle connections after 5 s; older ones are not used any more, so that none dies
under a request."""


@dataclass(slots=True)
class Exchange:
    """One request and the raw bytes that came back, each read with its stamp."""

    number: int
    """Index of the request in its phase."""
    due_ns: int
    send_ns: int | None = None
    end_ns: int | None = None
    reads: list[tuple[int, bytes]] = field(default_factory=list)
    size: int = 0
    """Bytes of all reads; known when it has ended."""
    error: str = ""
    most_bytes: int = MAX_ANSWER
    """An answer that is longer fails."""


class Slot(asyncio.Protocol):
    """One connection; carries one exchange at a time. A lost connection is followed by a new
    slot."""

    def __init__(self, on_end: Callable[[Slot, Exchange, int], None]) -> None:
        self._on_end = on_end
        self._transport: asyncio.Transport | None = None
        self._framing: Framing | None = None
        self._keep: Callable[[tuple[int, bytes]], None] | None = None
        """Takes a read and its stamp, once the head of a chunked answer has been read."""
        self._received = 0
        """Bytes of the answer so far; without its head, once that is known."""
        self._most = 0
        self._checked = 0
        """Reads whose framing was looked at."""
        self._descriptor = -1
        self.exchange: Exchange | None = None
        self._since_ns = _now()
        """Time of the last write, or of the end of an answer."""

    @property
    def active_ns(self) -> int:
        """Time of the last read or write."""
        reads = self.exchange.reads if self.exchange is not None else None
        return reads[-1][0] if reads else self._since_ns

    @property
    def connected(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if transport.get_extra_info("ssl_object") is None:
            self._descriptor = transport.get_extra_info("socket").fileno()
        self._since_ns = _now()

    def begin(self, exchange: Exchange, wire: bytes) -> None:
        """Send a request; the connection must be open and idle."""
        self.exchange = exchange
        self._framing = self._keep = None
        self._received = self._checked = 0
        self._most = exchange.most_bytes
        transport = cast("asyncio.Transport", self._transport)
        exchange.send_ns = self._since_ns = _now()
        written = 0
        # at once: uvloop's own write waits for the end of the loop's round, behind a whole burst
        if self._descriptor >= 0:
            try:
                written = os.write(self._descriptor, wire)
            except OSError:  # full, or broken: the transport finds out which
                written = 0
        if written < len(wire):
            transport.write(wire[written:])

    def data_received(self, data: bytes) -> None:
        now = _now()
        keep = self._keep
        # Nearly every read, and hence before anything else: a part of a chunked body.
        if keep is not None and len(data) > _SHORT and not data.endswith(b"\r\n\r\n"):
            keep((now, data))
            self._received += len(data)
            if self._received > self._most:
                self._too_long(now)
            return
        exchange = self.exchange
        if exchange is None:  # nothing was asked: the server says goodbye, or is out of step
            self.close()
            return
        exchange.reads.append((now, data))
        self._received += len(data)
        if self._framing is None and not self._find_head(exchange, now):
            return
        if self._complete(exchange):
            self._end(now, "", keep=cast("Framing", self._framing).keep_alive)
        elif self._received > self._most:
            self._too_long(now)

    def _find_head(self, exchange: Exchange, now: int) -> bool:
        """Whether the answer's head is whole, and says how its body is framed."""
        reads = exchange.reads
        head = reads[0][1] if len(reads) == 1 else b"".join(read for _, read in reads)
        try:
            self._framing = parse_head(head)
        except ValueError as error:
            self._end(now, str(error), keep=False)
            return False
        if self._framing is None:
            return False
        self._received -= self._framing.head_size
        if self._framing.chunked:
            self._keep = reads.append
        return True

    def _complete(self, exchange: Exchange) -> bool:
        framing = cast("Framing", self._framing)
        if framing.chunked:
            return ends_here(exchange.reads[-1][1], exchange.reads)
        return framing.length is not None and self._received >= framing.length

    def _too_long(self, now: int) -> None:
        most = f"{self._most / 2**20:.0f} MiB"
        self._end(now, f"the answer does not end: more than {most}", keep=False)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._descriptor = -1
        if self.exchange is None:
            return
        now = _now()
        framing, reads = self._framing, self.exchange.reads
        if (
            exc is None
            and framing is not None
            and framing.length is None
            # a body that ends with the connection, or with the last word of a stream of events
            and (not framing.chunked or says_done(reads))
        ):
            self._end(now, "", keep=False)
        else:
            where = "in the middle of the answer" if self.exchange.reads else "before any answer"
            self._end(
                now, f"the connection was closed {where}" + (f": {exc}" if exc else ""), keep=False
            )

    def unchecked_ns(self, now: int) -> int:
        """How long it has been silent since bytes came whose framing nobody has looked at; 0: there
        are none."""
        reads = len(self.exchange.reads) if self.exchange is not None else 0
        return now - self.active_ns if reads > self._checked else 0

    def look(self) -> None:
        """End an answer that has ended, or broken its framing, without anybody having noticed."""
        exchange, now = cast("Exchange", self.exchange), self.active_ns
        self._checked = len(exchange.reads)
        answer = decode(exchange.reads)
        if answer.fault:
            self.fail(answer.fault)
        elif answer.whole:
            self._end(now, "", keep=False)
        elif says_done(exchange.reads):
            self.fail("the answer did not end after [DONE]: its framing lacks the last chunk")

    def fail(self, reason: str) -> None:
        """Give the exchange up and drop the connection."""
        self._end(_now(), reason, keep=False)

    def close(self) -> None:
        self._descriptor = -1
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def _end(self, now: int, error: str, *, keep: bool) -> None:
        exchange, self.exchange = self.exchange, None
        self._keep, self._since_ns = None, now
        if not keep:
            self.close()
        if exchange is not None:
            exchange.end_ns = now
            exchange.error = error
            exchange.size = self._received + (self._framing.head_size if self._framing else 0)
            self._on_end(self, exchange, now)


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Whom to trust, read once: for each connection it would take 20 ms. Knows SSL_CERT_FILE."""
    return ssl.create_default_context()


async def open_connection(root: str, slot: Slot, timeout: float) -> None:
    """Connect a slot to the server at ``root``.

    Raises:
        OSError: if there is nobody, or nobody answers within ``timeout`` seconds (TimeoutError).
    """
    parts = urlsplit(root)
    host = parts.hostname or ""
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    context = _certificates() if secure else None
    async with asyncio.timeout(timeout):
        await asyncio.get_running_loop().create_connection(lambda: slot, host, port, ssl=context)


def have_descriptors(connections: int) -> None:
    """Raise this process's limit of open files as far as these connections need.

    Raises:
        BenchmarkError: if it cannot be raised so far.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + _OTHER_DESCRIPTORS
    if resource.RLIM_INFINITY in (soft, hard) or needed <= soft:
        return
    if needed > hard:
        raise BenchmarkError(
            Failure(
                "descriptor-limit",
                "client",
                f"the client's own limit of open files is {hard}; {connections} connections need "
                f"{needed}",
                remedy="Raise it before pytest starts (`ulimit -n`, or LimitNOFILE of the "
                "service), or lower the concurrency.",
            )
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


@dataclass(slots=True)
class Pool:
    """Connections to one server; ``on_end`` is told of every exchange that is over, well or
    badly."""

    root: str
    connect_timeout: float
    read_timeout: float
    on_end: Callable[[Exchange, int], None]
    reuse: bool = True
    """Whether a connection serves one request after another."""
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
            await asyncio.gather(
                *(open_connection(self.root, slot, self.connect_timeout) for slot in part)
            )
            self._idle += part

    def send(self, exchange: Exchange, wire: bytes) -> None:
        """Send on an idle connection; where there is none, on a new one, whose making counts as the
        request's time."""
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
        """Give up the exchanges that have been silent for ``read_timeout`` seconds, or whose answer
        is broken.

        Framing is looked at once in every silence of a second: an answer that broke it will never
        end, and looking at every read would cost the measuring loop.
        """
        now = _now()
        for slot in [slot for slot in self._busy if slot.unchecked_ns(now) > _SILENCE_NS]:
            slot.look()
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
            exchange.end_ns = _now()
            exchange.error = f"{NO_CONNECTION}: {error or type(error).__name__}"
            self.on_end(exchange, exchange.end_ns)
        else:
            self._busy.add(slot)
            slot.begin(exchange, wire)

    def _ended(self, slot: Slot, exchange: Exchange, now: int) -> None:
        self._busy.discard(slot)
        if slot.connected and self.reuse:
            self._idle.append(slot)
        else:
            slot.close()
        self.on_end(exchange, now)


def _usable(slot: Slot) -> bool:
    return slot.connected and _now() - slot.active_ns < _IDLE_LIMIT_NS
