"""What a server holds while it lives."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import psutil

from pytest_gpubench.host.host_facts import ranges
from pytest_gpubench.host.leases.choice import Grant, Wanted
from pytest_gpubench.host.leases.lease_file import LeaseFile, lease_files
from pytest_gpubench.host.leases.owners import lock_holders, with_descendants
from pytest_gpubench.model.failures import GpubenchError

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
