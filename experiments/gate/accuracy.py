"""How often verdicts on accuracy are wrong, and what they find: the functions that judge, over every
outcome (limits, exactly) or over drawn ones (paired, 20,000 runs each).

    python experiments/gate/accuracy.py
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.stats import binom

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pytest_gpubench.gate.accuracy_verdicts import TOLERANCE, limit_verdict, paired_verdict
from pytest_gpubench.model.verdicts import Status

ASKED = (200, 500, 1319)
LIMITS = (0.60, 0.80, 0.90, 0.95)
RUNS = 20_000
FLIPS = (0.0, 0.01, 0.03)
"""Share of questions that change each way by chance: other kernels, other batches."""


@functools.cache
def status(right: int, asked: int, at_least: float) -> Status:
    return limit_verdict(right, asked, at_least).status


@functools.cache
def paired(lost: int, won: int, asked: int) -> Status:
    return paired_verdict(lost, won, asked, against="baseline").status


def chance(wanted: Status, share: float, asked: int, at_least: float) -> float:
    """Exactly."""
    outcomes = np.arange(asked + 1)
    weights = binom.pmf(outcomes, asked, share)
    return float(
        sum(
            w
            for k, w in zip(outcomes, weights, strict=True)
            if status(int(k), asked, at_least) is wanted
        )
    )


def drawn(loss: float, flips: float, asked: int, rng: np.random.Generator) -> Iterator[Status]:
    """Verdicts where ``flips`` of the questions change each way and ``loss`` more are lost."""
    shares = [flips + loss, flips, 1 - 2 * flips - loss]
    for lost, won, _ in rng.multinomial(asked, shares, RUNS):
        yield paired(int(lost), int(won), asked)


def share_of(wanted: Status, loss: float, flips: float, asked: int) -> float:
    rng = np.random.default_rng(7)
    return sum(one is wanted for one in drawn(loss, flips, asked, rng)) / RUNS


def main() -> None:
    """Print the tables."""
    print(
        "| questions | limit | FAIL at the limit | PASS 3 points below | FAIL 3 below | PASS 3 above | FAIL 6 below |"
    )
    print("|--:|--:|--:|--:|--:|--:|--:|")
    for asked in ASKED:
        for limit in LIMITS:
            cells = (
                chance(Status.FAIL, limit, asked, limit),
                chance(Status.PASS, limit - 0.03, asked, limit),
                chance(Status.FAIL, limit - 0.03, asked, limit),
                chance(Status.PASS, limit + 0.03, asked, limit),
                chance(Status.FAIL, limit - 0.06, asked, limit),
            )
            print(
                f"| {asked} | {limit:.0%} | " + " | ".join(f"{cell:.2%}" for cell in cells) + " |"
            )
    print(
        f"\n| questions | change each way | FAIL at {TOLERANCE:.0%} lost | PASS at {TOLERANCE:.0%} lost | PASS at nothing lost | loss found in 95% of runs |"
    )
    print("|--:|--:|--:|--:|--:|--:|")
    for asked in ASKED:
        for flips in FLIPS:
            loss = next(
                step / 1000
                for step in range(10, 400, 2)
                if share_of(Status.FAIL, step / 1000, flips, asked) >= 0.95
            )
            seen = (
                share_of(Status.FAIL, TOLERANCE, flips, asked),
                share_of(Status.PASS, TOLERANCE, flips, asked),
                share_of(Status.PASS, 0.0, flips, asked),
            )
            print(
                f"| {asked} | {flips:.0%} | "
                + " | ".join(f"{cell:.2%}" for cell in seen)
                + f" | {loss:.1%} |"
            )


if __name__ == "__main__":
    main()
