"""A timer that fires on time: event loops round theirs to milliseconds, the kernel's timer descriptors do not (Linux)."""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
from collections.abc import Callable

_MONOTONIC = 1
_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC
_ABSOLUTE = 1


class _Times(ctypes.Structure):
    """``struct itimerspec``: interval, then value, in seconds and nanoseconds."""

    _fields_ = (("every_s", ctypes.c_long), ("every_ns", ctypes.c_long), ("at_s", ctypes.c_long), ("at_ns", ctypes.c_long))


class Alarm:
    """A one-shot timer on the running event loop; ``callback`` gets the time (``monotonic_ns``) that was asked for."""

    def __init__(self, callback: Callable[[int], None]) -> None:
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd: int = self._libc.timerfd_create(_MONOTONIC, _NONBLOCK_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), f"no timer descriptor on {sys.platform}")
        self._when = 0
        self._loop.add_reader(self._fd, self._fire)

    def at(self, when_ns: int) -> None:
        """Fire at this time, at once if it has passed; an earlier order is forgotten."""
        self._when = when_ns
        seconds, rest = divmod(max(1, when_ns), 1_000_000_000)
        self._libc.timerfd_settime(self._fd, _ABSOLUTE, ctypes.byref(_Times(0, 0, seconds, rest)), None)

    def close(self) -> None:
        """Never fire again."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _fire(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:  # ordered anew after it had become readable
            return
        self._callback(self._when)
