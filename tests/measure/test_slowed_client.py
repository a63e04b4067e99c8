"""A client that is slowed on purpose must void its own measurement, with the right reason; an
unslowed one must not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time

import psutil
import pytest

from pytest_gpubench.dialects.metrics_page import Scrape
from pytest_gpubench.dialects.vllm.dialect import COUNTERS
from pytest_gpubench.load.client_calibration import loopback_process
from pytest_gpubench.load.load_run import run_load
from pytest_gpubench.load.measuring import Measuring
from pytest_gpubench.load.protocol import ClientFacts, LoadPlan, Progress, RequestRecord
from pytest_gpubench.load.transport import Slot
from pytest_gpubench.measure.compute import compute
from pytest_gpubench.measure.measurement import Measurement
from pytest_gpubench.model.specs import Topology
from pytest_gpubench.model.workload import Workload
from tests.busy import host_is_busy

pytestmark = pytest.mark.slow

WORKLOAD = Workload(isl=40, osl=32, conc=8, num_prompts=24, num_warmups=8, range_ratio=1.0)


def measurement(records: tuple[RequestRecord, ...], client: ClientFacts) -> Measurement:
    empty = Scrape(())
    return compute(
        records,
        empty,
        empty,
        WORKLOAD,
        Topology(),
        client,
        speculative=False,
        prefix_caching=False,
        counters=COUNTERS,
    )


def in_process(url: str) -> Measurement:
    """The worker's own code in this process, where a test can slow it."""

    async def main() -> tuple[ClientFacts, tuple[RequestRecord, ...]]:
        async def gate(stage: str) -> int:
            return 0

        measuring = Measuring(LoadPlan(url, "loopback", WORKLOAD), "", lambda progress: None, gate)
        facts = await measuring.work()
        return facts, tuple(measuring.records())

    facts, records = asyncio.run(main())
    return measurement(records, facts)


def test_sleep_in_the_reader_voids_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Slot.data_received

    def sleepy(self: Slot, data: bytes) -> None:
        time.sleep(0.003)
        original(self, data)

    monkeypatch.setattr(Slot, "data_received", sleepy)
    with loopback_process() as url:
        found = in_process(url)
    assert found.problems == ()
    assert any("event loop was late" in reason for reason in found.invalid), found.invalid


def test_busy_reader_voids_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Slot.data_received

    def busy(self: Slot, data: bytes) -> None:
        until = time.monotonic() + 0.004
        while time.monotonic() < until:
            pass
        original(self, data)

    monkeypatch.setattr(Slot, "data_received", busy)
    with loopback_process() as url:
        found = in_process(url)
    assert any("busy" in reason or "event loop was late" in reason for reason in found.invalid), (
        found.invalid
    )


def test_a_client_that_does_not_get_its_core_voids_the_measurement() -> None:
    """Stopped half of the time, as beside neighbours; how kind a scheduler is differs."""
    ended = threading.Event()

    def starve(pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            while not ended.wait(0.02):
                os.kill(pid, signal.SIGSTOP)
                time.sleep(0.02)
                os.kill(pid, signal.SIGCONT)

    starving: dict[int, threading.Thread] = {}

    def begin(_progress: Progress) -> None:
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.Error):
                if "pytest_gpubench.load.worker" in child.cmdline() and child.pid not in starving:
                    starving[child.pid] = threading.Thread(target=starve, args=[child.pid])
                    starving[child.pid].start()

    with loopback_process() as url:
        try:
            result = run_load(LoadPlan(url, "loopback", WORKLOAD), on_progress=begin)
        finally:
            ended.set()
            for thread in starving.values():
                thread.join()
    assert starving
    found = measurement(result.records, result.client)
    assert found.problems == ()
    assert any(
        "event loop was late" in reason or "requests were sent" in reason
        for reason in found.invalid
    ), found.validity


def test_undisturbed_client_counts() -> None:
    """On a host that is busy with other work the client is slowed indeed: then nothing can be
    said."""
    with loopback_process() as url:
        for _ in range(5):
            result = run_load(LoadPlan(url, "loopback", WORKLOAD))
            found = measurement(result.records, result.client)
            if not found.invalid:
                return
    assert host_is_busy(), found.invalid
