"""The gate's statistics, piece by piece."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_gpubench.gate import statistics
from pytest_gpubench.gate.evidence import LaunchPlan
from pytest_gpubench.gate.statistics import (
    against_baseline,
    paired,
    plain_summary,
    pull_farthest,
    pulled_summary,
)


def test_quantiles_of_student() -> None:
    assert statistics.quantile(0.975, 7) == pytest.approx(2.3646, abs=1e-4)
    assert statistics.quantile(0.975, 1) == pytest.approx(12.7062, abs=1e-3)


def test_the_farthest_launch_is_pulled_to_its_neighbour() -> None:
    assert pull_farthest(np.array([1.0, 9.0, 2.0, 3.0, 1.5])).tolist() == [1.0, 1.5, 2.0, 3.0, 3.0]
    assert pull_farthest(np.array([-9.0, 0.0, 1.0, 2.0, 3.0])).tolist() == [0.0, 0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize("count", [5, 8, 13, 20])
def test_the_variance_of_normal_launches_is_right_on_average(count: int) -> None:
    values = np.random.default_rng(count).standard_normal((40_000, count))
    summary = pulled_summary(values)
    assert float(summary.variance.mean()) == pytest.approx(1.0, abs=0.02)
    assert float((summary.mean**2).mean()) == pytest.approx(summary.variance_of_mean, rel=0.05)
    assert float(2 / summary.variance.var()) == pytest.approx(summary.df, rel=0.05)


def test_one_odd_launch_counts_no_more_than_its_neighbour_however_odd() -> None:
    launches = [0.0, 0.01, -0.01, 0.005, -0.005, 0.002, -0.002]
    odd, very_odd = (pulled_summary(np.array([*launches, far])) for far in (0.05, 5.0))
    assert float(odd.mean) == float(very_odd.mean)
    assert float(odd.variance) == float(very_odd.variance)


@pytest.mark.parametrize("count", [4, 21])
def test_a_baseline_has_five_to_twenty_launches(count: int) -> None:
    with pytest.raises(ValueError, match="5 to 20"):
        pulled_summary(np.zeros(count))


def test_equal_launches_are_not_certainty() -> None:
    estimate = against_baseline(np.zeros(8), np.zeros(1))
    assert float(estimate.spread) == statistics.SPREAD_FLOOR
    assert float(estimate.half_width()) > 2 * statistics.SESSION


def test_more_launches_of_one_run_do_not_remove_what_they_share() -> None:
    estimate = against_baseline(np.zeros(8), np.zeros(1))
    assert float(estimate.with_launches(1000).error) > statistics.SESSION
    assert float(estimate.with_launches(3).error) < float(estimate.error)


def test_with_launches_is_what_those_launches_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "SPREAD_FLOOR", 0.03)
    baseline = np.linspace(-0.02, 0.02, 8)
    one, three = (
        against_baseline(baseline, np.zeros(1)),
        against_baseline(baseline, np.zeros(3)),
    )
    foreseen = one.with_launches(3)
    assert [float(foreseen.error), foreseen.df] == pytest.approx([float(three.error), three.df])


def test_a_new_level_borrows_the_spread_of_the_old_one() -> None:
    earlier = np.array([0.02, -0.02, 0.01, -0.01, 0.0, 0.015, -0.015, 0.005])
    estimate = against_baseline(np.array([0.30]), np.array([0.30]), earlier=earlier)
    assert float(estimate.change) == 0
    assert float(estimate.spread) == pytest.approx(float(np.sqrt(pulled_summary(earlier).variance)))


def test_a_linear_drift_cancels_over_an_abba_block() -> None:
    drift = np.arange(8, dtype=np.float64) * 0.01
    first, second = drift[[0, 3, 4, 7]], drift[[1, 2, 5, 6]]
    assert float(paired(first, second).change) == pytest.approx(0, abs=1e-12)
    assert float(paired(first, second + 0.03).change) == pytest.approx(0.03)


def test_pairs_are_students_pairs() -> None:
    differences = np.array([0.02, 0.05, 0.03, 0.04])
    estimate = paired(np.zeros(4), differences)
    assert float(estimate.error) == pytest.approx(differences.std(ddof=1) / 2)
    assert estimate.df == 3


def test_pairs_must_be_whole() -> None:
    with pytest.raises(ValueError, match="two or more whole pairs"):
        paired(np.zeros(1), np.zeros(1))
    with pytest.raises(ValueError, match="two or more whole pairs"):
        paired(np.zeros(3), np.zeros(2))


def test_fail_needs_all_certain_launches_and_a_second_one_where_there_is_one() -> None:
    assert LaunchPlan(1).first_fail == 1
    assert LaunchPlan(1, 2).first_fail == 2
    assert LaunchPlan(3).first_fail == 3


def test_the_mean_of_a_single_launch_has_no_degree_of_freedom() -> None:
    summary = plain_summary(np.array([[0.1], [0.2]]))
    assert summary.df == 0
    assert summary.variance.tolist() == [0, 0]
