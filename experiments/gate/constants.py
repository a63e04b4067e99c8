"""The constants of ``statistics.pulled_summary``, by simulation: python
experiments/gate/constants.py prints them as a table."""

from __future__ import annotations

import numpy as np

from pytest_gpubench.gate.statistics import MAX_LAUNCHES, pull_farthest

SEED = 20261122
DRAWS = 4_000_000
_BATCH = 100_000


def constants(count: int, draws: int, rng: np.random.Generator) -> tuple[float, float, float]:
    """Expected sum of squares, its degrees of freedom, and n times the variance of the mean, for
    ``count`` normal launches."""
    sums = np.zeros(3)
    for _ in range(draws // _BATCH):
        pulled = pull_farthest(rng.standard_normal((_BATCH, count)))
        means = pulled.mean(axis=-1)
        squares = ((pulled - means[:, None]) ** 2).sum(axis=-1)
        sums += [squares.mean(), (squares**2).mean(), (means**2).mean()]
    first, second, of_mean = sums / (draws // _BATCH)
    return float(first), float(2 * first**2 / (second - first**2)), float(of_mean * count)


def main() -> None:
    """Print one line per number of launches."""
    rng = np.random.default_rng(SEED)
    for count in range(5, MAX_LAUNCHES + 1):
        expected, df, of_mean = constants(count, DRAWS, rng)
        print(f"    {count}: ({expected:.3f}, {df:.2f}, {of_mean:.3f}),")


if __name__ == "__main__":
    main()
