"""The measuring thread goes before other work on its core where the host permits it: it mostly sleeps, and must wake on time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

_NICE = -20


@contextlib.contextmanager
def foremost(wanted: bool = True) -> Iterator[str]:
    """Run the block at real-time priority, else at the highest nice level, else as it is; yields which, empty for the last.

    Only the calling thread is meant. The kernel leaves 5% of the time to others even if it never sleeps.
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
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(os.sched_get_priority_min(os.SCHED_RR)))
        return "real-time"
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)
        return f"nice {_NICE}"
    return ""
