"""Being on time: a timer that fires when it should, a probe of how late the process is, and its
place before other work.

Event loops round their timers to milliseconds, the kernel's timer descriptors do not (Linux). The
measuring thread mostly sleeps, and must wake on time. Standard library only, and little of it: the
loopback server starts with this.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import random
import sys
import time
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_MONOTONIC = 1
_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC
_ABSOLUTE = 1
_SHORTEST_NS = 15_000_000
_LONGEST_NS = 35_000_000
"""Between beats, at random: a regular beat would always, or never, meet the bursts of a regular
server. Each beat wakes the process, which costs it 30 us."""
_NICE = -20


class _Times(ctypes.Structure):
    """``struct itimerspec``: interval, then value, in seconds and nanoseconds."""

    _fields_ = (
        ("every_s", ctypes.c_long),
        ("every_ns", ctypes.c_long),
        ("at_s", ctypes.c_long),
        ("at_ns", ctypes.c_long),
    )


class TimerFd:
    """A one-shot timer on the running event loop; ``callback`` gets the time (``monotonic_ns``)
    that was asked for."""

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
        self._libc.timerfd_settime(
            self._fd, _ABSOLUTE, ctypes.byref(_Times(0, 0, seconds, rest)), None
        )

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


@dataclass(frozen=True, slots=True)
class LagSummary:
    """Over a window, in seconds."""

    mean: float = 0.0
    p99: float = 0.0
    worst: float = 0.0
    samples: int = 0
    cpu: float = 0.0
    """CPU seconds of the process, threads included."""


class LagProbe:
    """Beats about 40 times a second while it is open."""

    def __init__(self) -> None:
        self._stamps, self._lags, self._cpu = array("q"), array("q"), array("q")
        self._random = random.Random(0)  # noqa: S311  # reproducible, not secret
        self._timer = TimerFd(self._beat)

    def start(self) -> None:
        """Take the first beat now."""
        self._note(0)
        self._order()

    def stop(self) -> None:
        """Take the last beat now."""
        self._timer.close()
        self._note(0)

    def summary(self, start_ns: int, end_ns: int) -> LagSummary:
        """Of the beats within the window."""
        first, last = bisect_left(self._stamps, start_ns), bisect_right(self._stamps, end_ns)
        lags = sorted(self._lags[first:last])
        if not lags:
            return LagSummary()
        # CPU from beat to beat, stretched to the window's edges
        low, high = max(0, first - 1), min(len(self._stamps) - 1, last)
        span = self._stamps[high] - self._stamps[low]
        share = (self._cpu[high] - self._cpu[low]) / span if span > 0 else 0.0
        # of few beats the third worst: one is chance
        p99 = lags[max(0, min(len(lags) - 3, int(0.99 * len(lags))))]
        return LagSummary(
            sum(lags) / len(lags) / 1e9,
            p99 / 1e9,
            lags[-1] / 1e9,
            len(lags),
            share * (end_ns - start_ns) / 1e9,
        )

    def _beat(self, when_ns: int) -> None:
        self._note(max(0, time.monotonic_ns() - when_ns))
        self._order()

    def _order(self) -> None:
        self._timer.at(time.monotonic_ns() + self._random.randint(_SHORTEST_NS, _LONGEST_NS))

    def _note(self, lag_ns: int) -> None:
        self._stamps.append(time.monotonic_ns())
        self._lags.append(lag_ns)
        self._cpu.append(time.process_time_ns())


@contextlib.contextmanager
def foremost(wanted: bool = True) -> Iterator[str]:
    """Run the block at real-time priority, else at the highest nice level, else as it is; yields
    which, empty for the last.

    Only the calling thread is meant. The kernel leaves 5% of the time to others even if it never
    sleeps.
    """
    before = os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)
    taken = _take() if wanted and before[0] == os.SCHED_OTHER else ""
    try:
        yield taken
    finally:
        with contextlib.suppress(OSError):
            if taken == "real-time":
                os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
            elif taken:
                os.setpriority(os.PRIO_PROCESS, 0, before[1])


def _take() -> str:
    with contextlib.suppress(OSError):  # needs CAP_SYS_NICE, or a limit (RLIMIT_RTPRIO)
        os.sched_setscheduler(
            0, os.SCHED_RR, os.sched_param(os.sched_get_priority_min(os.SCHED_RR))
        )
        return "real-time"
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)
        return f"nice {_NICE}"
    return ""
