"""A thousand streams and a prompt of 100,000 tokens: how much memory do pytest's side and the
worker take together?

    python experiments/client/footprint.py [--write experiments/client/README.md]

``run_load`` runs in a process of its own, as pytest does beside its worker; the resident memory of
both is sampled every 20 ms.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from client_tables import machine_line, replace_part

from pytest_gpubench.load.client_calibration import loopback_process


def _load(isl: int, osl: int, conc: int, requests: int) -> dict[str, int]:
    return {"isl": isl, "osl": osl, "conc": conc, "num_prompts": requests, "num_warmups": 0}


LOADS: dict[str, dict[str, int]] = {
    "1,000 streams, 3,000 requests, 256 output tokens": {
        "isl": 256,
        "osl": 256,
        "conc": 1000,
        "num_prompts": 3000,
        "num_warmups": 0,
    },
    "a prompt of 100,000 tokens, 8 at once": _load(100_000, 64, 8, 16),
}
LIMIT = 1 << 30
PARENT = """
import json, sys
import pytest, pytest_gpubench.plugin.runner
from pytest_gpubench.model.specs import Topology
from pytest_gpubench.model.workload import Workload
from pytest_gpubench.dialects.metrics_page import parse_metrics
from pytest_gpubench.load.protocol import LoadPlan
from pytest_gpubench.load.load_run import run_load
from pytest_gpubench.measure.compute import compute
workload = Workload(**json.loads(sys.argv[2]), range_ratio=1.0)
result = run_load(LoadPlan(sys.argv[1], "loopback", workload))
page = parse_metrics("")
found = compute(result.records, page, page, workload, Topology(1), result.client, counters=dialect_of('vllm').counters, speculative=False, prefix_caching=True)
print(json.dumps({"failed": len(result.failed), "problems": found.problems, "requests": found.totals.requests}))
"""


def peak(url: str, load: dict[str, int]) -> tuple[int, int, dict[str, object]]:
    """Most resident bytes of the parent and of the worker at one time (their sum's peak), and what
    the run says."""
    with tempfile.TemporaryFile("w+") as output:
        with subprocess.Popen(
            [sys.executable, "-c", PARENT, url, json.dumps(load)], stdout=output
        ) as process:
            root, best = psutil.Process(process.pid), (0, 0)
            while process.poll() is None:
                try:
                    sizes = (
                        root.memory_info().rss,
                        sum(child.memory_info().rss for child in root.children(recursive=True)),
                    )
                except psutil.Error:
                    continue
                best = max(best, sizes, key=sum)
                time.sleep(0.02)
        if process.returncode:
            raise SystemExit(f"the run ended with exit code {process.returncode}")
        output.seek(0)
        said: dict[str, object] = json.loads(output.read())
    return *best, said


def main() -> None:
    """Command line; the exit code is 1 where the limit is broken or a request failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--write",
        type=Path,
        metavar="FILE.md",
        help="replace the table between its marks in this file",
    )
    options = parser.parse_args()
    told = [
        machine_line(),
        "",
        "| load | requests | failed | pytest's side, MB | worker, MB | together |",
        "|---|---|---|---|---|---|",
    ]
    good = True
    for name, load in LOADS.items():
        with loopback_process("--ttft", "0.5", "--token-time", "0.05") as url:
            parent, worker, said = peak(url, load)
        good = good and parent + worker < LIMIT and not said["failed"] and not said["problems"]
        megabytes = [f"{size / 1e6:.0f}" for size in (parent, worker, parent + worker)]
        told.append(f"| {name} | {said['requests']} | {said['failed']} | {' | '.join(megabytes)} |")
        print(told[-1], said["problems"], flush=True)
    if options.write:
        replace_part(options.write, "footprint", "\n".join(told))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
