"""Whether this machine has other work to do: what depends on its speed says nothing then."""

from __future__ import annotations

import os
from pathlib import Path


def host_is_busy() -> bool:
    """By the load of the last minute, or by what wants to run right now."""
    runnable = int(Path("/proc/loadavg").read_text(encoding="ascii").split()[3].partition("/")[0])
    return os.getloadavg()[0] > 1.0 or runnable > len(os.sched_getaffinity(0))
