"""Everything that only a GPU can show, step by step into one results folder.

    benchmarks/hardware/run --results DIR [--hardware h100] [--steps doomed,client,...]

Steps run in this order, each writes its own JSON as it goes, and one that fails does not stop the next. On a host of its own only:
servers of a crowd are started past the leases. `--hardware cpu --few` rehearses the whole on the CPU engine.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import client
import faults
import outcomes
import recipes
import sharing
import spread
import topologies
from context import Context
from fleet import say

from pytest_gpubench.host.facts import host_facts
from pytest_gpubench.host.gpus.facts import gpu_facts
from pytest_gpubench.host.gpus.inventory import read_inventory
from pytest_gpubench.report.provenance import client_versions

STEPS: dict[str, Callable[[Context], None]] = {
    "doomed": outcomes.step,
    "client": client.step,
    "faults": faults.step,
    "m3mini": lambda context: _pytest(context, "m3mini", f"m3mini and {context.hardware} and mtp", 420.0),
    "aa": spread.step,
    "sharing": sharing.step,
    "topologies": topologies.step,
    "parallel": lambda context: topologies.side_by_side(context, 240.0),
}
ONE_GPU = ("doomed", "client", "faults", "m3mini", "aa", "sharing")


def _pytest(context: Context, step: str, keyword: str, limit: float) -> None:
    if context.hardware == "cpu":
        keyword = "tiny and cpu and mtp and not ngram"
    context.write(step, context.pytest(step, "-k", keyword, limit=limit))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hardware", help="h100, h200 or cpu (default: what this host has)")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--cache", type=Path, help="Hugging Face cache for the models (default: in the results' parent)")
    parser.add_argument("--steps", help=f"of {', '.join(STEPS)}, by commas (default: all that this host can do)")
    parser.add_argument("--few", action="store_true", help="a rehearsal with few launches and requests")
    options = parser.parse_args()
    inventory = read_inventory()
    found = next((gpu.hardware.key for gpu in inventory.gpus if gpu.hardware is not None), "cpu")
    hardware = options.hardware or found
    results = options.results.absolute()
    results.mkdir(parents=True, exist_ok=True)
    cache = (options.cache or results.parent / "models").absolute()
    os.environ.setdefault("VLLM_CACHE_ROOT", str(cache.parent / "vllm-cache"))
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["VLLM_USE_FLASHINFER_SAMPLER"] = "0"
    recipes.prepare(cache)
    context = Context(hardware, results, cache, options.few)
    facts = {
        "host": host_facts(inventory),
        "gpus": gpu_facts([gpu.uuid for gpu in inventory.gpus]),
        "versions": client_versions(),
        "environment": {name: value for name, value in os.environ.items() if name.startswith(("NCCL_", "TORCH_", "NVSHMEM_"))},
    }
    context.write("host", facts)
    several = ("topologies", "parallel") if len(context.gpus) > 1 else ()
    steps = options.steps.split(",") if options.steps else [*ONE_GPU, *several]
    times: dict[str, float] = {}
    for step in steps:
        started = time.monotonic()
        say(f"step {step}")
        try:
            STEPS[step](context)
        except Exception:  # noqa: BLE001  # the next steps need not suffer
            say(traceback.format_exc())
            (results / f"{step}.error.txt").write_text(traceback.format_exc(), "utf-8")
        times[step] = round(time.monotonic() - started, 1)
        memory = faults.level_of(context.gpus)
        recipes.dump(results / f"{step}.time.json", {"seconds": times[step], "memory_gib_after": memory})
        say(f"step {step} took {times[step]} s; memory in use {memory} GiB")
        (results / f"{step}.done").touch()
    shutil.rmtree(results / "recipes" / "__pycache__", ignore_errors=True)


if __name__ == "__main__":
    main()
