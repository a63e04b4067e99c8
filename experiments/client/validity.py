"""How often is a good measurement called INVALID, and is a bad one? Short runs against the loopback
server.

    python experiments/client/validity.py [--runs 100] [--write experiments/client/README.md]

An undisturbed client is measured ``--runs`` times; then clients that are slowed on purpose in three
ways: by busy processes on its core (which the kernel keeps from doing harm, mostly) and by one that
goes before it, by a sleep in its reader, and by a stop of the whole process now and then.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
from client_tables import machine_line, replace_part

from pytest_gpubench.dialects.vllm.dialect import COUNTERS
from pytest_gpubench.engines.idleness import wait_idle
from pytest_gpubench.load.client_calibration import loopback_process
from pytest_gpubench.load.load_run import run_load
from pytest_gpubench.load.protocol import LoadPlan
from pytest_gpubench.measure.compute import compute
from pytest_gpubench.measure.measurement import Measurement
from pytest_gpubench.model.specs import Topology
from pytest_gpubench.model.workload import Workload

WORKLOAD = Workload(isl=64, osl=32, conc=8, num_prompts=40, num_warmups=8, range_ratio=1.0)
TOPOLOGY = Topology(1)
SLOW_READER = """
import time
from pytest_gpubench.load.transport import Slot
_read = Slot.data_received
def slow(self, data):
    time.sleep(0.003)
    _read(self, data)
Slot.data_received = slow
"""


def measure(url: str, priority: bool) -> Measurement:
    """One short run, judged as the plugin judges it."""

    def scrape() -> str:
        with urllib.request.urlopen(f"{url}/metrics", timeout=30) as response:
            return bytes(response.read()).decode()

    before = wait_idle(scrape, COUNTERS, 30)
    result = run_load(LoadPlan(url, "loopback", WORKLOAD, priority=priority), fetch_metrics=scrape)
    after = wait_idle(scrape, COUNTERS, 30)
    return compute(
        result.records,
        before,
        after,
        WORKLOAD,
        TOPOLOGY,
        result.client,
        speculative=False,
        prefix_caching=False,
        counters=COUNTERS,
    )


def spin(core: int) -> None:
    """A busy process on one core, a little before others where that is permitted: at one level the
    kernel favours who sleeps."""
    os.sched_setaffinity(0, {core})
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -3)
    while True:
        pass


@contextlib.contextmanager
def busy_core(number: int = 3) -> Iterator[None]:
    """Busy processes on every core that the client may use."""
    cores = [core for core in os.sched_getaffinity(0) for _ in range(number)]
    spinners = [multiprocessing.Process(target=spin, args=(core,), daemon=True) for core in cores]
    for process in spinners:
        process.start()
    try:
        yield
    finally:
        for process in spinners:
            process.kill()
            process.join()


def burst(core: int) -> None:
    """A real-time process above the client's level: it computes for 15 ms of every 30. Needs
    CAP_SYS_NICE."""
    os.sched_setaffinity(0, {core})
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(50))
    while True:
        end = time.monotonic() + 0.015
        while time.monotonic() < end:
            pass
        time.sleep(0.015)


@contextlib.contextmanager
def pushed_aside() -> Iterator[None]:
    """Such a process on every core that the client may use."""
    bursts = [
        multiprocessing.Process(target=burst, args=(core,), daemon=True)
        for core in os.sched_getaffinity(0)
    ]
    for process in bursts:
        process.start()
    try:
        yield
    finally:
        for process in bursts:
            process.kill()
            process.join()


@contextlib.contextmanager
def slow_reader() -> Iterator[None]:
    """Three milliseconds of sleep in the reader, through a site module of the worker's."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "sitecustomize.py").write_text(SLOW_READER, "utf-8")
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (folder, before)))
        try:
            yield
        finally:
            del os.environ["PYTHONPATH"]
            if before:
                os.environ["PYTHONPATH"] = before


