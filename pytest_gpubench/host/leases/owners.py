"""Processes by identity, so that a lease names the right one for ever: a pid alone is used
again."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypeAlias

import psutil
from pydantic import AfterValidator, Field

_PROC = Path("/proc")
_KILL_SECONDS = 5.0


_PIDS = 2**22 + 1
"""Pids lie below it, on every Linux."""
_LONGEST_TEXT = 500
Text: TypeAlias = Annotated[str, AfterValidator(lambda text: text[:_LONGEST_TEXT])]
"""Of a file that anybody may have damaged."""


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process of this host since boot."""

    pid: Annotated[int, Field(gt=0, lt=_PIDS)]
    """Read from a file it is never 0 or below, which mean groups to kill(2)."""
    start: int
    """Clock ticks between boot and its start: unlike a time of day, no clock jump changes it."""
    name: Text = field(default="", compare=False)
    """It may change while the process lives."""

    def __str__(self) -> str:
        return f"{self.name} ({self.pid})" if self.name else f"pid {self.pid}"


def identify(pid: int) -> ProcessId | None:
    """A living process; None if there is none with that pid, or only a zombie."""
    try:
        head, _, tail = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")
    except OSError:
        return None
    fields = tail.split()
    if len(fields) < 20 or fields[0] in "ZX":
        return None
    return ProcessId(pid, int(fields[19]), head.partition("(")[2])


def is_alive(process: ProcessId) -> bool:
    """Whether that very process still runs."""
    living = identify(process.pid)
    return living is not None and living.start == process.start


def in_words(pid: int) -> str:
    """A process for a sentence: pid, name and user, as far as they can be seen."""
    try:
        process = psutil.Process(pid)
        return f"pid {pid} ({process.name()} of {process.username()})"
    except (psutil.Error, KeyError):
        return f"pid {pid}"


@functools.cache
def this_place() -> str:
    """Boot and pid namespace of this process: only inside the same place can a pid be judged."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        namespace = str((_PROC / "self/ns/pid").readlink())
    except OSError:
        return "unknown"
    return f"{boot} {namespace}"


def with_descendants(pids: Iterable[int]) -> list[ProcessId]:
    """These processes and all below them, as far as they live."""
    living: dict[int, ProcessId] = {}
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            family = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
            living.update(
                {process.pid: process for process in map(identify, family) if process is not None}
            )
    return list(living.values())


def lock_holders(path: Path, among: Iterable[int] | None = None) -> list[int]:
    """Processes (of this user) that hold the lock of a file, taken or inherited. Who only reads the
    file is not among them.

    Args:
        among: pids to look at; None is every process.
    """
    pids = (
        (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit())
        if among is None
        else among
    )
    target = str(path.resolve())
    holders = []
    for pid in pids:
        with contextlib.suppress(OSError), os.scandir(_PROC / str(pid) / "fd") as entries:
            if any(_link(entry) == target and _locks(pid, entry.name) for entry in entries):
                holders.append(pid)
    return holders


def kill_all(processes: Iterable[ProcessId]) -> list[ProcessId]:
    """SIGKILL these very processes and all below them, and wait up to five seconds; returns those
    that were killed.

    This process, its ancestors and what else they started are spared, whatever a damaged lease
    says.
    """
    spared = {os.getpid(), *(parent.pid for parent in psutil.Process().parents()), 1}
    living = [process for process in processes if process.pid not in spared and is_alive(process)]
    victims = [
        victim
        for victim in with_descendants(process.pid for process in living)
        if victim.pid not in spared
    ]
    for victim in victims:
        with contextlib.suppress(OSError):
            os.kill(victim.pid, 9)
    until = time.monotonic() + _KILL_SECONDS
    while any(is_alive(victim) for victim in victims) and time.monotonic() < until:
        time.sleep(0.05)
    return victims


def _link(entry: os.DirEntry[str]) -> str:
    try:
        return os.readlink(entry.path)  # noqa: PTH115  # thousands of them
    except OSError:
        return ""


def _locks(pid: int, descriptor: str) -> bool:
    try:
        return "FLOCK" in (_PROC / str(pid) / "fdinfo" / descriptor).read_text()
    except OSError:
        return False
