"""A small HTTP/1.1 server side for the loopback server: keep-alive, JSON answers, chunked streams.
Standard library only."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Protocol, TypeAlias, cast

_MAX_HEAD = 64 * 1024
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
    """Stamp of the read that completed it, or that of a later one where several were read
    together."""

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
        lines = [
            f"HTTP/1.1 {self.status} {_phrase(self.status)}",
            f"content-type: {self.content_type}",
        ]
        lines += [
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

    @property
    def patience(self) -> float:
        """Seconds that a completion request may wait before it is read."""

    def handle(self, request: Request) -> Response | Awaitable[Response | None] | None: ...


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase if status in set(HTTPStatus) else "Unknown"


class Connection(asyncio.Protocol):
    """One client connection; requests are answered one after another (pipelined ones wait their
    turn)."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._buffer = bytearray()
        self._busy = False
        self._looking = False
        self._arrival_ns = 0
        self._descriptor = -1
        self._tasks: set[asyncio.Task[None]] = set()
        self.transport: asyncio.Transport | None = None
        self.on_lost: Callable[[], None] | None = None
        """Called when the client goes away while a handler has the connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # not an instance of it with uvloop
        self._descriptor = transport.get_extra_info("socket").fileno()
        self._app.connections.add(self)

    def connection_lost(self, _exc: Exception | None) -> None:
        self.transport = None
        self._descriptor = -1
        self._app.connections.discard(self)
        if self.on_lost is not None:
            callback, self.on_lost = self.on_lost, None
            callback()

    def data_received(self, data: bytes) -> None:
        self._arrival_ns = time.monotonic_ns()
        self._buffer += data
        if not self._busy and not self._looking:
            self._looking = True
            # not at once: first the other connections' requests get their stamps, as the time that
            # this one takes is not theirs
            delay = self._app.patience if b"/completions" in data[:64] else 0.0
            asyncio.get_running_loop().call_later(delay, self._look)

    def _look(self) -> None:
        self._looking = False
        if not self._busy and self.transport is not None:
            self._next()

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
        self._write(Response.error(status, message).encoded())
        self.drop()

    def answer(self, response: Response) -> None:
        """Send a whole answer and take the next request."""
        self._write(response.encoded())
        self._done()

    def begin_stream(self) -> None:
        """Send the head of a chunked answer."""
        self._write(STREAM_HEAD)

    def send(self, payload: bytes) -> None:
        """Send one chunk of a stream at once."""
        self._write(chunk(payload))

    def send_raw(self, data: bytes) -> None:
        """Send a part of an answer that has its framing already."""
        self._write(data)

    def end_stream(self) -> None:
        """End a chunked answer properly and take the next request."""
        self._write(STREAM_END)
        self._done()

    def end_raw(self) -> None:
        """The end of the answer has been sent: take the next request."""
        self._done()

    def drop(self) -> None:
        """Close the connection in the middle of whatever it is doing."""
        self.on_lost = None
        if self.transport is not None:
            self.transport.close()

    def _write(self, data: bytes) -> None:
        if self.transport is None:
            return
        written = 0
        if self._descriptor >= 0 and not self.transport.get_write_buffer_size():
            # at once, so that a stamp taken before is the truth: the transport would write at the
            # end of the loop's round
            try:
                written = os.write(self._descriptor, data)
            except OSError:  # full, or broken: the transport finds out which
                written = 0
        if written < len(data):
            self.transport.write(data[written:])

    def _done(self) -> None:
        self.on_lost = None
        self._busy = False
        if self._buffer:
            self._next()
