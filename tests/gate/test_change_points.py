"""Change points: found where they are, and not where nothing changed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_gpubench.gate.change_points import (
    FALSE_ALARM,
    MAX_RUNS,
    MIN_RUNS,
    change_points,
    limit,
    pull_lone,
    strongest,
)
from pytest_gpubench.gate.statistics import Array


def noise(runs: int, seed: int, spread: float = 0.01) -> Array:
    return np.random.default_rng(seed).normal(0, spread, runs)


def indices(values: Array) -> list[int]:
    return [one.index for one in change_points(values)]


@pytest.mark.parametrize("runs", [20, 50, 100])
def test_without_a_change_there_is_hardly_ever_one(runs: int) -> None:
    values = np.random.default_rng([7, runs]).standard_normal((4000, runs))
    share = float((strongest(pull_lone(values))[0] > limit(runs)).mean())
    assert share < 3 * FALSE_ALARM


@pytest.mark.parametrize("place", [6, 20, 37])
def test_a_step_is_found_at_its_place_with_its_size(place: int) -> None:
    values = noise(40, 1)
    values[place:] += np.log(1.1)
    (found,) = change_points(values)
    assert found.index == place
    assert found.size == pytest.approx(0.1, abs=0.02)


def test_a_regression_that_was_mended_is_two_changes() -> None:
    values = noise(60, 2)
    values[30:34] += np.log(1.1)
    first, second = change_points(values)
    assert (first.index, second.index) == (30, 34)
    assert first.size == pytest.approx(0.1, abs=0.02)
    assert second.size == pytest.approx(-0.09, abs=0.02)


def test_several_steps() -> None:
    values = noise(90, 3)
    values[20:] += 0.08
    values[50:] += 0.06
    values[75:] -= 0.2
    assert indices(values) == [20, 50, 75]


@pytest.mark.parametrize("place", [0, 1, 17, 38, 39])
@pytest.mark.parametrize("size", [-1.0, 0.3])
def test_one_odd_run_is_none(place: int, size: float) -> None:
    values = noise(40, 4)
    values[place] += size
    assert indices(values) == []


def test_the_newest_two_runs_can_be_a_change_and_the_newest_one_cannot() -> None:
    values = noise(40, 5)
    values[-1] += 0.15
    assert indices(values) == []
    values[-2] += 0.15
    assert indices(values) == [38]


def test_equal_numbers_are_not_certainty() -> None:
    values = np.zeros(30)
    values[15:] = 0.001
    assert indices(values) == []
    values[15:] = 0.02
    assert indices(values) == [15]


def test_few_runs_have_none_and_of_many_the_newest_are_searched() -> None:
    assert change_points([0.0, 0.0, 0.0, 1.0, 1.0]) == []
    values = noise(MAX_RUNS + 50, 6)
    values[-100:] += 0.1
    assert indices(values) == [MAX_RUNS - 50]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.floats(-50, 50, allow_nan=False).map(lambda value: round(value, 6)),
        min_size=0,
        max_size=40,
    )
)
def test_any_series_has_an_answer(values: list[float]) -> None:
    found = change_points(values)
    assert all(0 < one.index < len(values) for one in found)
    assert [one.index for one in found] == sorted({one.index for one in found})
    assert len(values) >= MIN_RUNS or not found
    assert all(other.before == one.after for one, other in itertools.pairwise(found))
