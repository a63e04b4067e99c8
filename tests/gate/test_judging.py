"""Verdicts of cases: statuses, reasons, remedies, what asks for another launch."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pytest_gpubench.gate.baselines import Baseline, LaunchEntry, append
from pytest_gpubench.gate.decide import judge, judge_pair
from pytest_gpubench.gate.evidence import LaunchEvidence, LaunchPlan, evidence_of
from pytest_gpubench.gate.policy import MetricPolicy, policies
from pytest_gpubench.measure.measurement import Measurement, Totals
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.specs import Speculative
from pytest_gpubench.model.verdicts import Status, Verdict
from pytest_gpubench.model.workload import Workload

KEY = FrozenMap({"device": "NVIDIA H100 80GB HBM3", "workload.osl": 1024})
NOISE = (1.0, 1.004, 0.996, 1.007, 0.993, 1.002, 0.998, 1.0)
THROUGHPUT = (MetricPolicy("output_tput_per_gpu", 0.05),)
WORKLOAD = Workload(1024, 1024, 64, 640, 128)
TEXT = Workload(1024, 1024, 64, 640, 128, dataset="speed-bench")


def stored(
    noise: tuple[float, ...] = NOISE, axis: FrozenMap | None = None, **metrics: float
) -> Baseline:
    entries = [
        LaunchEntry(
            f"run{i}",
            "launch-1",
            f"2026-01-{i + 1:02}T00:00:00Z",
            "",
            FrozenMap({name: value * factor for name, value in metrics.items()}),
            2000,
            axis or FrozenMap(),
        )
        for i, factor in enumerate(noise)
    ]
    return append(Baseline("s:w"), KEY, entries)


def launches(
    *values: float, metric: str = "output_tput_per_gpu", requests: int = 2000
) -> list[LaunchEvidence]:
    return [
        LaunchEvidence(f"launch-{i}", {metric: value}, requests)
        for i, value in enumerate(values, 1)
    ]


@pytest.mark.parametrize(
    ("values", "plan", "status", "code", "wants"),
    [
        ((1000,), LaunchPlan(), Status.PASS, "held", False),
        ((880,), LaunchPlan(), Status.FAIL, "regressed", False),
        ((880,), LaunchPlan(1, 2), Status.INCONCLUSIVE, "unconfirmed", True),
        ((880, 885), LaunchPlan(1, 2), Status.FAIL, "regressed", False),
        ((880, 1000), LaunchPlan(1, 2), Status.INCONCLUSIVE, "straddles", True),
        ((950,), LaunchPlan(1, 2), Status.INCONCLUSIVE, "straddles", True),
        ((950,), LaunchPlan(), Status.INCONCLUSIVE, "straddles", False),
        ((1100,), LaunchPlan(), Status.PASS, "improved", False),
        ((880, 880), LaunchPlan(3), Status.INCONCLUSIVE, "unconfirmed", True),
        ((1000,), LaunchPlan(2), Status.PASS, "held", True),
    ],
)
def test_launches_against_a_baseline(
    values: tuple[float, ...], plan: LaunchPlan, status: Status, code: str, wants: bool
) -> None:
    verdict = judge(THROUGHPUT, launches(*values), stored(output_tput_per_gpu=1000), KEY, plan)
    assert (verdict.status, verdict.metrics[0].code, verdict.wants_launch) == (status, code, wants)


def test_a_failure_reads_like_a_review_comment() -> None:
    axis = FrozenMap({"engine": "0.24.0", "serve.block-size": "128"})
    now = FrozenMap({"engine": "0.25.0", "serve.block-size": "128"})
    verdict = judge(
        THROUGHPUT, launches(880), stored(axis=axis, output_tput_per_gpu=1000), KEY, axis=now
    )
    assert verdict.reason.startswith(
        "output_tput_per_gpu fell by 12% against the baseline, from 1,000 tok/s/GPU to "
        "880.0 tok/s/GPU"
    )
    assert "95% interval -13" in verdict.reason
    assert "5% allowed" in verdict.reason
    assert "--gpubench-accept-regression" in verdict.remedy
    assert "engine: 0.24.0 before, 0.25.0 now" in verdict.section
    assert "block-size" not in verdict.section
    for word in (
        "FAIL on 1 launch",
        "baseline",
        "now",
        "change",
        "tolerance",
        "resolution",
        "next",
    ):
        assert word in verdict.section
    change = verdict.metrics[0].change
    assert change is not None
    assert change.low < change.estimate < change.high < 0
    assert change.detectable > 0.05


def test_what_would_settle_it_is_named() -> None:
    verdict = judge(THROUGHPUT, launches(965), stored(output_tput_per_gpu=1000), KEY)
    assert verdict.status is Status.INCONCLUSIVE
    assert "2 launches would settle it" in verdict.remedy
    assert "--gpubench-launches=2" in verdict.remedy
    hopeless = judge(THROUGHPUT, launches(950), stored(output_tput_per_gpu=1000), KEY)
    assert "--gpubench-against" in hopeless.remedy


def test_a_latency_fails_upwards_and_improves_downwards() -> None:
    policy = (MetricPolicy("tpot_p50", 0.05),)
    slower = judge(policy, launches(0.056, metric="tpot_p50"), stored(tpot_p50=0.05), KEY)
    faster = judge(policy, launches(0.045, metric="tpot_p50"), stored(tpot_p50=0.05), KEY)
    assert slower.status is Status.FAIL
    assert "rose by 12% against the baseline, from 50.02 ms to 56.00 ms" in slower.reason
    assert (faster.status, faster.metrics[0].improved) == (Status.PASS, True)
    assert "an improvement" in faster.reason


def test_small_changes_of_small_metrics_do_not_count() -> None:
    policy = (MetricPolicy("ttft_p50", 0.15, absolute=0.010),)
    fast = judge(
        policy, launches(0.024, metric="ttft_p50"), stored(ttft_p50=0.018), KEY
    )  # +33%, but 6 ms
    slow = judge(policy, launches(0.240, metric="ttft_p50"), stored(ttft_p50=0.180), KEY)
    assert (fast.status, slow.status) == (Status.PASS, Status.FAIL)


def test_the_tolerance_of_a_throughput_is_a_share_of_the_throughput() -> None:
    assert MetricPolicy("output_tput", 0.5).log_limit(1.0) == pytest.approx(0.6931, abs=1e-4)
    assert MetricPolicy("tpot_p50", 0.5).log_limit(1.0) == pytest.approx(0.4055, abs=1e-4)
    assert MetricPolicy("output_tput", 0.5, absolute=2.0).log_limit(1.0) == float("inf")


def test_without_a_baseline() -> None:
    nothing = judge(THROUGHPUT, launches(1000))
    assert (nothing.status, nothing.reason) == (Status.UNGATED, "no baseline")
    assert "--gpubench-update-baselines" in nothing.remedy
    required = judge(THROUGHPUT, launches(1000), require_baseline=True)
    assert (required.status, "--gpubench-require-baseline" in required.reason) == (
        Status.FAIL,
        True,
    )


def test_another_key_is_not_comparable_and_the_field_is_named() -> None:
    other = FrozenMap({**KEY, "workload.osl": 512})
    verdict = judge(THROUGHPUT, launches(1000), stored(output_tput_per_gpu=1000), other)
    assert verdict.status is Status.UNGATED
    assert verdict.reason == "NOT COMPARABLE with the baseline: workload.osl: 1024 before, 512 now"
    assert (
        judge(
            THROUGHPUT,
            launches(1000),
            stored(output_tput_per_gpu=1000),
            other,
            require_baseline=True,
        ).status
        is Status.FAIL
    )


def test_a_short_baseline_is_inconclusive_and_wants_no_launch() -> None:
    verdict = judge(
        THROUGHPUT,
        launches(1000),
        stored(NOISE[:3], output_tput_per_gpu=1000),
        KEY,
        LaunchPlan(1, 2),
    )
    assert (verdict.status, verdict.wants_launch) == (Status.INCONCLUSIVE, False)
    assert "has 3 launches, a spread takes 5" in verdict.reason
    assert "--gpubench-launches=2 --gpubench-update-baselines" in verdict.remedy


def test_slow_drift_fails_against_the_anchor_though_every_step_was_small() -> None:
    later = tuple(factor * 0.965 for factor in (NOISE * 3)[:20])
    verdict = judge(THROUGHPUT, launches(932), stored(NOISE + later, output_tput_per_gpu=1000), KEY)
    assert (
        judge(THROUGHPUT, launches(932), stored(later, output_tput_per_gpu=1000), KEY).status
        is Status.PASS
    )
    assert (verdict.status, verdict.metrics[0].code) == (Status.FAIL, "drifted")
    assert "against the baseline's anchor" in verdict.reason
    assert any(note.startswith("drift: the newest 8 launches") for note in verdict.notes)


def test_a_baseline_of_one_day_is_a_warning_only() -> None:
    entries = [
        LaunchEntry(
            "run1",
            f"launch-{i}",
            "2026-01-01T00:00:00Z",
            "",
            FrozenMap({"output_tput_per_gpu": 1000 * factor}),
        )
        for i, factor in enumerate(NOISE)
    ]
    verdict = judge(THROUGHPUT, launches(1000), append(Baseline("s:w"), KEY, entries), KEY)
    assert verdict.status is Status.PASS
    assert "all of one day" in verdict.notes[0]


def test_limits_stand_beside_the_comparison_and_need_no_baseline() -> None:
    gates = FrozenMap({"ttft_p50": {"at-most": 0.5}})
    found = policies(gates, WORKLOAD)
    broken = judge(found, launches(0.6, metric="ttft_p50"))
    held = judge(found, launches(0.4, metric="ttft_p50"))
    assert (broken.status, "at most 0.5 s" in broken.reason) == (Status.FAIL, True)
    assert (held.status, held.reason) == (Status.PASS, "1 limit held")
    both = judge(found, launches(0.49, metric="ttft_p50"), stored(ttft_p50=0.3), KEY)
    assert (both.status, both.metrics[0].status) == (Status.FAIL, Status.PASS)
    declared = judge(
        policies(FrozenMap({"ttft_p50": {"at-most": 0.5}, "tpot_p50": "5%"}), WORKLOAD),
        both_metrics(),
    )
    assert declared.status is Status.UNGATED


def both_metrics() -> list[LaunchEvidence]:
    return [LaunchEvidence("launch-1", {"ttft_p50": 0.2, "tpot_p50": 0.05}, 640)]


def test_one_launch_that_breaks_a_limit_fails_for_its_own_reason() -> None:
    found = policies(FrozenMap({"ttft_p50": {"at-most": 0.5}}), WORKLOAD)
    verdict = judge(found, launches(0.4, 0.6, 0.4, metric="ttft_p50"), plan=LaunchPlan(3))
    assert (verdict.status, "(1 of 3 launches)" in verdict.reason) == (Status.FAIL, True)


def test_tails_are_gated_on_enough_requests_only() -> None:
    found = policies(FrozenMap({"ttft_p99": "40%"}), WORKLOAD)
    few = judge(found, launches(0.9, metric="ttft_p99", requests=999), stored(ttft_p99=0.5), KEY)
    many = judge(found, launches(0.9, metric="ttft_p99", requests=1000), stored(ttft_p99=0.5), KEY)
    assert (few.status, "gated from 1000" in few.reason) == (Status.INCONCLUSIVE, True)
    assert many.status is Status.FAIL
    silent = judge(
        policies(FrozenMap(), WORKLOAD),
        launches(0.9, metric="ttft_p99", requests=999),
        stored(ttft_p99=0.5),
        KEY,
    )
    assert silent.status is Status.UNGATED


def test_a_metric_flagged_as_not_gated_is_not() -> None:
    flagged = [
        LaunchEvidence(
            "launch-1", {"output_tput_per_gpu": 500.0}, 640, frozenset({"output_tput_per_gpu"})
        )
    ]
    assert (
        judge(THROUGHPUT, flagged, stored(output_tput_per_gpu=1000), KEY).status is Status.UNGATED
    )


def test_acceptance_is_gated_on_text_only() -> None:
    one = [LaunchEvidence("launch-1", {"acceptance_length": 1.2}, 640)]
    base = stored(acceptance_length=2.8)
    assert judge(policies(FrozenMap(), WORKLOAD), one, base, KEY).status is Status.UNGATED
    assert judge(policies(FrozenMap(), TEXT), one, base, KEY).status is Status.FAIL
    asked = judge(policies(FrozenMap({"acceptance_length": {"at-least": 2.0}}), WORKLOAD), one)
    assert asked.status is Status.INCONCLUSIVE
    assert "random tokens say nothing" in asked.reason
    assert "name a text dataset" in asked.remedy


@pytest.mark.parametrize(
    ("draft", "tokens", "thinks", "golden"),
    [
        ("Inferact/MiniMax-M3-EAGLE3", 3, True, 2.83),
        ("Inferact/MiniMax-M3-EAGLE3", 3, False, 2.93),
        ("Inferact/MiniMax-M3-EAGLE3", 6, False, 3.57),
        ("Inferact/MiniMax-M3-EAGLE3-GQA", 3, True, 2.78),
        ("Inferact/MiniMax-M3-EAGLE3-GQA", 9, True, None),
        ("someone/else", 3, True, None),
    ],
)
def test_golden_acceptance_lengths(
    draft: str, tokens: int, thinks: bool, golden: float | None
) -> None:
    spec = Speculative("eagle3", tokens, draft)
    load = Workload(
        1024,
        1024,
        4,
        40,
        8,
        dataset="text",
        chat_template_kwargs=FrozenMap({} if thinks else {"thinking": False}),
    )
    found = next(
        one
        for one in policies(FrozenMap({"acceptance_length": {"golden": True}}), load, spec)
        if "acceptance" in one.metric
    )
    assert found.golden == golden
    one = [LaunchEvidence("launch-1", {"acceptance_length": 2.6}, 40)]
    expected = (
        Status.INCONCLUSIVE
        if golden is None
        else Status.FAIL
        if golden * 0.9 > 2.6
        else Status.PASS
    )
    assert judge([found], one).status is expected


def test_a_golden_length_far_exceeded_is_said() -> None:
    found = policies(FrozenMap({"acceptance_length": {"golden": 2.0, "tolerance": "5%"}}), TEXT)
    verdict = judge(found, [LaunchEvidence("launch-1", {"acceptance_length": 3.9}, 640)])
    assert verdict.status is Status.PASS
    assert "easier to predict" in verdict.section


def test_an_invalid_measurement_makes_the_launch_invalid() -> None:
    totals = Totals(640, 0, 1, 1, 1, 1)
    late = ("the client was measured", "a clock is wrong", "the client was measured")
    bad = evidence_of("launch-1", Measurement({"output_tput_per_gpu": 700.0}, totals, invalid=late))
    good = evidence_of("launch-2", Measurement({"output_tput_per_gpu": 1000.0}, totals))
    assert bad.invalid == ("the client was measured", "a clock is wrong")
    base = stored(output_tput_per_gpu=1000)
    alone = judge(THROUGHPUT, [bad], base, KEY)
    assert (alone.status, "client was measured" in alone.reason) == (Status.INVALID, True)
    assert judge(THROUGHPUT, [bad], base, KEY, LaunchPlan(1, 1)).wants_launch
    both = judge(THROUGHPUT, [bad, good], base, KEY, LaunchPlan(1, 1))
    assert (both.status, both.notes[0].startswith("launch-1 does not count")) == (Status.PASS, True)


def pair_verdict(
    first: Sequence[float], second: Sequence[float], pairs: int, tolerance: float = 0.015
) -> Verdict:
    policy = (MetricPolicy("output_tput_per_gpu", tolerance),)
    arms = [[LaunchEvidence(f"{arm}{i}", {"output_tput_per_gpu": value}, 640) for i, value in enumerate(values, 1)]
            for arm, values in (("a", first), ("b", second))]  # fmt: skip
    return judge_pair(policy, arms[0], arms[1], LaunchPlan(pairs))


def test_two_engines_in_pairs() -> None:
    first = [1000, 1020, 985, 1010, 990, 1005]
    slower = pair_verdict(
        first,
        [value * 0.965 + delta for value, delta in zip(first, (1, -1, 2, -2, 0, 1), strict=True)],
        6,
    )
    assert slower.status is Status.FAIL
    assert "against the first engine" in slower.reason
    assert "engine A" in slower.section
    assert pair_verdict(first, [value * 1.001 for value in first], 6).status is Status.PASS


def test_half_a_block_decides_nothing() -> None:
    for first, second in (([1000.0], []), ([1000.0], [900.0])):
        verdict = pair_verdict(first, second, 2)
        assert (verdict.status, verdict.wants_launch) == (Status.INCONCLUSIVE, True)
    two = pair_verdict([1000, 1001], [965, 963], 2)
    assert (two.status, two.wants_launch) == (Status.INCONCLUSIVE, False)
    assert "pairs of launches would settle it" in two.remedy


def test_several_metrics_the_worst_decides_and_passes_are_brief() -> None:
    found = (MetricPolicy("output_tput_per_gpu", 0.05), MetricPolicy("tpot_p50", 0.05))
    now = [LaunchEvidence("launch-1", {"output_tput_per_gpu": 880.0, "tpot_p50": 0.05}, 640)]
    verdict = judge(found, now, stored(output_tput_per_gpu=1000, tpot_p50=0.05), KEY)
    assert verdict.status is Status.FAIL
    assert "tpot_p50" not in verdict.reason
    lines = verdict.section.splitlines()
    assert lines.index(next(line for line in lines if line.startswith("FAIL  output"))) < next(
        i for i, line in enumerate(lines) if line.startswith("PASS  tpot_p50")
    )


def test_a_failed_case_wants_no_launch_although_another_metric_is_open() -> None:
    found = (MetricPolicy("output_tput_per_gpu", 0.05), MetricPolicy("tpot_p50", 0.05))
    now = [
        LaunchEvidence(f"launch-{i}", {"output_tput_per_gpu": 880.0, "tpot_p50": 0.0525}, 640)
        for i in (1, 2)
    ]
    verdict = judge(
        found, now, stored(output_tput_per_gpu=1000, tpot_p50=0.05), KEY, LaunchPlan(1, 2)
    )
    assert [one.code for one in verdict.metrics] == ["regressed", "straddles"]
    assert (verdict.status, verdict.wants_launch) == (Status.FAIL, False)
