"""What a planted share is worth on one server: rounds with steps as they are and longer ones, in
turn, so that the host's day is in all of them alike.

    python experiments/hardware/planted.py OUT RECIPES RECIPE CACHE [--turns 8] [--seconds 300]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path

from fleet import Job, fleet, gpus_now, measure, say, warm

sys.path.insert(0, str(Path(__file__).parents[1] / "gate"))
from slower_steps import write_plugin

from pytest_gpubench.recipes.loading import load_recipes

PLANTS = ("0", "0.1 device", "0.1", "0.05")
METRICS = ("output_tput", "tpot_p50", "ttft_p50")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("recipes", type=Path)
    parser.add_argument("recipe")
    parser.add_argument("cache", type=Path)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=300.0)
    options = parser.parse_args()
    until = time.monotonic() + options.seconds
    options.out.mkdir(parents=True, exist_ok=True)
    book = load_recipes([options.recipes])
    case = next(case for case in book.cases if case.recipe == options.recipe)
    spec = book.server(case.server)
    write_plugin(options.out / "plugin")
    share = options.out / "share"
    path = [str(options.out / "plugin"), *filter(None, [os.environ.get("PYTHONPATH")])]
    gpus = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0")}
    env = {"PYTHONPATH": os.pathsep.join(path), "SLOWER_STEPS": str(share)}
    job = Job("server", spec, env if spec.hardware == "cpu" else {**gpus, **env})
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    with fleet([job], options.out / "logs", options.cache) as crowd:
        engine = crowd["server"].result().engine
        if engine is None:
            sys.exit("the server did not start; see its log")
        say(str(warm(engine, spec, [case], gpus_now()[:1], options.out / "warm")))
        for turn in range(options.turns):
            # Every other turn backwards: no plant is always the one after another.
            for plant in PLANTS[:: 1 if turn % 2 == 0 else -1]:
                if time.monotonic() > until:
                    break
                share.write_text(plant)
                one, _ = measure(engine, case, spec, label=f"{plant.replace(' ', '-')}-{turn}")
                found[plant].append({metric: one.metrics[metric] for metric in METRICS})
                (options.out / "planted.json").write_text(json.dumps(found))
    print(f"| planted | rounds | {' | '.join(METRICS)} |")
    print("|---" * (2 + len(METRICS)) + "|")
    for plant, rounds in found.items():
        told = [_told([one[m] for one in found["0"]], [one[m] for one in rounds]) for m in METRICS]
        print(f"| {plant} | {len(rounds)} | {' | '.join(told)} |")


def _told(before: list[float], now: list[float]) -> str:
    """The change of the geometric mean, and its standard error."""
    logs = [list(map(math.log, values)) for values in (before, now)]
    change = statistics.mean(logs[1]) - statistics.mean(logs[0])
    error = math.sqrt(sum(statistics.variance(one) / len(one) for one in logs if len(one) > 1))
    return f"{math.expm1(change):+.1%} (standard error {error:.1%})"


if __name__ == "__main__":
    main()
