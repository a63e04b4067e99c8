"""What a table says of a verdict."""

from __future__ import annotations

from pytest_gpubench.model.verdicts import MetricVerdict, Status, Verdict


def test_an_improvement_is_told_although_another_metric_is_undecided() -> None:
    metrics = (
        MetricVerdict("ttft_p50", Status.PASS, "improved", "ttft_p50 fell by 38%", improved=True),
        MetricVerdict(
            "tpot_p50", Status.INCONCLUSIVE, "wide", "the interval contains the 5% that are allowed"
        ),
    )
    verdict = Verdict(
        Status.INCONCLUSIVE,
        "the interval contains the 5% that are allowed",
        "measure more",
        metrics=metrics,
    )
    assert (
        verdict.line
        == "the interval contains the 5% that are allowed; measure more; ttft_p50 fell by 38%"
    )


def test_what_failed_is_not_excused_by_an_improvement() -> None:
    metrics = (
        MetricVerdict("ttft_p50", Status.PASS, "improved", "ttft_p50 fell by 38%", improved=True),
    )
    assert Verdict(Status.FAIL, "tpot_p50 rose", metrics=metrics).line == "tpot_p50 rose"