@contextlib.contextmanager
def stopped_now_and_then() -> Iterator[None]:
    """The client's process is stopped for 30 ms, five times a second."""
    leave = threading.Event()

    def torment() -> None:
        while not leave.wait(0.2):
            for child in psutil.Process().children():
                with contextlib.suppress(psutil.Error, ProcessLookupError):
                    if "pytest_gpubench.load.worker" in child.cmdline():
                        os.kill(child.pid, signal.SIGSTOP)
                        time.sleep(0.03)
                        os.kill(child.pid, signal.SIGCONT)

    thread = threading.Thread(target=torment)
    thread.start()
    try:
        yield
    finally:
        leave.set()
        thread.join()


WAYS: dict[str, tuple[Callable[[], contextlib.AbstractContextManager[None]], bool]] = {
    "undisturbed": (contextlib.nullcontext, True),
    "beside busy processes, at normal priority": (busy_core, False),
    "beside busy processes, at real-time priority": (busy_core, True),
    "pushed aside by a busy real-time process, 15 of every 30 ms": (pushed_aside, True),
    "delayed by 3 ms of sleep in the reader": (slow_reader, True),
    "stopped for 30 ms, five times a second": (stopped_now_and_then, True),
}


@contextlib.contextmanager
def server() -> Iterator[str]:
    """The loopback server on the last core, the client and its tormentors on the others."""
    cores = sorted(os.sched_getaffinity(0))
    try:
        os.sched_setaffinity(0, {cores[-1]})
        with loopback_process("--ttft", "0.05", "--token-time", "0.01") as url:
            os.sched_setaffinity(0, set(cores[:-1] or cores))
            yield url
    finally:
        os.sched_setaffinity(0, set(cores))


def line(name: str, found: Sequence[Measurement]) -> str:
    """One row of the table."""
    voided = [one for one in found if one.invalid]
    reasons: dict[str, int] = {}
    for one in voided:
        for reason in one.invalid:
            key = (
                " ".join(reason.partition(" by ")[0].split()[:9])
                if "event loop" in reason
                else " ".join(reason.split()[:3])
            )
            reasons[key] = reasons.get(key, 0) + 1
    said = "; ".join(f"{key} ... ({count}x)" for key, count in reasons.items()) or "-"
    lags = sorted(float(one.validity["lag_mean"] or 0) * 1e3 for one in found)
    return (
        f"| {name} | {len(found)} | {len(voided)} | {lags[len(lags) // 2]:.2f} / "
        f"{lags[-1]:.2f} | {said} |"
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--runs", type=int, default=100, help="undisturbed runs (default: 100; 0: no such row)"
    )
    parser.add_argument(
        "--slowed", type=int, default=5, help="runs of each slowed kind (default: 5)"
    )
    parser.add_argument(
        "--write",
        type=Path,
        metavar="FILE.md",
        help="replace the table between its marks in this file",
    )
    options = parser.parse_args()
    told = [
        f"{machine_line()} {WORKLOAD.num_prompts} requests at c={WORKLOAD.conc}, first "
        "token after 50 ms, then one per 10 ms.",
        "",
        "| the client is | runs | INVALID | mean event-loop lag, ms: median / worst "
        "run | reasons |",
        "|---|---|---|---|---|",
    ]
    with server() as url:
        for name, (way, priority) in WAYS.items():
            if way is contextlib.nullcontext and not options.runs:
                continue
            found = []
            for turn in range(options.runs if way is contextlib.nullcontext else options.slowed):
                with way():
                    found.append(measure(url, priority))
                if found[-1].invalid:
                    why = "; ".join(found[-1].invalid)
                    print(
                        f"{name} {turn + 1}: {why} (load {os.getloadavg()[0]:.1f})",
                        file=sys.stderr,
                        flush=True,
                    )
            told.append(line(name, found))
            print(told[-1], flush=True)
    if options.write:
        replace_part(options.write, "validity", "\n".join(told))


if __name__ == "__main__":
    main()
