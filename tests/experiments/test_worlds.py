"""Calibration: seeded simulation of the functions that judge, with fewer runs than experiments/gate
and binomial bounds."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
from worlds import (
    MEASURED,
    METRIC,
    SCENARIOS,
    Scenario,
    draw,
    gate_rates,
    gate_verdicts,
    pair_rates,
)

from pytest_gpubench.gate import statistics
from pytest_gpubench.gate.baselines import Baseline, LaunchEntry, append
from pytest_gpubench.gate.decide import judge, judge_pair
from pytest_gpubench.gate.evidence import LaunchEvidence, LaunchPlan
from pytest_gpubench.gate.policy import DEFAULTS, MetricPolicy
from pytest_gpubench.gate.statistics import against_baseline
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.verdicts import Status

pytestmark = pytest.mark.slow

TRIALS = 100_000
ESCALATING = LaunchPlan(1, 2)
BASE = SCENARIOS[0]


def _rng(*salt: int) -> np.random.Generator:
    return np.random.default_rng([7, *salt])


def _at_most(rate: float, goal: float, trials: int = TRIALS) -> bool:
    """Whether a rate is what chance allows (3 standard deviations) for a true rate of at most the
    goal."""
    return rate * trials <= goal * trials + 3 * sqrt(goal * (1 - goal) * trials)


def test_without_a_change_nothing_fails_and_nearly_everything_passes() -> None:
    rates = gate_rates(BASE, 0.0, TRIALS, _rng(1), plan=ESCALATING)
    assert rates.fail == 0
    assert rates.passed > 0.99
    assert rates.launches < 1.5


def test_a_session_of_forty_gates_cries_wolf_at_most_once_in_a_hundred() -> None:
    baseline, now = draw(BASE, 0.0, TRIALS, _rng(2))
    verdicts, _ = gate_verdicts(baseline[..., 0], now[..., 0], 0.05, ESCALATING)
    assert (verdicts.reshape(-1, 40) == 1).any(axis=1).mean() <= 0.01


def test_exactly_at_the_tolerance_few_fail() -> None:
    assert gate_rates(BASE, 0.05, TRIALS, _rng(3), plan=ESCALATING).fail <= 0.06


def test_twice_the_tolerance_is_found() -> None:
    rates = gate_rates(BASE, 0.10, TRIALS, _rng(4), plan=ESCALATING)
    assert rates.fail >= 0.95
    assert rates.passed <= 0.001


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_in_every_world_no_false_alarm_and_no_wrong_pass(scenario: Scenario) -> None:
    assert _at_most(gate_rates(scenario, 0.0, TRIALS, _rng(5), plan=ESCALATING).fail, 0.001)
    assert _at_most(gate_rates(scenario, 0.10, TRIALS, _rng(6), plan=ESCALATING).passed, 0.001)


@pytest.mark.parametrize(
    ("metric", "scenario"), MEASURED, ids=lambda value: value if isinstance(value, str) else ""
)
def test_defaults_hold_in_the_worlds_that_were_measured(metric: str, scenario: Scenario) -> None:
    tolerance = next(policy.tolerance for policy in DEFAULTS if policy.metric == metric)
    assert tolerance
    assert _at_most(
        gate_rates(scenario, 0.0, TRIALS, _rng(14), tolerance=tolerance, plan=ESCALATING).fail,
        0.001,
    )
    assert _at_most(
        gate_rates(
            scenario, 2 * tolerance, TRIALS, _rng(15), tolerance=tolerance, plan=ESCALATING
        ).passed,
        0.003,
    )


@pytest.mark.parametrize("spread", [0.005, 0.02, 0.04, 0.06, 0.1, 0.3])
def test_no_spread_of_launches_raises_false_alarms(spread: float) -> None:
    world = Scenario("x", spread=spread, repeat=0.0)
    for plan in (ESCALATING, LaunchPlan(1), LaunchPlan(4)):
        assert _at_most(gate_rates(world, 0.0, TRIALS, _rng(16), plan=plan).fail, 0.001)
        # three looks, each at one in a thousand
        assert _at_most(gate_rates(world, 0.10, TRIALS, _rng(17), plan=plan).passed, 0.003)
    assert _at_most(pair_rates(world, 0.0, TRIALS, _rng(18), tolerance=0.05, pairs=3).fail, 0.005)


@pytest.mark.parametrize(
    "scenario", [one for one in SCENARIOS if one.outlier], ids=lambda scenario: scenario.name
)
def test_one_odd_launch_in_the_baseline_hides_no_regression(scenario: Scenario) -> None:
    assert gate_rates(scenario, 0.10, TRIALS, _rng(7), plan=ESCALATING).fail >= 0.95


def test_with_a_large_spread_inconclusive_takes_over() -> None:
    wide = next(scenario for scenario in SCENARIOS if scenario.spread == 0.03)
    assert gate_rates(wide, 0.10, TRIALS, _rng(8), plan=ESCALATING).inconclusive > 0.3


def test_one_odd_launch_of_the_run_is_refuted_by_the_next() -> None:
    odd = next(scenario for scenario in SCENARIOS if scenario.outlier_now)
    assert gate_rates(odd, 0.0, TRIALS, _rng(9), plan=ESCALATING).fail <= 0.001
    assert (
        gate_rates(odd, 0.0, TRIALS, _rng(9), plan=LaunchPlan(1)).fail > 0.5
    )  # with one launch nothing can tell


def test_abba_finds_what_the_baseline_gate_cannot_decide() -> None:
    world = Scenario("x", spread=0.005, repeat=0.003, day=0.01, days=4)
    paired = pair_rates(world, 0.03, 10_000, _rng(10), tolerance=0.015, pairs=6, drift=0.0005)
    alone = gate_rates(world, 0.03, 10_000, _rng(11), tolerance=0.015, plan=LaunchPlan(12))
    assert paired.fail > 0.9 > 0.6 > alone.fail
    assert (
        pair_rates(world, 0.0, 10_000, _rng(12), tolerance=0.015, pairs=6, drift=0.0005).fail
        <= 0.001
    )


@pytest.mark.parametrize("worsening", [0.0, 0.05, 0.08])
@pytest.mark.parametrize("scenario", [BASE, SCENARIOS[-1]], ids=["1%", "3%"])
def test_the_simulated_gate_is_the_one_that_judges(scenario: Scenario, worsening: float) -> None:
    baseline, now = (array[..., 0] for array in draw(scenario, worsening, 60, _rng(13)))
    verdicts, used = gate_verdicts(baseline, now, 0.05, ESCALATING)
    key = FrozenMap({"device": "x"})
    codes = {Status.FAIL: 1, Status.PASS: -1, Status.INCONCLUSIVE: 0}
    for old, new, expected, launches in zip(baseline, now, verdicts, used, strict=True):
        entries = [
            LaunchEntry(
                str(i), "launch-1", f"2026-01-0{i + 1}T00:00:00Z", "", FrozenMap(_metrics(value))
            )
            for i, value in enumerate(old)
        ]
        stored = append(Baseline("s:w"), key, entries)
        evidence = [
            LaunchEvidence(f"launch-{i}", _metrics(value)) for i, value in enumerate(new, 1)
        ]
        history = [
            judge([MetricPolicy(METRIC, 0.05)], evidence[:count], stored, key, ESCALATING)
            for count in (1, 2, 3)
        ]
        decided = next((i for i, verdict in enumerate(history) if not verdict.wants_launch), 2)
        assert (codes[history[decided].status], decided + 1) == (expected, launches)


def test_the_simulated_pairs_are_those_that_judge() -> None:
    first = [LaunchEvidence(f"a{i}", {METRIC: 0.050 + 0.0001 * i}) for i in range(1, 7)]
    second = [LaunchEvidence(f"b{i}", {METRIC: 0.0515 + 0.0001 * i}) for i in range(1, 7)]
    verdict = judge_pair([MetricPolicy(METRIC, 0.015)], first, second, LaunchPlan(6))
    assert verdict.status is Status.FAIL
    assert verdict.metrics[0].against == "engine"


def _metrics(log: float) -> dict[str, float]:
    return {METRIC: float(np.exp(log))}


def test_the_minimum_detectable_change_is_found_in_nineteen_of_twenty_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(statistics, "SESSION", 0.0)
    limit = float(np.log(1.05))
    rng = np.random.default_rng(3)
    baseline, now = (array[..., 0] for array in draw(Scenario("x"), 0.0, 20_000, rng))
    estimate = against_baseline(baseline, now)
    change = float(np.median(estimate.detectable(limit)))
    found = statistics.worse(against_baseline(baseline, now + change), limit)
    assert float(found.mean()) == pytest.approx(0.95, abs=0.02)
