"""Where a server's output goes: a bounded file without secrets, a bounded memory for the
classifier, and the log reader."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from pytest_gpubench.dialects.engine_facts import EngineFacts
from pytest_gpubench.dialects.engine_log import MAX_LINE, EngineLog, LogLine
from pytest_gpubench.engines.diagnosis import fatal_line
from pytest_gpubench.model.secrets import HIDDEN, SHORTEST, without_shapes

MAX_FILE = 256 * 2**20
"""Bytes of one server's output that are written as they come; after that only the end of it is
kept."""
MAX_HEAD = 4 * 2**20
MAX_TAIL = 2**20
MAX_PIECE = 64 * 2**10
"""Bytes after which a line without an end is passed on in pieces."""
LEFT_BEHIND = "[gpubench] killed "
"""Start of the guard's line about processes that the server left behind."""


class LogSink:
    """Takes a server's raw output in chunks (from one thread), answers questions (from any thread).

    A full disk never stops the server: its output is then read and dropped, and ``write_error``
        says so.
    """

    def __init__(
        self,
        path: Path,
        log_format: EngineLog,
        secrets: Iterable[str] = (),
        *,
        append: bool = False,
        max_file: int = MAX_FILE,
    ) -> None:
        self.path = path
        self.write_error: str | None = None
        self.bytes_seen = 0
        self.progress = 0
        """Grows with every line that is more than a heartbeat."""
        self.last_output: float | None = None
        """`time.monotonic` of the newest output."""
        self.first_output: float | None = None
        self.first_engine_line: float | None = None
        self.newest = ""
        """The text of the newest line that is more than a heartbeat; of those with a level, once
        there is one: what libraries and requests print tells little."""
        self.fatal: str | None = None
        """The first fatal line, until a stop is requested."""
        self.left_behind: list[str] = []
        """Processes that outlived the server's first one and were killed by the guard, as ``name
        (pid)``."""
        self.compiled: list[tuple[int, str]] = []
        """Kernels that were compiled while requests were served: `time.monotonic_ns` of the line,
        name."""
        self._lock = threading.Lock()
        self.format = log_format
        self._reader = log_format.reader()
        given = (
            secret.encode("utf-8", "surrogateescape")
            for secret in secrets
            if len(secret) >= SHORTEST
        )
        self._secrets = sorted(set(given), key=len, reverse=True)
        self._hold_back = max((len(secret) for secret in self._secrets), default=1) - 1
        self._carry = b""
        self._inside_long_line = False
        self._head: list[str] = []
        self._head_size = 0
        self._tail = bytearray()
        self._written = 0
        self._dropped = 0
        self._max_file = max_file
        self._stopping = False
        self._file: BinaryIO | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab" if append else "wb", buffering=0)
        except OSError as error:
            self.write_error = str(error)

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of output."""
        now = time.monotonic()
        with self._lock:
            self.bytes_seen += len(chunk)
            self.last_output = now
            if self.first_output is None:
                self.first_output = now
            data = self._carry + chunk
            end = data.rfind(b"\n") + 1
            whole, self._carry = data[:end], data[end:]
            if whole:
                self._lines(whole, now)
            if len(self._carry) > MAX_PIECE:
                # Held back are so many bytes that a secret which is cut here is still found when
                # its rest arrives.
                clean = self._redact(self._carry)
                cut = max(0, len(clean) - self._hold_back)
                self._carry = clean[cut:]
                self._piece(clean[:cut])

    def stop_requested(self) -> None:
        """From now on nothing is fatal: an engine that is being stopped says many things."""
        with self._lock:
            self._flush_carry()
            self._stopping = True

    def close(self) -> None:
        """Write what is left; safe to call more than once."""
        with self._lock:
            self._flush_carry()
            if self._file is None:
                return
            if self._dropped:
                note = (
                    f"\n[gpubench] {self._dropped} bytes of output are left out here; the "
                    f"last {len(self._tail)} follow\n"
                ).encode()
                self._max_file = self._written + len(note) + len(self._tail)
                self._write(note)
                self._write(bytes(self._tail))
            self._file.close()
            self._file = None

    def lines(self) -> list[str]:
        """The output before a stop was requested, without secrets: its beginning and its end where
        it is large."""
        with self._lock:
            tail = bytes(self._tail).decode("utf-8", "replace").splitlines()
            rest = (
                []
                if self._stopping or not self._carry
                else [self._redact(self._carry).decode("utf-8", "replace")]
            )
            return [*self._head, *tail, *rest]

    def facts(self) -> EngineFacts:
        """What the log has said so far."""
        with self._lock:
            return self._reader.facts()

    def _flush_carry(self) -> None:
        if self._carry:
            self._lines(self._carry, time.monotonic())
            self._carry = b""

    def _lines(self, whole: bytes, now: float) -> None:
        clean = self._redact(whole)
        self._write(clean)
        if LEFT_BEHIND.encode() in clean:
            lines = clean.decode("utf-8", "replace").splitlines()
            self.left_behind += [
                line.removeprefix(LEFT_BEHIND) for line in lines if line.startswith(LEFT_BEHIND)
            ]
        if self._stopping:
            return
        full = self._head_size >= MAX_HEAD
        if full:
            self._tail += clean
            del self._tail[:-MAX_TAIL]
            if not self.format.worth_reading.search(clean):
                self.progress += 1
                return
        for line in clean.decode("utf-8", "replace").splitlines():
            parsed = self._read(line)
            if not parsed.heartbeat:
                self.progress += 1
                if parsed.level or self.first_engine_line is None:
                    self.newest = parsed.text.strip() or self.newest
            if self.first_engine_line is None and parsed.level:
                self.first_engine_line = now
            if compiled := self.format.compiled.search(line):
                self.compiled.append((int(now * 1e9), compiled[1]))
            if self.fatal is None and fatal_line(parsed, self.format):
                self.fatal = parsed.text.strip()[:400]
            if not full:
                self._head.append(line)
                self._head_size += len(line) + 64

    def _read(self, line: str) -> LogLine:
        """A line, taken apart; a line that the reader stumbles over is kept and tells nothing: this
        thread must live on."""
        try:
            return self._reader.feed(line)
        except Exception:  # noqa: BLE001  # the engine would block on a pipe that nobody reads
            return LogLine("", None, "", "", line[:MAX_LINE])

    def _piece(self, clean: bytes) -> None:
        """A part of a line that does not end: kept in the file and at the end of the memory, never
        read."""
        self._write(clean)
        self.progress += 1
        if not self._stopping:
            self._tail += clean
            del self._tail[:-MAX_TAIL]

    def _redact(self, data: bytes) -> bytes:
        for secret in self._secrets:
            data = data.replace(secret, HIDDEN.encode())
        return without_shapes(data.decode("latin-1")).encode("latin-1")

    def _write(self, data: bytes) -> None:
        room = self._max_file - self._written
        if len(data) > room:
            self._dropped += len(data) - max(0, room)
            data = data[: max(0, room)]
        if self._file is None or self.write_error is not None or not data:
            return
        try:
            self._file.write(data)
        except OSError as error:
            self.write_error = str(error)
        self._written += len(data)
