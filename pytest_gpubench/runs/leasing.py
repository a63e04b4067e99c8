"""The leases of a run's servers: taken before a start, given back after the stop, and the words
about both."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from pytest_gpubench.dialects.registry import dialect_of
from pytest_gpubench.host.gpus.amd import UNSEEN
from pytest_gpubench.host.gpus.drivers import read_inventory
from pytest_gpubench.host.gpus.inventory import Gpu, visible_inventory
from pytest_gpubench.host.host_facts import physical_cores
from pytest_gpubench.host.leases.broker import Broker, Lease
from pytest_gpubench.host.leases.choice import Wanted, memory_not_returned, server_env
from pytest_gpubench.model.hardware import Hardware
from pytest_gpubench.model.specs import ServerSpec
from pytest_gpubench.runs.settings import Settings

_MEMORY_SECONDS = 5.0
_MEMORY_POLL_SECONDS = 0.2


class Leasing:
    """One lease at a time, as a process runs one server at a time."""

    def __init__(
        self, settings: Settings, run: str, say: Callable[[str], None], side_by_side: int = 1
    ) -> None:
        self._settings = settings
        self._run = run
        self._side_by_side = side_by_side
        self.say = say
        """Tells the person at the terminal a line, now."""
        self._broker = Broker(notify=say)
        self._lease: Lease | None = None
        self._said_unseen = False

    def take(self, server: str, spec: ServerSpec, hardware: Hardware) -> Lease:
        """Everything that a server needs of this host; waits for it up to the start timeout.

        Raises:
            BenchmarkError: infrastructure, naming who is in the way.
        """
        self.end()
        on_cpu = spec.hardware == "cpu"
        places = dialect_of(spec.framework).thread_places
        wanted = Wanted(
            server,
            self._run,
            exclusive=self._settings.exclusive,
            gpus=0 if on_cpu else spec.topology.gpus,
            ranks=spec.topology.gpus,
            cores=physical_cores() if on_cpu and places not in spec.env else (),
            side_by_side=self._side_by_side,
        )
        timeout = self._settings.start_timeout_s
        self._lease = self._broker.acquire(
            wanted, timeout=timeout, gpus=lambda: _gpus_now(hardware)
        )
        if hardware.platform == "rocm" and not self._said_unseen:
            self._said_unseen = True
            self.say(UNSEEN)
        return self._lease

    def env(self, spec: ServerSpec, engine_version: str | None) -> dict[str, str]:
        """Environment that keeps the server on what it was granted."""
        if self._lease is None:
            return {}
        return server_env(
            self._lease.grant, dialect_of(spec.framework), engine_version, spec.topology.gpus
        )

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """The GPUs of the running server; none where nothing was leased."""
        return () if self._lease is None else self._lease.grant.gpus

    def co_tenancy(self) -> dict[str, Any] | None:
        """What else of ours was on this host since the server started; None where nothing was
        leased."""
        return None if self._lease is None else self._lease.co_tenancy()

    def end(self) -> None:
        """Give back what the stopped server held; says so where its GPU memory has not come
        back."""
        lease, self._lease = self._lease, None
        if lease is None:
            return
        try:
            for sentence in _wait_for_memory(lease.grant.gpus):
                self.say(
                    f"{sentence}, {_MEMORY_SECONDS:.0f} s after the server was stopped; "
                    "the next launch there waits for it"
                )
        finally:
            lease.release()


def _gpus_now(hardware: Hardware) -> tuple[Gpu, ...]:
    return visible_inventory(read_inventory(), os.environ).of_hardware(hardware)


def _wait_for_memory(before: Sequence[Gpu]) -> list[str]:
    if not before:
        return []
    until = time.monotonic() + _MEMORY_SECONDS
    while (left := memory_not_returned(before, read_inventory().gpus)) and time.monotonic() < until:
        time.sleep(_MEMORY_POLL_SECONDS)
    return left
