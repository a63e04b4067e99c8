"""Whether this machine has other work to do: what depends on its speed says nothing then. And
work, of which it need not have too much."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NoReturn


def host_is_busy() -> bool:
    """By the load of the last minute, or by what wants to run right now."""
    runnable = int(Path("/proc/loadavg").read_text(encoding="ascii").split()[3].partition("/")[0])
    return os.getloadavg()[0] > 1.0 or runnable > len(os.sched_getaffinity(0))


def compute_on() -> NoReturn:
    """Compute for ever, a quarter of the time: what watches CPU time sees it, and the tests beside
    it have a processor."""
    while True:
        begin = time.process_time()
        while time.process_time() - begin < 0.05:
            pass
        time.sleep(0.15)
