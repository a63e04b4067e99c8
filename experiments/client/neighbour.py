"""Does it harm numbers when the next server's process imports while one is measured? Pairs of loads
on one real llama.cpp server: alone, and beside a process that imports at the idle class.

    python experiments/client/neighbour.py --rounds 8 [--module vllm.entrypoints.openai.api_server]
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pytest_gpubench.engines.engine import Engine
from pytest_gpubench.engines.lifecycle import EngineSettings, start_engine
from pytest_gpubench.load.load_run import run_load
from pytest_gpubench.load.protocol import LoadPlan
from pytest_gpubench.load.workers import WorkerPool
from pytest_gpubench.measure.compute import window_of
from pytest_gpubench.model.workload import Workload
from pytest_gpubench.recipes.loading import load_recipes
from pytest_gpubench.runs.model_files import fetch_weights, weights_files

_KEY = "tiny-f32-cpu-llamacpp-tp1"
_COMMAND = (sys.executable, "-m", "pytest_gpubench.dialects.llamacpp.xllamacpp_server")
_IMPORTING = """
import os, subprocess, sys
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
while True:
    subprocess.run([sys.executable, "-c", "import " + sys.argv[1]], capture_output=True)
"""
_WORKLOAD = Workload(128, 32, 4, 48, 8, dataset="text")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--module", default="vllm.entrypoints.openai.api_server")
    options = parser.parse_args()
    spec = load_recipes([Path("recipes.yaml")]).server(_KEY)
    fetch_weights(spec, None)
    found: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as folder:
        settings = EngineSettings(_COMMAND, Path(folder, "log"), weights=weights_files(spec, None))
        engine, pool = start_engine(spec, settings), WorkerPool()
        try:
            for number in range(options.rounds):
                for beside in ((False, True), (True, False))[number % 2]:
                    module = options.module if beside else ""
                    found[beside].append(_measured(engine, pool, str(number), module))
        finally:
            pool.close()
            engine.stop()
    print(
        f"load average {os.getloadavg()[0]:.1f}\n| | output tok/s | TTFT p50, ms |\n|---|---|---|"
    )
    for beside, seen in found.items():
        rate, ttft = (statistics.median(column) for column in zip(*seen, strict=True))
        words = "beside an importing process" if beside else "alone"
        print(f"| {words} | {rate:.0f} | {ttft * 1e3:.1f} |")
    pairs = zip(found[False], found[True], strict=True)
    print("change per pair: " + ", ".join(f"{two[0] / one[0] - 1:+.0%}" for one, two in pairs))


def _measured(engine: Engine, pool: WorkerPool, salt: str, module: str) -> tuple[float, float]:
    """Output tokens per second and the median TTFT in seconds."""
    neighbour = None
    if module:
        neighbour = subprocess.Popen(
            [sys.executable, "-c", _IMPORTING, module], start_new_session=True
        )
        time.sleep(1.0)
    try:
        plan = LoadPlan(engine.url, engine.served_name, _WORKLOAD, "llamacpp", salt=salt)
        result = run_load(plan, api_key=engine.api_key, pool=pool)
    finally:
        if neighbour is not None:
            os.killpg(neighbour.pid, signal.SIGKILL)
            neighbour.wait()
    first, last = window_of(result.records)
    good = [record for record in result.of_phase("measured") if record.ok]
    tokens = sum(record.completion_tokens or 0 for record in good)
    ttfts = [((record.first_token_ns or 0) - record.due_ns) / 1e9 for record in good]
    return tokens / ((last - first) / 1e9), statistics.median(ttfts)


if __name__ == "__main__":
    main()
