"""What a measuring process that lives on holds: its memory over many cases, its CPU per case.

    python experiments/client/lifetime.py --cases 200

Cases of the demo's size (concurrency 1, 4 and 8 in turns, prompts of 128 tokens, answers of 32)
against the loopback server. CPU is that of the measuring process and of this one, pytest's side,
over a whole case; the load's own share is what the process used in the measured window and the
warm-up's is not taken off.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

import psutil

from pytest_gpubench.load.load_run import run_load
from pytest_gpubench.load.protocol import LoadPlan
from pytest_gpubench.load.workers import WorkerPool
from pytest_gpubench.model.workload import Workload

_CONCURRENCIES = (1, 4, 8)


@dataclass(frozen=True, slots=True)
class _Seen:
    memory: float
    """MiB of the measuring process, resident, after the case."""
    worker: float
    """CPU seconds of it outside of the measured window."""
    ours: float
    """CPU seconds of this process."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=200)
    options = parser.parse_args()
    argv = [sys.executable, "-m", "pytest_gpubench.load.loopback"]
    argv += ["--ttft", "0.01", "--token-time", "0.002"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        pool = WorkerPool()
        try:
            _table(_run(url, pool, options.cases))
        finally:
            pool.close()
            server.kill()


def _run(url: str, pool: WorkerPool, cases: int) -> list[_Seen]:
    seen: list[_Seen] = []
    pool.prepare(1)
    time.sleep(5.0)
    known: set[int] = set()
    for number in range(cases):
        conc = _CONCURRENCIES[number % len(_CONCURRENCIES)]
        workload = Workload(128, 32, conc, 4 * conc, 2 * conc, dataset="text")
        (process,) = [child for child in psutil.Process().children() if _is_worker(child)]
        known.add(process.pid)
        before, mine = _cpu(process), time.process_time()
        result = run_load(LoadPlan(url, "loopback", workload, salt=str(number)), pool=pool)
        assert not result.failed
        time.sleep(0.2)  # it gives memory back once it has said that it is done
        seen.append(
            _Seen(
                process.memory_info().rss / 2**20,
                _cpu(process) - before - result.client.cpu_seconds,
                time.process_time() - mine,
            )
        )
    assert len(known) == 1, "it was replaced"
    return seen


def _is_worker(process: psutil.Process) -> bool:
    return "pytest_gpubench.load.worker" in process.cmdline()


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _table(seen: list[_Seen]) -> None:
    print(
        "| Cases | resident memory, MiB | CPU of it per case, s | CPU of pytest's side per case, s |"
    )
    print("|---|---|---|---|")
    step = max(1, len(seen) // 10)
    for first in range(0, len(seen), step):
        part = seen[first : first + step]
        print(
            f"| {first + 1} to {first + len(part)} | {max(one.memory for one in part):.1f} | "
            f"{statistics.fmean(one.worker for one in part):.3f} | "
            f"{statistics.fmean(one.ours for one in part):.3f} |"
        )


if __name__ == "__main__":
    main()
