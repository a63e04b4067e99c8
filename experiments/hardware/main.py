"""Everything that only a GPU can show, step by step into one results folder.

    experiments/hardware/run --results DIR [--hardware h100] [--steps doomed+client,faults,...]

Each step writes its own JSON as it goes, and one that fails does not stop the next. On a host of
its own only: servers of a crowd are started past the leases. `--hardware cpu --few` rehearses the
whole on the CPU engine.
"""

from __future__ import annotations

import argparse
import functools
import os
import time
import traceback
from collections.abc import Callable
from concurrent.futures import wait
from pathlib import Path

import backport
import client
import faults
import outcomes
import recipes
import sharing
import spread
import topologies
from context import Context
from fleet import Crowd, Job, fleet, say

from pytest_gpubench.host.gpus.drivers import gpu_facts, read_inventory
from pytest_gpubench.host.host_facts import client_versions, host_facts

CROWDS: dict[str, tuple[Callable[[Context], list[Job]], Callable[[Context, Crowd], None]]] = {
    "doomed": (outcomes.jobs, outcomes.run),
    "topologies": (topologies.jobs, topologies.run),
    "client": (client.jobs, client.run),
    "aa": (spread.jobs, spread.run),
    "sharing": (sharing.jobs, sharing.run),
}
"""Steps whose servers start side by side, with the other steps joined by ``+``: what to start, and
what to do then."""
ALONE: dict[str, Callable[[Context], None]] = {
    "faults": faults.step,
    "rank": faults.kill_rank,
    "m3mini": lambda context: _pytest(
        context, "m3mini", f"m3mini and {context.hardware} and mtp", 900.0
    ),
    "parallel": lambda context: topologies.side_by_side(context, 420.0),
    "real": topologies.real,
    "several": lambda context: _several(context, 480.0),
}
DEFAULT = "doomed+topologies+client,faults,m3mini,aa+sharing"


def _pytest(context: Context, step: str, keyword: str, limit: float) -> None:
    if context.hardware == "cpu":
        keyword = "tiny and cpu and mtp and not ngram"
    # One GPU, also where there are more: what needs several is skipped here and measured by the
    # step topologies.
    context.write(step, context.pytest(step, "-k", keyword, limit=limit, gpus=1))


def _several(context: Context, limit: float) -> None:
    """Tensor and data parallelism as a user runs them, with the plugin's own starts one after the
    other."""
    if len(context.gpus) < 2:
        return
    keyword = f"m3mini and {context.hardware} and mtp and fp8 and (tp2 or dep2)"
    context.write("several", context.pytest("several", "-k", keyword, limit=limit))


def _attempt(context: Context, step: str, work: Callable[[], None]) -> None:
    """A step that fails says why, and the next ones need not suffer."""
    started = time.monotonic()
    say(f"step {step}")
    try:
        work()
    except Exception:  # noqa: BLE001  # whatever it is
        say(traceback.format_exc())
        (context.results / f"{step}.error.txt").write_text(traceback.format_exc(), "utf-8")
    seconds, memory = round(time.monotonic() - started, 1), faults.level_of(context.gpus)
    recipes.dump(
        context.results / f"{step}.time.json", {"seconds": seconds, "memory_gib_after": memory}
    )
    say(f"step {step} took {seconds} s; memory in use {memory} GiB")
    (context.results / f"{step}.done").touch()


def _crowd(context: Context, steps: list[str]) -> None:
    """Start the servers of several steps side by side; nothing is measured before the last of them
    is up or dead."""
    jobs = [
        job
        for step in steps
        for job in CROWDS[step][0](context)
        if not context.leaves_out(job.name)
    ]
    say(f"{len(jobs)} servers start")
    with fleet(jobs, context.folder("+".join(steps)), context.cache) as crowd:
        if "doomed" in steps:
            _attempt(context, "doomed", lambda: outcomes.run(context, crowd))
        wait(crowd.values())
        say("no server is starting any more")
        for step in steps:
            if step != "doomed":
                _attempt(context, step, functools.partial(CROWDS[step][1], context, crowd))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hardware", help="h100, h200 or cpu (default: what this host has)")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument(
        "--cache",
        type=Path,
        help="Hugging Face cache for the models (default: in the results' parent)",
    )
    parser.add_argument("--steps", help=f"of {', '.join([*CROWDS, *ALONE])} (default: {DEFAULT})")
    parser.add_argument(
        "--conc",
        default="",
        metavar="LIST",
        help="concurrencies of the step client (default: 1,8,64,256)",
    )
    parser.add_argument(
        "--leave-out",
        default="",
        metavar="REGEX",
        help="servers of topologies that are not started",
    )
    parser.add_argument(
        "--backport",
        action="store_true",
        help="mend vLLM 0.26's MiniMax-M3 on Hopper first: see backport.py",
    )
    parser.add_argument(
        "--few", action="store_true", help="a rehearsal with few launches and requests"
    )
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
    mended = backport.apply() if options.backport else []
    concurrencies = tuple(int(word) for word in options.conc.split(",") if word)
    context = Context(
        hardware, results, cache, options.few, options.leave_out, bool(mended), concurrencies
    )
    facts = {
        "host": host_facts(inventory),
        "gpus": gpu_facts(inventory.gpus),
        "versions": client_versions(),
        "mended": mended,
        "environment": {
            name: value
            for name, value in os.environ.items()
            if name.startswith(("NCCL_", "TORCH_", "NVSHMEM_"))
        },
    }
    context.write("host", facts)
    several = ",rank,parallel,several" if len(context.gpus) > 1 else ""
    for steps in (options.steps or DEFAULT + several).split(","):
        names = steps.split("+")
        if names[0] in ALONE:
            _attempt(context, steps, functools.partial(ALONE[steps], context))
        else:
            _attempt(context, f"crowd-{steps}", functools.partial(_crowd, context, names))


if __name__ == "__main__":
    main()
