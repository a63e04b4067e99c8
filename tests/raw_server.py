"""A server that answers with whatever bytes a test gives it, for clients that must bear
everything."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

Handler = Callable[[socket.socket, bytes], None]
"""Takes the connection and the head of the request; the connection is closed afterwards."""


@contextmanager
def raw_server(handler: Handler) -> Iterator[str]:
    """Serve until the block ends; yields the root URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    leaving = threading.Event()

    def serve(connected: socket.socket) -> None:
        with connected, suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head and (part := connected.recv(65536)):
                head += part
            handler(connected, head)

    def accept() -> None:
        while not leaving.is_set():
            with suppress(OSError):
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        leaving.set()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


def answer(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    """A whole answer."""
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def always(data: bytes) -> Handler:
    """Answers everything alike."""
    return lambda connected, _head: connected.sendall(data)


def drip(beginning: bytes) -> Handler:
    """Begins, and goes on byte by byte for ever."""

    def handler(connected: socket.socket, _head: bytes) -> None:
        connected.sendall(beginning)
        while True:
            connected.sendall(b"#")
            threading.Event().wait(0.05)

    return handler
