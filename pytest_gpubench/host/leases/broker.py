"""Taking all leases of a server at once, waiting for them, holding them as long as it lives, and
clearing away what dead runs left.

Every look and every change happens under one lock of the folder, the broker's; so nobody ever holds
half of what it needs, and a lease file can be removed safely.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from pytest_gpubench.host.gpus.inventory import Gpu
from pytest_gpubench.host.host_facts import ranges
from pytest_gpubench.host.leases.choice import Blocked, Grant, Wanted, choose
from pytest_gpubench.host.leases.lease_file import (
    HOST,
    Holder,
    LeaseFile,
    lease_files,
    lease_folder,
    lease_path,
)
from pytest_gpubench.host.leases.owners import (
    identify,
    in_words,
    kill_all,
    lock_holders,
    this_place,
    with_descendants,
)
from pytest_gpubench.model.failures import BenchmarkError, Failure, GpubenchError

_TRIES, _BETWEEN_TRIES_S = 6, 0.05
_NAMING_SECONDS = 2.0


class Lease:
    """The leases of one server, held until `release` and as long as any process of the server
    lives."""

    def __init__(
        self,
        grant: Grant,
        wanted: Wanted,
        files: Sequence[LeaseFile],
        broker: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.grant = grant
        self._wanted = wanted
        self._files = list(files)
        self._broker = broker
        self._writing = threading.Lock()
        self._seen: dict[tuple[int, str], dict[str, Any]] = {}

    @property
    def fds(self) -> tuple[int, ...]:
        """Descriptors for the server to inherit."""
        return tuple(file.fd for file in self._files)

    def name_processes(self) -> None:
        """Write into the leases which processes hold them: our children that inherited them, and
        all below."""
        with self._writing:
            if not self._files:
                return
            children = [child.pid for child in psutil.Process().children()]
            tree = tuple(with_descendants(lock_holders(self._files[-1].path, among=children)))
            for file in self._files:
                holder = file.read()
                if holder is not None and holder.processes != tree:
                    with contextlib.suppress(OSError):
                        file.write(replace(holder, processes=tree))

    @contextlib.contextmanager
    def naming(self) -> Iterator[None]:
        """While a server starts, note its growing tree every two seconds, and once more at the
        end."""
        done = threading.Event()

        def watch() -> None:
            while not done.wait(_NAMING_SECONDS):
                self.name_processes()

        thread = threading.Thread(target=watch, name="gpubench-lease", daemon=True)
        thread.start()
        try:
            yield
            self.name_processes()
        finally:
            done.set()
            thread.join()

    def co_tenancy(self) -> dict[str, Any]:
        """What else of ours runs on this host, for records: neighbours are all that were seen since
        the lease was taken."""
        own = {file.path for file in self._files}
        others = {
            path for folder in {path.parent for path in own} for path in lease_files(folder)
        } - own
        for path in sorted(others):
            with contextlib.suppress(OSError):
                file = LeaseFile(path)
                try:
                    holder = file.read()
                finally:
                    file.close()
                if holder is not None and not holder.is_orphaned():
                    entry = self._seen.setdefault(
                        (holder.owner.pid, holder.server),
                        {"run": holder.run, "server": holder.server, "units": []},
                    )
                    entry["units"] = sorted({*entry["units"], holder.unit})
        return {
            "exclusive": self._wanted.exclusive,
            "gpus": [gpu.uuid for gpu in self.grant.gpus],
            "cpus": ranges(list(self.grant.cpus)) if self.grant.cores else None,
            "neighbours": list(self._seen.values()),
        }

    def release(self) -> None:
        """Give everything back. Where a process outlives its killing, the kernel keeps the lock and
        the file says whose it is.

        Never raises; may be called again.
        """
        with self._writing:
            files, self._files = self._files, []
        try:
            with self._broker():
                for file in files:
                    _give_back(file)
        except (GpubenchError, OSError):
            # The locks are gone all the same; the next run removes the files.
            for file in files:
                file.close()


def _give_back(file: LeaseFile) -> None:
    file.close()
    with contextlib.suppress(OSError):
        again = LeaseFile(file.path)
        try:
            # A child of ours that has not become its program yet shares the lock for a moment.
            for _ in range(_TRIES):
                if again.try_lock():
                    again.path.unlink()
                    break
                time.sleep(_BETWEEN_TRIES_S)
        finally:
            again.close()


ORPHAN_SECONDS = 12.0
"""How long the processes of a dead owner may take to end by themselves: the server's guard needs up
to nine seconds."""
_POLL_SECONDS = 1.0
_BROKER_SECONDS = 60.0
_RELEASE_SECONDS = 15.0


class Broker:
    """Gives out the leases of one folder."""

    def __init__(
        self, folder: Path | None = None, *, notify: Callable[[str], None] = lambda _: None
    ) -> None:
        self._given = folder
        self._notify = notify
        self._orphaned: dict[Path, float] = {}

    @property
    def folder(self) -> Path:
        """The lease folder; looked for when it is first needed."""
        if self._given is None:
            self._given = lease_folder()
        return self._given

    def acquire(
        self,
        wanted: Wanted,
        *,
        timeout: float,
        gpus: Callable[[], Sequence[Gpu]] = tuple,
        orphan_seconds: float = ORPHAN_SECONDS,
        poll_seconds: float = _POLL_SECONDS,
    ) -> Lease:
        """Take everything that a server needs, all or nothing; wait for it where it is in use.

        Args:
            timeout: seconds to wait for other runs and foreign processes; time spent on servers of
            the same run does not count.
            gpus: reads the GPUs that the server may use, now.

        Raises:
            BenchmarkError: infrastructure, naming who is in the way, when the time is up.
        """
        wanted = replace(wanted, pid=os.getpid())
        waited, looked = 0.0, time.monotonic()
        named: frozenset[int] | None = None
        while True:
            with self._locked(_BROKER_SECONDS):
                held = self._survey(orphan_seconds)
                choice: Grant | Blocked | Lease = choose(
                    wanted, held, gpus() if wanted.gpus else (), in_words
                )
                if isinstance(choice, Grant):
                    choice = self._take(wanted, choice)
            if isinstance(choice, Lease):
                return choice
            now = time.monotonic()
            if not choice.own_run:
                waited += now - looked
            looked = now
            if waited >= timeout:
                raise BenchmarkError(_busy(wanted, choice, timeout))
            if choice.who != named:
                self._notify(f"{wanted.server} waits: {'; '.join(choice.reasons)}")
                named = choice.who
            time.sleep(poll_seconds)

    @contextlib.contextmanager
    def _locked(self, seconds: float) -> Iterator[None]:
        path = self.folder / "broker.lock"
        try:
            lock = FileLock(path, timeout=seconds, mode=0o600)
            lock.acquire()
        except Timeout as error:
            reason = f"another process has held {path} for more than {seconds:.0f} s"
            raise BenchmarkError(_broker_failure(reason)) from error
        except (OSError, NotImplementedError) as error:
            raise BenchmarkError(
                _broker_failure(f"{path}: {getattr(error, 'strerror', None) or error}")
            ) from error
        try:
            yield
        finally:
            lock.release()

    def _survey(self, orphan_seconds: float) -> list[Holder]:
        """Every lease that is held; what nobody holds any more is cleared away, with its strays."""
        held = []
        for path in lease_files(self.folder):
            try:
                file = LeaseFile(path)
            except FileNotFoundError:  # given back in this moment
                continue
            except OSError as error:
                raise BenchmarkError(_broker_failure(f"{path}: {error.strerror}")) from error
            try:
                holder = file.read()
                if file.try_lock():
                    if holder is not None:
                        self._reap(holder, path)
                    path.unlink()
                    self._orphaned.pop(path, None)
                elif holder is not None:
                    held.append(self._judged(holder, path, orphan_seconds))
            finally:
                file.close()
        return held

    def _judged(self, holder: Holder, path: Path, orphan_seconds: float) -> Holder:
        """A held lease, marked where its owner is dead; its processes are killed when they do not
        end by themselves."""
        if not holder.is_orphaned():
            self._orphaned.pop(path, None)
            return holder
        since = self._orphaned.setdefault(path, time.monotonic())
        if time.monotonic() - since >= orphan_seconds:
            self._reap(holder, path)
        return replace(holder, run=f"{holder.run}, whose pytest has died")

    def _reap(self, holder: Holder, path: Path) -> None:
        if holder.place != this_place() or holder.owner == identify(os.getpid()):
            return
        opened = [process for process in map(identify, lock_holders(path)) if process is not None]
        killed = kill_all([*holder.processes, *opened])
        if killed:
            whose = f"run {holder.run} (its pytest, pid {holder.owner.pid}, is gone)"
            where = holder.unit if holder.unit.startswith("gpu-") else "this host"
            self._notify(
                f"killed what {whose} left behind on {where}: {', '.join(map(str, killed))}"
            )

    def _take(self, wanted: Wanted, grant: Grant) -> Lease | Blocked:
        """Lock and write every file, or none of them: a lock may be held by a process that the file
        does not name."""
        since = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S")
        owner = identify(os.getpid())
        if owner is None:
            raise BenchmarkError(_broker_failure("/proc does not show this process"))
        units = [HOST, *(_of_its_own(unit) for unit in grant.units)]
        files: list[LeaseFile] = []
        try:
            for unit in units:
                file = LeaseFile(lease_path(self.folder, unit), create=True)
                files.append(file)
                if not file.try_lock(shared=unit == HOST and not wanted.exclusive):
                    raise BlockingIOError
                if unit != HOST or wanted.exclusive:
                    file.write(
                        Holder(
                            unit,
                            owner,
                            this_place(),
                            wanted.run,
                            wanted.server,
                            since,
                            wanted.exclusive,
                            cpus=grant.cpus,
                        )
                    )
        except BaseException as error:
            for file in files:
                file.close()
            if isinstance(error, OSError) and not isinstance(error, BlockingIOError):
                path = lease_path(self.folder, units[min(len(files), len(units) - 1)])
                raise BenchmarkError(
                    _broker_failure(f"{path}: {error.strerror or error}")
                ) from error
            if isinstance(error, BlockingIOError):
                pids = frozenset(lock_holders(files[-1].path))
                who = (
                    ", ".join(map(in_words, sorted(pids)))
                    or "a process that cannot be seen from here"
                )
                return Blocked((f"{files[-1].path} is locked by {who}",), pids, own_run=False)
            raise
        return Lease(grant, wanted, files, lambda: self._locked(_RELEASE_SECONDS))


def _of_its_own(unit: str) -> str:
    """Servers that share the cores have a lease each, so that they can be counted."""
    if unit != "cpu-shared":
        return unit
    return f"{unit}-{os.getpid()}-{time.monotonic_ns()}"


def _busy(wanted: Wanted, blocked: Blocked, timeout: float) -> Failure:
    remedy = (
        "Wait for it or end it; GPUs that others use can be left out with CUDA_VISIBLE_DEVICES."
    )
    if wanted.exclusive:
        remedy = (
            "Wait for it or end it. GPUs that others use can be left out with "
            "CUDA_VISIBLE_DEVICES; runs that all have "
            "--gpubench-exclusive=no go side by side on GPUs of their own."
        )
    return Failure(
        "host-busy",
        "infrastructure",
        f"not started, after {timeout:.0f} s of waiting: {blocked.reasons[0]}",
        blocked.reasons[1:],
        remedy=remedy,
    )


def _broker_failure(reason: str) -> Failure:
    return Failure(
        "leases-unusable",
        "infrastructure",
        f"the leases of this host cannot be looked at: {reason}",
        remedy="End the process that holds it, remove what is no lease there, or set "
        "GPUBENCH_LEASE_DIR to another local folder of your own.",
    )
