"""How many chunks per second the client takes, by its number of processes, each with a core of its
own.

    python experiments/client/ceiling.py --workers 1 2 --servers 6 --rounds 3

Loopback servers that share one port send on the last cores, one each; the client's processes have
the first ones. A server offers some 160,000 chunks/s at most, so that a client of two processes
needs more than one. Chunks and times are those of the client's own records.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psutil
from client_tables import machine_line
from compare import FLOOD_TOKEN_TIME, TTFT

from pytest_gpubench.load.client_calibration import loopback_process
from pytest_gpubench.load.load_run import run_load
from pytest_gpubench.load.protocol import LoadPlan
from pytest_gpubench.model.workload import Workload
from tools import Watch, cpu_between

TOKENS = 4000


@contextmanager
def servers(cores: list[int]) -> Iterator[str]:
    """One on each core, all on one port; the kernel shares the connections out."""
    everything = os.sched_getaffinity(0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    options = ("--port", port, "--reuse-port", "--ttft", str(TTFT))
    with ExitStack() as stack:
        try:
            for core in cores:
                os.sched_setaffinity(0, {core})
                url = stack.enter_context(
                    loopback_process(*options, "--token-time", str(FLOOD_TOKEN_TIME))
                )
            os.sched_setaffinity(0, everything - set(cores))
            yield url
        finally:
            os.sched_setaffinity(0, everything)


def flood(url: str, workers: int, streams: int) -> tuple[float, float]:
    """Chunks per second, and CPU seconds of the client per chunk."""
    workload = Workload(
        isl=64,
        osl=TOKENS,
        conc=streams,
        num_prompts=streams,
        num_warmups=streams,
        range_ratio=1.0,
        workers=workers,
    )
    watch = Watch(psutil.Process())
    watch.start()
    try:
        result = run_load(LoadPlan(url, "loopback", workload))
    finally:
        watch.stop()
    if result.failed:
        raise RuntimeError(result.failed[0].error)
    stamps = [record.chunk_ns for record in result.of_phase("measured")]
    start, end = min(one[0] for one in stamps), max(one[-1] for one in stamps)
    chunks = sum(map(len, stamps))
    return chunks / (end - start) * 1e9, cpu_between(watch.samples, start, end) / chunks


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--servers", type=int, default=1)
    parser.add_argument("--streams", type=int, default=64, help="per client process")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < options.servers + max(options.workers):
        parser.error(f"{len(cores)} cores are too few: one for each server and each client process")
    found: dict[int, list[tuple[float, float]]] = {workers: [] for workers in options.workers}
    print(machine_line())
    for _ in range(options.rounds):
        for workers in options.workers:
            with servers(cores[-options.servers :]) as url:
                os.sched_setaffinity(0, set(cores[:workers]))
                row = flood(url, workers, options.streams * workers)
                print(f"{workers}: {row[0]:,.0f} chunks/s, {row[1] * 1e6:.1f} us", flush=True)
                found[workers].append(row)
    print("\n| client processes | chunks/s | client CPU per chunk, us |\n|---|---|---|")
    for workers, rows in found.items():
        rate, cpu = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"| {workers} | {rate:,.0f} | {cpu * 1e6:.1f} |")


if __name__ == "__main__":
    main()
