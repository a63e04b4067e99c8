"""The client's side of the wire: one connection per slot, every read stamped before anything looks at it."""

from __future__ import annotations

import asyncio
import os
import re
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

_CHUNKED_END = b"\r\n0\r\n\r\n"
_HEADER = rb"[!-9;-~]+:[^\r\n]*\r\n"
_STREAM = re.compile(
    rb"HTTP/1\.1 (\d{3})(?: [^\r\n]*)?\r\n(?:%b)*?(?i:transfer-encoding):[ \t]*(?i:chunked)\r\n(?:%b)*\r\n" % (_HEADER, _HEADER)
)


@dataclass(slots=True)
class Exchange:
    """One request and the raw bytes that came back, each read with its stamp."""

    number: int
    """Index of the request in its phase."""
    due_ns: int
    send_ns: int | None = None
    end_ns: int | None = None
    reads: list[tuple[int, bytes]] = field(default_factory=list)
    error: str = ""


@dataclass(frozen=True, slots=True)
class Framing:
    """What the head of a response says about its body."""

    status: int
    head_size: int
    """Bytes up to and including the empty line."""
    chunked: bool
    length: int | None
    """None: not given; the body then ends with the connection unless it is chunked."""
    keep_alive: bool


def parse_head(data: bytes) -> Framing | None:
    """The framing of a response, or None while its head is incomplete.

    Raises:
        ValueError: if this is no HTTP/1 response.
    """
    # A stream's head comes with its first token, often many at once: one expression is a quarter of the time, and that is error.
    stream = _STREAM.match(data)
    if stream is not None:
        head = data[: stream.end()].lower()
        if head.count(b"\ntransfer-encoding:") == 1 and b"\nconnection:" not in head and b"\ncontent-length:" not in head:
            return Framing(int(stream[1]), stream.end(), True, None, True)
    end = data.find(b"\r\n\r\n")
    if end < 0:
        if not b"HTTP/1.".startswith(data[:7]):
            raise ValueError("not an HTTP/1 response")
        return None
    first, *rest = data[:end].decode("latin-1").split("\r\n")
    words = first.split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdigit():
        raise ValueError("not an HTTP/1 response")
    headers = {name.strip().lower(): value.strip().lower() for name, _, value in (line.partition(":") for line in rest)}
    length = headers.get("content-length")
    keep_alive = headers.get("connection") != "close" and words[0] != "HTTP/1.0"
    chunked = headers.get("transfer-encoding", "").endswith("chunked")
    return Framing(int(words[1]), end + 4, chunked, int(length) if length is not None else None, keep_alive)


class Slot(asyncio.Protocol):
    """One connection; carries one exchange at a time. A lost connection is followed by a new slot."""

    def __init__(self, on_end: Callable[[Slot, Exchange, int], None]) -> None:
        self._on_end = on_end
        self._transport: asyncio.Transport | None = None
        self._framing: Framing | None = None
        self._received = 0
        self._descriptor = -1
        self.exchange: Exchange | None = None
        self.active_ns = time.monotonic_ns()
        """Time of the last read or write."""

    @property
    def connected(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if transport.get_extra_info("ssl_object") is None:
            self._descriptor = transport.get_extra_info("socket").fileno()
        self.active_ns = time.monotonic_ns()

    def begin(self, exchange: Exchange, wire: bytes) -> None:
        """Send a request; the connection must be open and idle."""
        self.exchange = exchange
        self._framing = None
        self._received = 0
        transport = cast("asyncio.Transport", self._transport)
        exchange.send_ns = self.active_ns = time.monotonic_ns()
        written = 0
        if self._descriptor >= 0:  # at once: uvloop's own write waits for the end of the loop's round, behind a whole burst
            try:
                written = os.write(self._descriptor, wire)
            except OSError:  # full, or broken: the transport finds out which
                written = 0
        if written < len(wire):
            transport.write(wire[written:])

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        self.active_ns = now
        exchange = self.exchange
        if exchange is None:  # nothing was asked: the server says goodbye, or is out of step
            self.close()
            return
        exchange.reads.append((now, data))
        if self._framing is None:
            try:
                self._framing = parse_head(data if len(exchange.reads) == 1 else b"".join(read for _, read in exchange.reads))
            except ValueError as error:
                self._end(now, f"the server's answer is {error}", keep=False)
                return
            if self._framing is None:
                return
            self._received = -self._framing.head_size
            if len(exchange.reads) > 1:
                self._received += sum(len(read) for _, read in exchange.reads[:-1])
        self._received += len(data)
        if self._complete(data, exchange):
            self._end(now, "", keep=self._framing.keep_alive)

    def _complete(self, data: bytes, exchange: Exchange) -> bool:
        framing = cast("Framing", self._framing)
        if framing.chunked:
            if len(data) < len(_CHUNKED_END):  # the terminator may be spread over the last reads
                data = b"".join(read for _, read in exchange.reads[-len(_CHUNKED_END) :])
            return data.endswith(_CHUNKED_END)
        return framing.length is not None and self._received >= framing.length

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._descriptor = -1
        if self.exchange is None:
            return
        now = time.monotonic_ns()
        framing = self._framing
        if exc is None and framing is not None and not framing.chunked and framing.length is None:
            self._end(now, "", keep=False)  # a body that ends with the connection
        else:
            where = "in the middle of the answer" if self.exchange.reads else "before any answer"
            self._end(now, f"the connection was closed {where}" + (f": {exc}" if exc else ""), keep=False)

    def fail(self, reason: str) -> None:
        """Give the exchange up and drop the connection."""
        self._end(time.monotonic_ns(), reason, keep=False)

    def close(self) -> None:
        self._descriptor = -1
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def _end(self, now: int, error: str, *, keep: bool) -> None:
        exchange, self.exchange = self.exchange, None
        if not keep:
            self.close()
        if exchange is not None:
            exchange.end_ns = now
            exchange.error = error
            self._on_end(self, exchange, now)


async def open_connection(root: str, slot: Slot, timeout: float) -> None:
    """Connect a slot to the server at ``root``.

    Raises:
        OSError: if there is nobody, or nobody answers within ``timeout`` seconds (TimeoutError).
    """
    parts = urlsplit(root)
    host = parts.hostname or ""
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    context = ssl.create_default_context() if secure else None
    async with asyncio.timeout(timeout):
        await asyncio.get_running_loop().create_connection(lambda: slot, host, port, ssl=context)
