"""What collecting our cases costs, beside plain parametrized tests of the same number, in one run.

    python experiments/collection/measure.py [--cases 5000] [--rounds 5]

Each round collects four times in a process of its own, in turn: plain tests and our cases, without
and with ``-k``. Printed are the medians of the CPU times over the rounds and their ratios.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

PLAIN = """
import pytest

@pytest.mark.parametrize("point", range({cases}), ids=lambda value: f"model-bf16-cpu-vllm-tp1:128x32-c{{value}}")
def test_throughput(point):
    pass
"""
RECIPE = """
{name}:
  model: org/model
  model-prefix: model
  precision: bf16
  framework: vllm
  runner: h100
  multinode: false
  serve: {{block-size: 128, max-num-batched-tokens: "${{isl * 2}}"}}
  scenarios:
    fixed-seq-len:
"""
SHAPE = "    - {{isl: {isl}, osl: 1024, search-space: [{{tp: 8, conc-list: {concurrencies}}}]}}\n"
CONCURRENCIES = 50
SHAPES = 10
# Compiled modules are cached, as on a user's machine.
ENVIRONMENT = {
    name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
}


def write_recipes(folder: Path, cases: int) -> int:
    """Recipes with about that many cases; returns how many."""
    text, written, number = "", 0, 0
    while written < cases:
        text += RECIPE.format(name=f"model-bf16-h100-vllm-v{number:03d}")
        for shape in range(1, SHAPES + 1):
            text += SHAPE.format(isl=1024 * shape, concurrencies=list(range(1, CONCURRENCIES + 1)))
            written += CONCURRENCIES
        number += 1
    (folder / "recipes.yaml").write_text(text)
    (folder / "test_serving.py").write_text("from pytest_gpubench.suite import test_throughput\n")
    return written


def collect(folder: Path, expected: int, *arguments: str) -> float:
    """CPU seconds that one collection takes: the wall clock also measures what else the machine
    does."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "-qq",
        "-p",
        "no:cacheprovider",
        *arguments,
    ]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode or str(expected) not in done.stdout:
        sys.exit(f"the collection went wrong:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    times: dict[str, list[float]] = {"plain": [], "ours": [], "plain -k": [], "ours -k": []}
    with tempfile.TemporaryDirectory() as base:
        plain, ours = Path(base, "plain"), Path(base, "ours")
        plain.mkdir()
        ours.mkdir()
        cases = write_recipes(ours, options.cases)
        (plain / "test_serving.py").write_text(PLAIN.format(cases=cases))
        collect(plain, cases)
        collect(ours, cases)
        for _ in range(options.rounds):
            times["plain"].append(collect(plain, cases))
            times["ours"].append(collect(ours, cases))
            times["plain -k"].append(collect(plain, cases, "-k", "model and vllm"))
            times["ours -k"].append(collect(ours, cases, "-k", "model and vllm"))
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"{cases} cases, medians of {options.rounds} rounds")
    for name, seconds in medians.items():
        print(f"{name:10} {seconds:6.2f} s")
    print(
        f"ours / plain: {medians['ours'] / medians['plain']:.2f} without -k, "
        f"{medians['ours -k'] / medians['plain -k']:.2f} with -k"
    )


if __name__ == "__main__":
    main()
