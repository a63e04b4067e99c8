"""Lease files: one flock'ed file per GPU or core set in a local folder of this user.

The descriptor is inherited by the server, so the kernel holds the lock exactly as long as any
process of the tree lives. What the file says is for people and for the next run: who holds it, for
what, and which processes would be strays.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

from pydantic import TypeAdapter

from pytest_gpubench.host.files import GROUP_AND_OTHERS, OTHERS, make_private_folder, not_private
from pytest_gpubench.host.leases.owners import ProcessId, Text, is_alive, this_place
from pytest_gpubench.model.failures import BenchmarkError, Failure

FOLDER_VARIABLE = "GPUBENCH_LEASE_DIR"
"""Environment variable that names another lease folder; runs that shall see each other must agree
on it."""
HOST = "host"
"""The unit that an exclusive server holds alone, and the others share."""
_SUFFIX = ".lease"


@dataclass(frozen=True, slots=True)
class Holder:
    """What a lease file says."""

    unit: str
    """``host``, ``gpu-UUID``, ``cpu-0-3`` or ``cpu-shared-...``; also the file's name."""
    owner: ProcessId
    """The pytest process that took it."""
    place: Text
    run: Text
    server: Text
    since: Text
    """Local time, for people."""
    exclusive: bool
    cpus: tuple[int, ...] = ()
    processes: tuple[ProcessId, ...] = ()
    """The server's tree, as it was seen last."""

    def is_orphaned(self) -> bool:
        """Whether its owner is known to be dead; an owner that cannot be judged from here counts as
        alive."""
        return self.place == this_place() and not is_alive(self.owner)

    def __str__(self) -> str:
        elsewhere = (
            "" if self.place == this_place() else ", in another container or before a reboot"
        )
        return (
            f"pid {self.owner.pid} (run {self.run}, server {self.server}, since "
            f"{self.since}{elsewhere})"
        )


class LeaseFile:
    """One open lease file. Not inherited by children unless its descriptor is passed on."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self.path = path
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        if create:
            flags |= os.O_CREAT
        self.fd = os.open(path, flags, 0o600)
        if not stat.S_ISREG(os.fstat(self.fd).st_mode):
            self.close()
            raise OSError(errno.EINVAL, "it is not a regular file")

    @property
    def unit(self) -> str:
        return self.path.name.removesuffix(_SUFFIX)

    def try_lock(self, *, shared: bool = False) -> bool:
        """Take the lock if nobody holds it against us."""
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(self.fd, kind | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def read(self) -> Holder | None:
        """What the file says; None where it says nothing."""
        data = os.pread(self.fd, 1 << 20, 0).decode("utf-8", "replace").strip("\0 \n")
        if not data:
            return None
        try:
            # A writer may be at work: what stands behind the first value is the rest of an older
            # text.
            content, _ = json.JSONDecoder().raw_decode(data)
            whole = json.dumps({**content, "unit": self.unit})
            return _adapter().validate_json(whole, strict=True)
        except (ValueError, TypeError, RecursionError):
            unknown = ("", "unknown", "unknown", "unknown")
            return Holder(self.unit, ProcessId(0, 0), *unknown, exclusive=self.unit == HOST)

    def write(self, holder: Holder) -> None:
        """Replace what the file says."""
        text = json.dumps(asdict(replace(holder, unit=self.unit))).encode()
        os.pwrite(self.fd, text, 0)
        os.ftruncate(self.fd, len(text))

    def close(self) -> None:
        """Close our descriptor; the lock lives on if a server has inherited it."""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


def lease_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder of this user's leases, made if it is missing.

    It is not below TMPDIR: that may be the job's own, and leases are the host's.

    Raises:
        BenchmarkError: infrastructure, if it cannot be used safely.
    """
    folder = Path("/tmp") / f"gpubench-{os.getuid()}" / "leases"  # noqa: S108  # owner checked below
    checked, forbidden = [folder.parent, folder], GROUP_AND_OTHERS
    if named := environ.get(FOLDER_VARIABLE):
        folder = Path(named)
        # A folder that the user names may well belong to a group of theirs.
        checked, forbidden = [folder], OTHERS
    try:
        make_private_folder(folder)
        for path in checked:
            if reason := not_private(path, forbidden):
                raise _unusable(folder, reason)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise _unusable(folder, "it cannot be written")
    except OSError as error:
        raise _unusable(folder, str(error.strerror)) from error
    return folder


def lease_path(folder: Path, unit: str) -> Path:
    """Where the lease of a unit lies."""
    return folder / f"{unit}{_SUFFIX}"


def lease_files(folder: Path) -> list[Path]:
    """Every lease file, in a stable order; a folder, link or pipe of such a name is none."""
    return sorted(
        path for path in folder.glob(f"*{_SUFFIX}") if path.is_file() and not path.is_symlink()
    )


@cache
def _adapter() -> TypeAdapter[Holder]:
    return TypeAdapter(Holder)


def _unusable(folder: Path, reason: str) -> BenchmarkError:
    return BenchmarkError(
        Failure(
            "leases-unusable",
            "infrastructure",
            f"the lease folder {folder} cannot be used: {reason}",
            remedy=(
                f"Set {FOLDER_VARIABLE} to a folder of your own on a local disk, the same "
                "for all runs on this host."
            ),
        )
    )
