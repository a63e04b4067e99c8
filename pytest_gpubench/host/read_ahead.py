"""Weights into the page cache while a server imports: by the time it reads them they are in memory.

Nothing is copied: the kernel is asked to read, and skips what it has. A start is the one time at
which that disturbs no number; while something is measured, nothing is read ahead.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from pytest_gpubench.host.host_facts import cgroup_limits

_STEP = 128 * 2**10
"""Bytes of one request: Linux reads no more for it where a disk's own limit is the usual one."""
_SHARE = 0.5
"""Of the memory that is available: the server itself needs the same bytes once more."""
_END_S = 5.0


@contextmanager
def reading_ahead(paths: Sequence[Path]) -> Iterator[None]:
    """Let the kernel read these files while the block runs, in their order, where memory has room
    for all of them. Files that cannot be read are somebody else's to complain of."""
    leave = threading.Event()
    thread = threading.Thread(
        target=_read, args=(tuple(paths), leave), name="gpubench-read-ahead", daemon=True
    )
    fits = has_room(sum(map(_size, paths)), available_memory())
    if fits:
        thread.start()
    try:
        yield
    finally:
        leave.set()
        if fits:
            thread.join(_END_S)  # a request may hang on a file system that does


def has_room(size: int, available: int) -> bool:
    """Whether files of this many bytes are read ahead."""
    return 0 < size <= available * _SHARE


def available_memory() -> int:
    """Bytes that may be used before something else has to go."""
    limit = cgroup_limits()[1]
    free = int(psutil.virtual_memory().available)
    return free if limit is None else min(free, limit)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0


def _read(paths: Sequence[Path], leave: threading.Event) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            try:
                for offset in range(0, _size(path), _STEP):
                    if leave.is_set():
                        return
                    os.posix_fadvise(descriptor, offset, _STEP, os.POSIX_FADV_WILLNEED)
            finally:
                os.close(descriptor)
