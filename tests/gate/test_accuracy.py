from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_gpubench.gate.accuracy_verdicts import (
    CHANCE,
    interval,
    limit_verdict,
    paired_interval,
    paired_verdict,
    questions_needed,
)
from pytest_gpubench.model.verdicts import Status


@pytest.mark.parametrize(
    ("right", "status", "words"),
    [
        (165, Status.FAIL, "165 of 200 questions right, 82.5% (98% interval 75.4% to 88.3%), at"),
        (185, Status.INCONCLUSIVE, "at least 90.0% demanded"),
        (195, Status.PASS, "195 of 200 questions right, 97.5%"),
        (200, Status.PASS, "98% interval 97.7% to 100.0%"),
        (0, Status.FAIL, "0 of 200 questions right, 0.0% (98% interval 0.0% to 2.3%)"),
    ],
)
def test_a_limit_is_judged_by_the_whole_interval(right: int, status: Status, words: str) -> None:
    verdict = limit_verdict(right, 200, 0.9)
    assert (verdict.status, verdict.against) == (status, "limit")
    assert words in verdict.reason
    assert bool(verdict.remedy) == (status is Status.INCONCLUSIVE)


def test_what_would_settle_it_settles_it() -> None:
    assert "about 796 questions would settle it" in limit_verdict(185, 200, 0.9).remedy
    assert limit_verdict(736, 796, 0.9).status is Status.PASS
    assert limit_verdict(735, 795, 0.9).status is Status.INCONCLUSIVE
    assert questions_needed(0.9, 0.9) is None
    assert "the share is the limit itself" in limit_verdict(180, 200, 0.9).remedy
    assert (questions_needed(0.5, 0.9) or 0) < 12


@settings(deadline=None, max_examples=12)
@given(st.integers(1, 90), st.floats(0.05, 0.99))
def test_the_wrong_side_is_met_by_chance_once_in_a_hundred_at_most(
    asked: int, at_least: float
) -> None:
    from scipy.stats import binom  # takes half a second of each process that only collects

    verdicts = [limit_verdict(right, asked, at_least).status for right in range(asked + 1)]
    weights = binom.pmf(range(asked + 1), asked, at_least)
    for wrong in (Status.FAIL, Status.PASS):
        chance = sum(weight for one, weight in zip(verdicts, weights, strict=True) if one is wrong)
        assert chance <= CHANCE + 1e-9


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(120, 2000))
def test_a_paired_interval_holds_what_was_seen_and_mirrors(lost: int, won: int, asked: int) -> None:
    low, high = paired_interval(lost, won, asked)
    assert low - 1e-6 <= (lost - won) / asked <= high + 1e-6
    mirrored = paired_interval(won, lost, asked)
    assert mirrored == pytest.approx((-high, -low), abs=1e-6)


@pytest.mark.parametrize(
    ("lost", "won", "asked", "status", "improved"),
    [
        (0, 0, 1319, Status.PASS, False),
        (0, 0, 200, Status.INCONCLUSIVE, False),
        (30, 5, 1319, Status.INCONCLUSIVE, False),
        (40, 5, 1319, Status.FAIL, False),
        (40, 0, 200, Status.FAIL, False),
        (0, 40, 200, Status.PASS, True),
        (200, 0, 200, Status.FAIL, False),
        (0, 200, 200, Status.PASS, True),
    ],
)
def test_answers_are_compared_question_by_question(
    lost: int, won: int, asked: int, status: Status, improved: bool
) -> None:
    verdict = paired_verdict(lost, won, asked, against="baseline")
    assert (verdict.status, verdict.improved) == (status, improved)
    assert f"{lost} of {asked} questions were right before and are wrong now" in verdict.reason
    assert (verdict.tolerance, verdict.against) == (0.01, "baseline")


def test_the_interval_is_the_exact_one() -> None:
    assert interval(180, 200) == pytest.approx((0.83992, 0.94345), abs=1e-5)
    assert interval(0, 10)[0] == 0
    assert interval(10, 10)[1] == 1
