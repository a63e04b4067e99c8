"""How often change points of a history err: in series without a change, and with one, beside
Apache Otava's own on the same series.

    python experiments/gate/change_points.py --constants     # the table of gate/change_points.py
    python experiments/gate/change_points.py                 # false alarms and power
    python experiments/gate/change_points.py --otava         # Otava's, where apache-otava is there
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytest_gpubench.gate.change_points import (
    FALSE_ALARM,
    MAX_RUNS,
    change_points,
    pull_lone,
    strongest,
)
from pytest_gpubench.gate.statistics import SESSION, Array

SEED = 20261128
COUNTS = (6, 7, 8, 9, 10, 12, 14, 17, 20, 25, 30, 40, 50, 70, 100, 150, 200, 300, 500, MAX_RUNS)
_BATCH = 4_000_000
"""Values in memory at once."""


def constants(count: int, draws: int, rng: np.random.Generator) -> float:
    """The quantile of the largest t in normal noise that the limit is."""
    found = []
    batch = max(1, _BATCH // count)
    while draws > 0:
        noise = rng.standard_normal((min(batch, draws), count))
        found.append(strongest(pull_lone(noise))[0])
        draws -= len(noise)
    return float(np.quantile(np.concatenate(found), 1 - FALSE_ALARM))


def print_constants() -> None:
    """One line per number of runs."""
    rng = np.random.default_rng(SEED)
    for count in COUNTS:
        draws = 400_000 if count <= 100 else 10_000_000 // count
        print(f"    {count}: {constants(count, draws, rng):.3f},", flush=True)


@dataclass(frozen=True)
class World:
    """Where the runs of a series come from."""

    spread: float
    """Of launches."""
    launches: int = 1
    """Of a run; 0: eight in the first run, then one to three."""
    odd: float = 0.0
    """By how much one launch of a series is off."""
    tails: bool = False
    """Launches of Student's t with three degrees of freedom instead of normal ones."""

    @property
    def words(self) -> str:
        parts = [f"{self.spread:.0%}", f"{self.launches or '8, then 1 to 3'}"]
        return " | ".join(
            [*parts, f"{self.odd:+.0%}" if self.odd else ("heavy tails" if self.tails else "none")]
        )

    def series(self, runs: int, rng: np.random.Generator) -> Array:
        """Means of the launches of each run, on the log scale."""
        sizes = np.full(runs, self.launches or 1)
        if not self.launches:
            sizes = rng.integers(1, 4, runs)
            sizes[0] = 8
        values = rng.normal(0, SESSION, runs)
        odd = rng.integers(runs) if self.odd else -1
        for run, size in enumerate(sizes):
            noise = rng.standard_t(3, size) / 3**0.5 if self.tails else rng.standard_normal(size)
            launches = self.spread * noise
            if run == odd:
                launches[0] += np.log1p(self.odd)
            values[run] += launches.mean()
        return values


WORLDS = [
    World(spread, launches, odd, tails)
    for spread in (0.01, 0.03)
    for launches, odd, tails in (
        (1, 0.0, False),
        (3, 0.0, False),
        (1, 0.2, False),
        (1, -0.5, False),
        (0, 0.0, False),
        (1, 0.0, True),
    )
]
RUNS = (20, 50, 100)
Finder = Callable[[Array], list[int]]


def ours(values: Array) -> list[int]:
    """Indices that are named by us."""
    return [one.index for one in change_points(values)]


def otava(pvalue: float) -> Finder:
    """Indices that Otava names, on the metric itself, with its default window."""
    analysis: Any = importlib.import_module("otava.analysis")

    def find(values: Array) -> list[int]:
        found, _ = analysis.compute_change_points(
            list(np.exp(values) * 100), window_len=50, max_pvalue=pvalue, min_magnitude=0.0
        )
        return [one.index for one in found]

    return find


def shares(find: Finder, world: World, runs: int, count: int, step: float) -> Iterator[float]:
    """With a step: share of series where it is found within one run of its place, and of series
    with another change than that; without one: share of series with any change."""
    rng = np.random.default_rng([SEED, runs, int(step * 1000), *map(ord, world.words)])
    hits = others = 0
    for _ in range(count):
        values = world.series(runs, rng)
        place = int(rng.integers(5, runs - 4)) if step else 0
        values[place:] += np.log1p(step)
        near = [abs(index - place) <= 1 for index in find(values)] if step else find(values)
        hits += any(near) if step else 0
        others += not all(near) if step else bool(near)
    if step:
        yield hits / count
    yield others / count


def print_shares(finders: dict[str, Finder], most: int) -> None:
    """Three tables, a line per world; those with a step of a third of the series."""
    heads = [f"{name}, {runs}" for name in finders for runs in RUNS]
    for step in (0.0, 0.05, 0.1):
        count = most // 3 if step else most
        what = f"a step of {step:.0%}: found | another one" if step else "no change: false alarms"
        print(f"\n{what} ({count} series each)\n")
        print(f"| spread | launches | odd launch | {' | '.join(heads)} |")
        print(f"|{'---|' * (3 + len(heads))}")
        for world in WORLDS:
            if step and world.odd < 0:
                continue
            cells = [
                " / ".join(f"{share:.2%}" for share in shares(find, world, runs, count, step))
                for find in finders.values()
                for runs in RUNS
            ]
            print(f"| {world.words} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--constants", action="store_true")
    parser.add_argument("--otava", action="store_true")
    parser.add_argument("--series", type=int, default=3000)
    parsed = parser.parse_args()
    if parsed.constants:
        print_constants()
        return
    finders: dict[str, Finder] = {"ours": ours}
    if parsed.otava:
        finders = {"Otava, p 0.001": otava(0.001), "p 0.00001": otava(0.00001)}
    print_shares(finders, parsed.series)


if __name__ == "__main__":
    main()
