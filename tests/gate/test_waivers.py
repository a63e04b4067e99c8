"""Known bugs: what a waiver makes of the verdicts on metrics, and what is said of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest

from pytest_gpubench.gate.accuracy_verdicts import AccuracyEvidence, limit_verdict
from pytest_gpubench.gate.case_verdicts import Evidence, Judging
from pytest_gpubench.gate.decide import judge
from pytest_gpubench.gate.evidence import LaunchEvidence, LaunchPlan
from pytest_gpubench.gate.policy import Limit, MetricPolicy
from pytest_gpubench.gate.recording import recording
from pytest_gpubench.gate.waivers import (
    Waiver,
    Waivers,
    idle_words,
    read_version,
    told_of,
    waiver_lines,
)
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.specs import Launch
from pytest_gpubench.model.verdicts import Status, Verdict
from tests.gate.test_judging import KEY, THROUGHPUT, launches, stored

BUG = "https://example.org/issues/7"
CASE = "m-fp8-h100-vllm-tp8:1k1k-c64"
TODAY = date(2026, 11, 28)
KNOWN = Waiver("waivers.yaml:1", CASE, BUG, date(2026, 12, 31), "output_tput_per_gpu")
LATENCY = MetricPolicy("tpot_p50", 0.05)
BOTH = (*THROUGHPUT, LATENCY)
AXIS = FrozenMap({"engine": "0.32.1+cpu"})


def judged(
    *waivers: Waiver,
    throughput: float = 880,
    tpot: float | None = None,
    plan: LaunchPlan | None = None,
    axis: FrozenMap = AXIS,
) -> Verdict:
    """Of two launches against a baseline of 1,000 tok/s and 10 ms."""
    found = [
        replace(one, metrics={**one.metrics, **({"tpot_p50": tpot} if tpot else {})})
        for one in launches(throughput, throughput * 1.001)
    ]
    return judge(
        BOTH if tpot else THROUGHPUT,
        found,
        stored(output_tput_per_gpu=1000, tpot_p50=0.01),
        KEY,
        plan or LaunchPlan(2),
        waive=Waivers(waivers, TODAY).on(CASE, axis),
    )


def test_a_known_regression_is_waived_with_its_bug() -> None:
    verdict = judged(replace(KNOWN, reason="the new scheduler"))
    assert verdict.status is Status.WAIVED
    (one,) = verdict.metrics
    assert (one.status, one.code) == (Status.WAIVED, "regressed")
    assert one.reason.endswith(
        f"5% allowed; waived until 2026-12-31: {BUG}, the new scheduler (waivers.yaml:1)"
    )
    assert verdict.line == one.reason
    assert verdict.section.startswith("WAIVED on 2 launches\n\nWAIVED  output_tput_per_gpu fell")
    assert Verdict.from_json(_plain(verdict)) == verdict


def _plain(verdict: Verdict) -> dict[str, object]:
    from pytest_gpubench.report.records import plain

    found: dict[str, object] = plain(verdict)
    return found


def test_a_waived_regression_is_no_baseline_unless_it_is_accepted() -> None:
    verdict = judged(KNOWN)
    refused = recording(verdict)
    assert not refused.allowed
    assert "--gpubench-accept-regression accepts it" in refused.reason
    accepted = recording(verdict, accept_regression=True)
    assert accepted.anchors == {"output_tput_per_gpu": "accepted"}


@pytest.mark.parametrize(
    ("waiver", "status"),
    [
        (KNOWN, Status.WAIVED),
        (replace(KNOWN, metric=""), Status.WAIVED),
        (replace(KNOWN, case="m-fp8-*:*-c64"), Status.WAIVED),
        (replace(KNOWN, until=TODAY), Status.WAIVED),
        (replace(KNOWN, metric="tpot_p50"), Status.FAIL),
        (replace(KNOWN, case="other-*"), Status.FAIL),
        (replace(KNOWN, until=date(2026, 11, 27)), Status.FAIL),
        (replace(KNOWN, until_version=FrozenMap({"vllm": "0.33"})), Status.WAIVED),
        (replace(KNOWN, until_version=FrozenMap({"vllm": "0.32.1"})), Status.FAIL),
        (replace(KNOWN, until_version=FrozenMap({"sglang": "0.1"})), Status.WAIVED),
    ],
)
def test_what_it_covers_and_until_when(waiver: Waiver, status: Status) -> None:
    assert judged(waiver).status is status


@pytest.mark.parametrize(
    ("running", "status"),
    [
        ("0.33.0.dev7+g1a2b", Status.WAIVED),
        ("0.33.0", Status.FAIL),
        ("b33-1a2b", Status.FAIL),
        ("unknown", Status.WAIVED),
        ("", Status.WAIVED),
    ],
)
def test_a_bound_is_reached_by_the_version_that_runs(running: str, status: Status) -> None:
    bounded = replace(KNOWN, until_version=FrozenMap({"vllm": "0.33"}))
    assert judged(bounded, axis=FrozenMap({"engine": running})).status is status


def test_the_engine_is_that_of_the_axis() -> None:
    bounded = replace(KNOWN, until_version=FrozenMap({"llamacpp": "b6868"}))
    axis = FrozenMap({"engine": "b6900-1a2b3c", "framework": "llamacpp"})
    verdict = judged(bounded, axis=axis)
    assert verdict.status is Status.FAIL
    assert "has expired: it held until llamacpp b6868, and this is b6900-1a2b3c" in verdict.reason
    assert judged(bounded).status is Status.WAIVED


def test_what_else_fails_fails() -> None:
    verdict = judged(KNOWN, tpot=0.02)
    assert verdict.status is Status.FAIL
    assert {one.metric: one.status for one in verdict.metrics} == {
        "output_tput_per_gpu": Status.WAIVED,
        "tpot_p50": Status.FAIL,
    }
    assert "waived" not in verdict.reason
    assert BUG in verdict.section


def test_what_else_is_undecided_still_asks_for_a_launch() -> None:
    verdict = judged(KNOWN, tpot=0.0105, plan=LaunchPlan(2, 2))
    assert verdict.status is Status.INCONCLUSIVE
    assert verdict.pending


def test_a_waiver_that_holds_wins_over_one_that_has_expired() -> None:
    old = replace(KNOWN, place="waivers.yaml:9", until=date(2026, 1, 1))
    assert judged(old, KNOWN).status is Status.WAIVED
    expired = judged(old, replace(old, place="waivers.yaml:8")).metrics[0].waiver
    assert expired is not None
    assert (expired.place, expired.state) == ("waivers.yaml:9", "expired")


def test_what_holds_again_is_said() -> None:
    verdict = judged(KNOWN, throughput=1000)
    assert verdict.status is Status.PASS
    assert f"the waiver waivers.yaml:1 ({BUG}) is not needed" in verdict.section
    assert [one.words for one in told_of([(CASE, verdict)])] == [
        f"the waiver waivers.yaml:1 ({BUG}) is NO LONGER NEEDED: nothing that it covers fails in "
        f"{CASE}; remove it"
    ]
    mixed = told_of([(CASE, verdict), ("other", judged(KNOWN))])
    assert mixed[-1].words.endswith("; narrow it")


def test_a_waiver_of_all_metrics_is_needed_by_one_of_them() -> None:
    verdict = judged(replace(KNOWN, metric=""), tpot=0.01)
    assert [one.waiver and one.waiver.state for one in verdict.metrics] == ["holds", None]
    assert [one.state for one in told_of([(CASE, verdict)])] == ["holds"]


def test_nothing_is_said_of_what_is_undecided() -> None:
    verdict = judged(KNOWN, throughput=950)
    assert verdict.status is Status.INCONCLUSIVE
    assert told_of([(CASE, verdict)]) == ()


def test_a_strict_waiver_fails_what_holds_once_the_plan_is_over() -> None:
    strict = replace(KNOWN, strict=True, metric="")
    early = judged(strict, throughput=1000, plan=LaunchPlan(3))
    assert early.status is Status.PASS
    verdict = judged(strict, throughput=1000, tpot=0.01)
    assert verdict.status is Status.FAIL
    assert verdict.reason.startswith(
        f"no metric fails, as the strict waiver waivers.yaml:1 ({BUG}) says it would"
    )
    assert "remove the waiver" in verdict.remedy
    assert recording(verdict).allowed, "the launches are as good as any"
    ended = replace(strict, until=date(2026, 1, 1))
    assert judged(ended, throughput=1000).status is Status.PASS


def test_a_baseline_that_is_demanded_is_no_bug() -> None:
    waive = Waivers((replace(KNOWN, metric=""),), TODAY).on(CASE, AXIS)
    verdict = judge(THROUGHPUT, launches(880), None, KEY, require_baseline=True, waive=waive)
    assert (verdict.status, verdict.metrics[0].code) == (Status.FAIL, "no-baseline")


def test_what_does_not_count_is_not_waived() -> None:
    waive = Waivers((replace(KNOWN, metric=""),), TODAY).on(CASE, AXIS)
    bad = [replace(one, invalid=("the client was the bottleneck",)) for one in launches(880)]
    assert judge(THROUGHPUT, bad, None, KEY, waive=waive).status is Status.INVALID


def test_limits_and_pairs_and_answers_are_waived() -> None:
    everything = Waivers((replace(KNOWN, case="*", metric=""),), TODAY)
    judging = Judging(
        [Launch("s", 1, "a"), Launch("s", 1, "b")], lambda _: None, waivers_of=lambda: everything
    )
    limited = [
        MetricPolicy("output_tput_per_gpu", limit=Limit("output_tput_per_gpu", at_least=900))
    ]
    for arm in ("a", "b"):
        (evidence,) = launches(880)
        verdict = judging.judge(
            "s:c", Launch("s", 1, arm), Evidence(evidence, "2026", KEY, AXIS), limited
        )
    assert verdict.metrics[0].status is Status.WAIVED
    alone = Judging([Launch("s", 1)], lambda _: None, waivers_of=lambda: everything)
    asked = AccuracyEvidence(LaunchEvidence("launch-1", {}, 8, answers="d:8:AA=="), at_least=0.9)
    assert limit_verdict(0, 8, 0.9).status is Status.FAIL
    answered = alone.judge_answers("s:gsm8k", Launch("s", 1), asked, KEY, AXIS)
    assert answered.metrics[0].status is Status.WAIVED


def test_the_version_of_engine_b_ends_a_waiver() -> None:
    bounded = Waivers((replace(KNOWN, case="*", until_version=FrozenMap({"vllm": "0.33"})),), TODAY)
    plan = [Launch("s", index, arm) for index in (1, 2) for arm in ("a", "b")]
    judging = Judging(plan, lambda _: None, waivers_of=lambda: bounded)
    limited = [
        MetricPolicy("output_tput_per_gpu", limit=Limit("output_tput_per_gpu", at_least=900))
    ]
    for index, arm, version in (
        (1, "a", "0.32"),
        (1, "b", "0.33"),
        (2, "b", "0.33"),
        (2, "a", "0.32"),
    ):
        (evidence,) = launches(880)
        axis = FrozenMap({"engine": version})
        verdict = judging.judge(
            "s:c", Launch("s", index, arm), Evidence(evidence, "2026", KEY, axis), limited
        )
    assert "it held until vllm 0.33, and this is 0.33" in verdict.reason


def test_told_names_what_is_waived_and_what_has_expired() -> None:
    old = replace(KNOWN, until=date(2026, 1, 1))
    told = told_of([("one", judged(KNOWN)), ("two", judged(replace(old, place="waivers.yaml:2")))])
    assert told[0].words.startswith("waived: one: output_tput_per_gpu fell")
    assert told[1].words == (
        f"the waiver waivers.yaml:2 ({BUG}) HAS EXPIRED and is still needed by two: mend it, or "
        "write a later date"
    )


def test_idle_waivers_and_their_list() -> None:
    lost = replace(KNOWN, case="x*", place="waivers.yaml:2", strict=True)
    old = replace(KNOWN, until=date(2026, 11, 1), metric="", place="waivers.yaml:3")
    waivers = Waivers((KNOWN, lost, old), TODAY)
    assert idle_words(waivers, [CASE]) == [
        f"the waiver waivers.yaml:2 ({BUG}) covers nothing: no case of the recipes matches x*; "
        "correct or remove it",
        f"the waiver waivers.yaml:3 ({BUG}) expired on 2026-11-01; remove it, or write a later "
        "date",
    ]
    assert waiver_lines(waivers, [CASE]) == [
        f"waivers.yaml:1: output_tput_per_gpu of {CASE}",
        f"  {BUG}",
        f"  until 2026-12-31 (33 days left); covers {CASE}",
        "waivers.yaml:2: output_tput_per_gpu of x*",
        f"  {BUG}",
        "  until 2026-12-31 (33 days left), strict; covers NOTHING",
        f"waivers.yaml:3: all gated metrics of {CASE}",
        f"  {BUG}",
        f"  until 2026-11-01 (EXPIRED); covers {CASE}",
    ]


def test_versions_that_python_does_not_know() -> None:
    assert str(read_version("b6868-1a2b3c")) == "6868"
    assert read_version("main") is None
