"""A small HTTP/1.1 server side for the loopback server: keep-alive, JSON answers, chunked streams.
It owns its sockets, as the kernel tells the time of an arrival to ``recvmsg`` alone, which no
transport of asyncio calls. Standard library only."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Protocol, TypeAlias

_MAX_HEAD = 64 * 1024
_READ = 64 * 1024
_BACKLOG = 4096
_ACCEPTS = 256
"""At most in one round of the loop."""
_ACCEPT_AGAIN = 0.1
"""Seconds until connections are accepted again after no descriptor was free."""
_SO_TIMESTAMPNS = getattr(socket, "SO_TIMESTAMPNS", 35)
_STAMP = struct.Struct("@ll")
"""``struct timespec``: seconds and nanoseconds of ``CLOCK_REALTIME``."""
_CONTROL_BYTES = 64
_OLDEST_STAMP_NS = 60_000_000_000
"""An older stamp is none: the clock was set."""
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
STREAM_END = b"0\r\n\r\n"


def chunk(payload: bytes) -> bytes:
    """One chunk of a chunked answer."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it arrived; header names are lower case, ``path`` is without the query."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    connection: Connection
    arrival_ns: int = 0
    """When the bytes that completed it, or a later one that was read with it, arrived
    (``arrival_of``)."""

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            ValueError: if it is none.
        """
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Response:
    """One whole answer with a Content-Length."""

    body: bytes = b""
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_json(cls, value: Any, status: int = 200) -> Response:
        return cls(json.dumps(value, separators=(",", ":")).encode(), status)

    @classmethod
    def error(cls, status: int, message: str, kind: str = "BadRequestError") -> Response:
        """An error in the shape of the OpenAI API."""
        return cls.of_json(
            {"error": {"message": message, "type": kind, "param": None, "code": status}}, status
        )

    def encoded(self) -> bytes:
        phrase = HTTPStatus(self.status).phrase if self.status in set(HTTPStatus) else "Unknown"
        lines = [
            f"HTTP/1.1 {self.status} {phrase}",
            f"content-type: {self.content_type}",
            f"content-length: {len(self.body)}",
            *(f"{name}: {value}" for name, value in self.headers.items()),
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + self.body


Handler: TypeAlias = "Callable[[Request], Response | Awaitable[Response | None] | None]"
"""Answers a request. None: the handler took the connection over (``begin_stream``, ``send``,
``end_stream``, ``drop``)."""


class App(Protocol):
    """What a connection needs of its server."""

    connections: set[Connection]

    def handle(self, request: Request) -> Response | Awaitable[Response | None] | None: ...


def arrival_of(notes: Iterable[tuple[int, int, bytes]]) -> int:
    """When the bytes of a read that has just ended arrived in the kernel, in ``time.monotonic_ns``:
    how long this process left them there is not part of the truth. The time of the read where the
    kernel does not say.

    Args:
        notes: what ``recvmsg`` returned as control messages.
    """
    wall, now = time.time_ns(), time.monotonic_ns()
    for level, kind, data in notes:
        if (level, kind, len(data)) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS, _STAMP.size):
            seconds, nanoseconds = _STAMP.unpack(data)
            age: int = wall - (seconds * 1_000_000_000 + nanoseconds)
            if 0 <= age <= _OLDEST_STAMP_NS:
                return now - age
    return now


class Listener:
    """Listens on the running loop and makes a ``Connection`` of whoever connects.

    Raises:
        OSError: if the port is taken.
    """

    def __init__(self, app: App, host: str, port: int, *, reuse_port: bool) -> None:
        self._app = app
        self._loop = asyncio.get_running_loop()
        self._socket = socket.create_server(
            (host, port),
            family=socket.AF_INET6 if ":" in host else socket.AF_INET,
            backlog=_BACKLOG,
            reuse_port=reuse_port,
        )
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]
        if sys.platform == "linux":
            with contextlib.suppress(OSError):  # then reads are stamped
                # accepted sockets inherit it: what arrives before they are accepted has a stamp too
                self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._later: asyncio.TimerHandle | None = None
        self._listen()

    def close(self) -> None:
        """Accept nobody any more; connections stay."""
        if self._later is not None:
            self._later.cancel()
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()

    def _listen(self) -> None:
        self._later = None
        self._loop.add_reader(self._socket.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(_ACCEPTS):
            try:
                accepted, _ = self._socket.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue
            except OSError:  # no descriptor is free; the loop would come here without a pause
                self._loop.remove_reader(self._socket.fileno())
                self._later = self._loop.call_later(_ACCEPT_AGAIN, self._listen)
                return
            Connection(self._app, accepted)


class Connection:
    """One client connection; requests are answered one after another (pipelined ones wait their
    turn)."""

    def __init__(self, app: App, accepted: socket.socket) -> None:
        self._app = app
        self._loop = asyncio.get_running_loop()
        self._socket = accepted
        self._buffer = bytearray()
        self._unsent = bytearray()
        self._busy = False
        self._closing = False
        """Closed as soon as what is unsent has been sent."""
        self._half_closing = False
        self._arrival_ns = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.open = True
        """Whether the socket is: the client has not gone away, and was not sent away."""
        self.on_lost: Callable[[], None] | None = None
        """Called when the client goes away while a handler has the connection."""
        accepted.setblocking(False)
        with contextlib.suppress(OSError):  # gone already: the first read says so
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        app.connections.add(self)
        self._loop.add_reader(accepted.fileno(), self._readable)

    def _readable(self) -> None:
        at_end = False
        # until nothing is left: uvloop does not call again for a socket with an error, which comes
        # after the data
        while True:
            try:
                data, notes, _, _ = self._socket.recvmsg(_READ, _CONTROL_BYTES)
            except BlockingIOError:
                break
            except OSError:
                self.abort()
                return
            if not data:
                at_end = True
                break
            self._arrival_ns = arrival_of(notes)
            self._buffer += data
        if not self._busy:
            self._next()
        if at_end:
            self._close()

    def _next(self) -> None:
        head_end = self._buffer.find(b"\r\n\r\n")
        if head_end < 0:
            if len(self._buffer) > _MAX_HEAD:
                self._refuse(431, "request head too long")
            return
        lines = bytes(self._buffer[:head_end]).decode("latin-1").split("\r\n")
        words = lines[0].split(" ")
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines[1:])
        }
        length = headers.get("content-length", "0")
        if len(words) != 3 or not length.isdigit() or "transfer-encoding" in headers:
            self._refuse(400, "malformed request, or a body without Content-Length")
            return
        end = head_end + 4 + int(length)
        if len(self._buffer) < end:
            return
        body = bytes(self._buffer[head_end + 4 : end])
        request = Request(
            words[0], words[1].partition("?")[0], headers, body, self, self._arrival_ns
        )
        del self._buffer[:end]
        self._busy = True
        self._dispatch(request)

    def _dispatch(self, request: Request) -> None:
        try:
            answer = self._app.handle(request)
        except Exception as error:  # noqa: BLE001  # a broken handler is an answer 500, as in any server
            answer = Response.error(500, f"{type(error).__name__}: {error}", "InternalServerError")
        if isinstance(answer, Response):
            self.answer(answer)
        elif answer is not None:
            task = asyncio.ensure_future(self._finish(answer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _finish(self, pending: Awaitable[Response | None]) -> None:
        try:
            answer = await pending
        except Exception as error:  # noqa: BLE001  # as above
            answer = Response.error(500, f"{type(error).__name__}: {error}", "InternalServerError")
        if answer is not None:
            self.answer(answer)

    def _refuse(self, status: int, message: str) -> None:
        self.send_raw(Response.error(status, message).encoded())
        self.drop()

    def answer(self, response: Response) -> None:
        """Send a whole answer and take the next request."""
        self.send_raw(response.encoded())
        self.end_raw()

    def begin_stream(self) -> None:
        """Send the head of a chunked answer."""
        self.send_raw(STREAM_HEAD)

    def send(self, payload: bytes) -> None:
        """Send one chunk of a stream at once."""
        self.send_raw(chunk(payload))

    def end_stream(self) -> None:
        """End a chunked answer properly and take the next request."""
        self.send_raw(STREAM_END)
        self.end_raw()

    def drop(self) -> None:
        """Close the connection in the middle of whatever it is doing, after what was sent."""
        self.on_lost = None
        self._close()

    def half_close(self) -> None:
        """Send nothing more, after what was sent; the client may go on."""
        self._half_closing = True
        if self.open and not self._unsent:
            self._shut_down()

    def abort(self) -> None:
        """Close the connection at once; what is unsent is lost."""
        if not self.open:
            return
        self.open = False
        descriptor = self._socket.fileno()
        self._loop.remove_reader(descriptor)
        self._loop.remove_writer(descriptor)
        self._socket.close()
        self._unsent.clear()
        self._app.connections.discard(self)
        if self.on_lost is not None:
            callback, self.on_lost = self.on_lost, None
            callback()

    def _close(self) -> None:
        if not self.open or self._closing:
            return
        if not self._unsent:
            self.abort()
            return
        self._closing = True
        self._loop.remove_reader(self._socket.fileno())

    def _shut_down(self) -> None:
        with contextlib.suppress(OSError):  # gone: the next read says so
            self._socket.shutdown(socket.SHUT_WR)

    def send_raw(self, data: bytes) -> None:
        """Send a part of an answer that has its framing already."""
        if not self.open or self._closing or self._half_closing:
            return
        sent = 0
        if not self._unsent:
            # at once, so that a stamp taken before is the truth
            try:
                sent = self._socket.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:  # the client is gone: the next read says so
                return
            if sent == len(data):
                return
            self._loop.add_writer(self._socket.fileno(), self._writable)
        self._unsent += data[sent:]

    def _writable(self) -> None:
        try:
            sent = self._socket.send(self._unsent)
        except BlockingIOError:
            return
        except OSError:
            self.abort()
            return
        del self._unsent[:sent]
        if self._unsent:
            return
        self._loop.remove_writer(self._socket.fileno())
        if self._closing:
            self.abort()
        elif self._half_closing:
            self._shut_down()

    def end_raw(self) -> None:
        """The end of the answer has been sent: take the next request."""
        self.on_lost = None
        self._busy = False
        if self._buffer and self.open:
            self._next()
