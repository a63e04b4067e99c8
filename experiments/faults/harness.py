"""What the fault suite stands on: faults, what comes of them, places for them, and a search for
what remains."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))  # tests/ is not installed
STUB = REPOSITORY / "tests" / "stub_engine.py"
MARK = "GPUBENCH_FAULT_MARK"
"""Environment variable that every process of a fault inherits, however far it strays."""
NO_FAILURE = "none"
SETTLE_SECONDS = 12.0
"""How long processes may take to end after the run: the guard of a killed run gives its server five
seconds."""
_NOT_LEFT = (f"gpubench-{os.getuid()}", "pytest-of-")
"""Folders of locks (which are looked at one by one) and of pytest itself."""


@dataclass(slots=True)
class Observed:
    """What came of one injected fault."""

    cause: str = NO_FAILURE
    whose: str = ""
    """The failure's class."""
    seconds: float = 0.0
    """From the event to the verdict."""
    exit_code: int | None = None
    """pytest's; None where no pytest ran."""
    note: str = ""
    problems: list[str] = field(default_factory=list)
    """What is wrong besides the verdict: something remained, a finished result was lost."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One line of the table: what is injected, and what must come of it."""

    name: str
    inject: Callable[[Path], Observed]
    """Gets an empty folder of its own."""
    cause: str = NO_FAILURE
    whose: str = ""
    exit_code: int | None = None
    within: float = 10.0
    """Seconds from event to verdict that are allowed, on a busy machine."""
    may_leave: str = ""
    """Start of the names of temporary files that nobody can remove, since their owner was
    killed."""


def own_environment(folder: Path) -> dict[str, str]:
    """The host's environment with the fault's mark, leases and temporary files, and without
    settings that would disturb."""
    drop = ("GPUBENCH_", "PYTEST_", "HF_", "HUGGING_FACE_", "TRANSFORMERS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(drop)}
    (folder / "tmp").mkdir(exist_ok=True)
    kept["PYTHONPATH"] = os.pathsep.join(
        filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH")))
    )
    return kept | {
        MARK: str(folder),
        "GPUBENCH_LEASE_DIR": str(folder / "leases"),
        "TMPDIR": str(folder / "tmp"),
    }


def marked(folder: Path) -> list[psutil.Process]:
    """Every living process that descends from the fault in this folder.

    A process in the middle of its exec shows an empty environment: one look can miss it.
    """
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == str(
                folder
            ):
                found.append(process)
    return found


def remains(folder: Path) -> list[str]:
    """What is left of a fault once its processes have had time to end; they are then killed, so
    that the next starts clean."""
    limit = time.monotonic() + SETTLE_SECONDS
    while (left := marked(folder)) and time.monotonic() < limit:
        time.sleep(0.1)
    if not left:
        time.sleep(0.1)
        left = marked(folder)
    words = []
    for process in left:
        with contextlib.suppress(psutil.Error):
            words.append(f"process {process.pid} {' '.join(process.cmdline())[:80]}")
            process.kill()
    words += [f"lease {path.name}" for path in sorted((folder / "leases").glob("*.lease"))]
    words += [f"lock {path.name}" for path in sorted(folder.rglob("*.lock")) if _is_locked(path)]
    temporary = sorted(path.name for path in (folder / "tmp").glob("*"))
    words += [f"temporary {name}" for name in temporary if not name.startswith(_NOT_LEFT)]
    return words


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int, options: str = "") -> Iterator[Path]:
    """A file system of this size (tmpfs; needs root).

    Raises:
        PermissionError: where it may not be mounted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m{options}", "tmpfs", str(folder)]
    mounted = subprocess.run(words, capture_output=True, text=True, check=False)
    if mounted.returncode:
        raise PermissionError(f"cannot mount a small disk: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Use up every byte of a small disk."""
    with (folder / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 4096)


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A folder for the whole suite, removed at the end."""
    root = Path(tempfile.mkdtemp(prefix="gpubench-faults-"))
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


def kill(process: psutil.Process, number: signal.Signals = signal.SIGKILL) -> float:
    """Send a signal; returns the moment."""
    process.send_signal(number)
    return time.monotonic()


def _is_locked(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
