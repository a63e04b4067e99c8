"""The verdict on an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from pytest_gpubench.evals.answered import encode_answers
from pytest_gpubench.gate.accuracy_verdicts import (
    AccuracyEvidence,
    Undrafted,
    judge_accuracy,
    judge_accuracy_pair,
)
from pytest_gpubench.gate.baseline_files import read_baseline, update_baseline
from pytest_gpubench.gate.baseline_key import key_digest
from pytest_gpubench.gate.baselines import Baseline, LaunchEntry, append
from pytest_gpubench.gate.evidence import LaunchEvidence
from pytest_gpubench.gate.recording import entries_of, recording
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.verdicts import Status

KEY = FrozenMap({"evaluation.task": "sums"})
AXIS = FrozenMap({})


def answers(wrong: Sequence[int] = (), asked: int = 400, questions: str = "q") -> LaunchEvidence:
    right = [index not in set(wrong) for index in range(asked)]
    code = encode_answers(questions, right)
    return LaunchEvidence("launch-1", {"accuracy": sum(right) / asked}, asked, answers=code)


def baseline(launch: LaunchEvidence) -> Baseline:
    entries = entries_of("run", [(launch, "2026-01-01T00:00:00+00:00")], AXIS)
    return append(Baseline("k:sums"), KEY, entries)


def own(launch: LaunchEvidence, at_least: float | None = None) -> AccuracyEvidence:
    return AccuracyEvidence(launch, at_least)


def test_without_limit_and_baseline_nothing_is_gated() -> None:
    assert judge_accuracy(own(answers())).status is Status.UNGATED
    assert judge_accuracy(own(answers()), require_baseline=True).status is Status.FAIL


def test_a_limit_is_enough() -> None:
    verdict = judge_accuracy(own(answers(range(20)), 0.9))
    assert verdict.status is Status.PASS
    assert verdict.notes == ("accuracy: no baseline",)
    assert judge_accuracy(own(answers(range(80)), 0.9)).status is Status.FAIL
    assert judge_accuracy(own(answers(range(40)), 0.9)).status is Status.INCONCLUSIVE


def test_failures_void_it_whatever_the_share() -> None:
    launch = LaunchEvidence("launch-1", {"accuracy": 0.0}, 400, invalid=("9 of 400 failed",))
    verdict = judge_accuracy(own(launch, 0.9), baseline(answers()), KEY)
    assert (verdict.status, verdict.reason) == (Status.INVALID, "9 of 400 failed")


@pytest.mark.parametrize(
    ("now", "status", "code"),
    [
        (answers(range(40)), Status.PASS, "none-lost"),
        (answers(range(39)), Status.PASS, "none-lost"),
        (answers(range(1, 41)), Status.INCONCLUSIVE, "too-few-questions"),
        (answers(range(65)), Status.FAIL, "less-accurate"),
        (answers(range(45)), Status.INCONCLUSIVE, "too-few-questions"),
    ],
)
def test_a_baseline_is_compared_question_by_question(
    now: LaunchEvidence, status: Status, code: str
) -> None:
    verdict = judge_accuracy(own(now), baseline(answers(range(40))), KEY)
    assert (verdict.status, [one.code for one in verdict.metrics]) == (status, [code])


def test_many_questions_tell_that_hardly_any_were_lost() -> None:
    before, now = answers(range(200), 2000), answers(range(1, 202), 2000)
    verdict = judge_accuracy(own(now), baseline(before), KEY)
    assert [one.code for one in verdict.metrics] == ["as-accurate"]


def test_a_baseline_of_other_questions_is_none() -> None:
    other_key = judge_accuracy(own(answers()), baseline(answers()), FrozenMap({"a": 1}))
    assert [one.code for one in other_key.metrics] == ["not-comparable"]
    others = judge_accuracy(own(answers()), baseline(answers(questions="other")), KEY)
    assert others.status is Status.INCONCLUSIVE
    assert [one.code for one in others.metrics] == ["other-questions"]


def test_the_baseline_file_keeps_the_answers(tmp_path: Path) -> None:
    path = tmp_path / "sums.json"
    made = baseline(answers(range(7)))
    update_baseline(path, "k:sums", lambda _before: made)
    assert read_baseline(path, "k:sums") == made
    assert len(path.read_text()) < 1000
    without = LaunchEntry("r", "launch-1", "2026-01-01T00:00:00+00:00", key_digest(KEY), AXIS)
    update_baseline(path, "k:sums", lambda before: append(before, KEY, [without]))
    assert path.read_text().count('"answers"') == 1


def test_what_may_be_recorded() -> None:
    undecided = judge_accuracy(own(answers(range(40)), 0.9))
    assert recording(undecided).allowed
    assert not recording(judge_accuracy(own(answers(range(80)), 0.9))).allowed
    worse = judge_accuracy(own(answers(range(65))), baseline(answers(range(40))), KEY)
    assert not recording(worse).allowed
    assert recording(worse, accept_regression=True).allowed


def test_two_engines() -> None:
    first, second = own(answers(range(4)), 0.9), own(answers(range(44)), 0.5)
    waits = judge_accuracy_pair(first, None)
    assert waits.pending
    verdict = judge_accuracy_pair(first, second, "engine B is other")
    assert verdict.status is Status.FAIL
    assert [one.against for one in verdict.metrics] == ["limit", "engine"]
    assert verdict.notes == ("engine B is other",)
    broken = own(LaunchEvidence("a1", {"accuracy": 0.0}, 400, invalid=("5 failed",)))
    assert judge_accuracy_pair(broken, second).reason == "a1: 5 failed"
    strange = judge_accuracy_pair(first, own(answers(questions="other")))
    assert strange.status is Status.INCONCLUSIVE


@pytest.mark.parametrize(
    ("lost", "won", "status"), [(0, 0, Status.PASS), (8, 9, Status.PASS), (40, 0, Status.FAIL)]
)
def test_a_draft_fails_only_where_it_loses_beyond_doubt(
    lost: int, won: int, status: Status
) -> None:
    beside = Undrafted("k:sums", 400, lost + won, lost, won)
    verdict = judge_accuracy(AccuracyEvidence(answers(range(20)), 0.8, beside))
    assert verdict.status is status
    assert f"{lost + won} of 400 greedy answers" in verdict.notes[-1]
