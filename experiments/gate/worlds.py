"""Calibration: how often the gate is right, by simulation of the very functions that judge. Seeded,
vectorised."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytest_gpubench.gate import statistics
from pytest_gpubench.gate.evidence import LaunchPlan
from pytest_gpubench.gate.policy import MetricPolicy
from pytest_gpubench.gate.statistics import Array

METRIC = "tpot_p50"
BASELINE_LAUNCHES = 8


@dataclass(frozen=True, slots=True)
class Scenario:
    """A world to draw launches from. Standard deviations and shifts are on the log scale: 0.01 is
    1%."""

    name: str
    spread: float = 0.01
    """Of launches of one day."""
    repeat: float = 0.007
    """Of measurements on one launch."""
    tail: float = 0.0
    """Shape of a lognormal launch effect (skewed towards slow, same standard deviation); 0 is
    normal."""
    outlier: float = 0.0
    """How much slower one launch of the baseline is."""
    outlier_now: float = 0.0
    """How much slower the first launch of the run is."""
    day: float = 0.0
    """Of whole days; the launches of a run share one."""
    days: int = 1
    """Days over which the baseline was recorded."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Shares of the simulated runs by their last verdict, and what they cost."""

    fail: float
    passed: float
    launches: float
    """Mean launches per run."""
    trials: int

    @property
    def inconclusive(self) -> float:
        return 1 - self.fail - self.passed


def draw(
    scenario: Scenario,
    worsening: float,
    trials: int,
    rng: np.random.Generator,
    *,
    launches: int = 3,
    repeats: int = 1,
) -> tuple[Array, Array]:
    """Logarithms of a latency: baseline and run, each (trials, launches, repeats). ``worsening`` is
    a share: 0.05 is 5% slower."""
    baseline = _launches(scenario, (trials, BASELINE_LAUNCHES, repeats), rng)
    now = _launches(scenario, (trials, launches, repeats), rng) + np.log1p(worsening)
    if scenario.day:
        per_day = -(-BASELINE_LAUNCHES // scenario.days)
        effects = np.repeat(
            scenario.day * rng.standard_normal((trials, scenario.days)), per_day, axis=1
        )
        baseline += effects[:, :BASELINE_LAUNCHES, None]
        now += scenario.day * rng.standard_normal((trials, 1, 1))
    baseline[:, 0] += scenario.outlier
    now[:, 0] += scenario.outlier_now
    return baseline, now


def _launches(scenario: Scenario, shape: tuple[int, int, int], rng: np.random.Generator) -> Array:
    normal = rng.standard_normal(shape[:2])
    if scenario.tail:
        variance = np.expm1(scenario.tail**2)
        normal = (np.exp(scenario.tail * normal - scenario.tail**2 / 2) - 1) / np.sqrt(variance)
    effects: Array = scenario.spread * normal[..., None] + scenario.repeat * rng.standard_normal(
        shape
    )
    return effects


def gate_verdicts(
    baseline: Array, now: Array, tolerance: float, plan: LaunchPlan
) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    """Verdicts of the gate on many runs (1 FAIL, -1 PASS, 0 INCONCLUSIVE), and the launches that
    each used.

    Args:
        baseline: (runs, launches), logarithms of a metric of which less is better.
        now: (runs, planned launches).
    """
    limit = MetricPolicy(METRIC, tolerance).log_limit(1.0)
    verdicts = np.zeros(len(now), dtype=np.int8)
    used = np.zeros(len(now), dtype=np.int8)
    for launches in range(plan.certain, plan.total + 1):
        estimate = statistics.against_baseline(baseline, now[:, :launches])
        undecided = verdicts == 0
        used[undecided] = launches
        verdicts[undecided & statistics.inside(estimate, limit, plan.pass_looks(launches))] = -1
        if launches >= plan.first_fail:
            verdicts[undecided & statistics.worse(estimate, limit, plan.looks)] = 1
    return verdicts, used


def gate_rates(
    scenario: Scenario,
    worsening: float,
    trials: int,
    rng: np.random.Generator,
    *,
    tolerance: float = 0.05,
    plan: LaunchPlan,
) -> Rates:
    """Rates of the gate's verdicts in a world, for a run that is slower by ``worsening``."""
    baseline, now = draw(scenario, worsening, trials, rng, launches=plan.total)
    verdicts, used = gate_verdicts(baseline[..., 0], now[..., 0], tolerance, plan)
    return Rates(
        float((verdicts == 1).mean()), float((verdicts == -1).mean()), float(used.mean()), trials
    )


def pair_rates(
    scenario: Scenario,
    worsening: float,
    trials: int,
    rng: np.random.Generator,
    *,
    tolerance: float,
    pairs: int,
    drift: float = 0.0,
) -> Rates:
    """Rates of the verdicts of an ABBA run of so many pairs; ``drift`` is how much slower each
    launch is than the one before."""
    first = _launches(scenario, (trials, pairs, 1), rng)[..., 0]
    second = _launches(scenario, (trials, pairs, 1), rng)[..., 0] + np.log1p(worsening)
    order = np.arange(2 * pairs).reshape(pairs, 2)
    order[1::2] = order[1::2, ::-1]
    estimate = statistics.paired(first + drift * order[:, 0], second + drift * order[:, 1])
    limit = MetricPolicy(METRIC, tolerance).log_limit(1.0)
    fail, passed = statistics.worse(estimate, limit), statistics.inside(estimate, limit)
    return Rates(float(fail.mean()), float(passed.mean()), 2.0 * pairs, trials)


_BASE = Scenario("1% spread")
SCENARIOS: tuple[Scenario, ...] = (
    _BASE,
    Scenario("lognormal tail, skewness 1.8", tail=0.5),
    Scenario("lognormal tail, skewness 6.2", tail=1.0),
    Scenario("one baseline launch 5% slow", outlier=0.05),
    Scenario("one baseline launch 10% slow", outlier=0.10),
    Scenario("one baseline launch 7% fast", outlier=-0.07),
    Scenario("first launch of the run 10% slow", outlier_now=0.10),
    Scenario("day effect 1%, baseline of one day", day=0.01),
    Scenario("day effect 1%, baseline of 4 days", day=0.01, days=4),
    Scenario("3% spread", spread=0.03),
)
"""The worlds of the table in experiments/gate/README.md."""

MEASURED: tuple[tuple[str, Scenario], ...] = (
    ("output_tput_per_gpu", Scenario("H100, tiny pair, c=64", spread=0.0596, repeat=0.0689)),
    ("tpot_p50", Scenario("H100, tiny pair, c=64", spread=0.0561, repeat=0.0862)),
    ("ttft_p50", Scenario("H100, tiny pair, c=64", spread=0.0623, repeat=0.0454)),
    ("acceptance_length", Scenario("H100, tiny pair, c=64", spread=0.0027, repeat=0.0022)),
)
"""Worlds as measured: ten launches without a change, two measurements on each (hardware/README.md,
2026-11-25), by metric."""
