"""Raw answers of a long run: in memory up to a limit, then in a file, since parsing waits until the
clock has stopped."""

from __future__ import annotations

import asyncio
import os
import tempfile
from array import array
from collections import deque
from dataclasses import dataclass, field

from pytest_gpubench.load.transport import Exchange

_PAUSE = 0.002


@dataclass(slots=True)
class _Moved:
    offset: int
    stamps: array[int]
    sizes: array[int]


@dataclass(slots=True)
class ResponseBuffer:
    """Takes ended exchanges; ``reads_of`` gives their bytes back."""

    folder: str | None = None
    limit: int = 256 << 20
    """Bytes kept in memory."""
    _held: int = 0
    _waiting: deque[Exchange] = field(default_factory=deque)
    _moved: dict[int, _Moved] = field(default_factory=dict)
    _file: int = -1
    _offset: int = 0
    _task: asyncio.Task[None] | None = None

    def add(self, exchange: Exchange) -> None:
        """An exchange has ended and will not change any more."""
        self._held += exchange.size
        self._waiting.append(exchange)
        if self._held > self.limit and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._move())

    def reads_of(self, exchange: Exchange) -> list[tuple[int, bytes]]:
        """The reads of an exchange, from wherever they are."""
        moved = self._moved.get(id(exchange))
        if moved is None:
            return exchange.reads
        data = os.pread(self._file, sum(moved.sizes), moved.offset)
        reads, at = [], 0
        for stamp, size in zip(moved.stamps, moved.sizes, strict=True):
            reads.append((stamp, data[at : at + size]))
            at += size
        return reads

    def close(self) -> None:
        """Forget the file."""
        if self._task is not None:
            self._task.cancel()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    async def _move(self) -> None:
        """One exchange at a time, with pauses: a wave of ends must not hold up the next wave's
        first tokens."""
        if self._file < 0:
            with tempfile.TemporaryFile(dir=self.folder) as file:
                self._file = os.dup(file.fileno())
        while self._held > self.limit // 2 and self._waiting:
            exchange = self._waiting.popleft()
            data = b"".join(part for _, part in exchange.reads)
            view = memoryview(data)
            while view:
                view = view[os.write(self._file, view) :]
            stamps = array("q", (stamp for stamp, _ in exchange.reads))
            sizes = array("q", (len(part) for _, part in exchange.reads))
            self._moved[id(exchange)] = _Moved(self._offset, stamps, sizes)
            self._offset += len(data)
            self._held -= len(data)
            exchange.reads = []
            await asyncio.sleep(_PAUSE)
        self._task = None
