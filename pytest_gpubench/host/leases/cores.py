"""The CPU cores that this process may use."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

_ROOT = Path("/")


def physical_cores(cpus: Iterable[int] | None = None, *, root: Path = _ROOT) -> tuple[tuple[int, ...], ...]:
    """Logical CPUs by physical core, in ascending order; where the kernel does not tell, every logical CPU is a core.

    Args:
        cpus: logical CPUs to look at; None: those that this process may run on.
        root: where ``/sys`` is (for tests).
    """
    allowed = sorted(os.sched_getaffinity(0) if cpus is None else cpus)
    groups: dict[str, list[int]] = {}
    for cpu in allowed:
        try:
            siblings = (root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text().strip()
        except OSError:
            siblings = str(cpu)
        groups.setdefault(siblings, []).append(cpu)
    return tuple(sorted(tuple(group) for group in groups.values()))
