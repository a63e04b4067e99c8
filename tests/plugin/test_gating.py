"""What a verdict leaves on its item."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from pytest_gpubench.model.verdicts import MetricVerdict, Status, Verdict
from pytest_gpubench.plugin.run_gate import Gate


def _told(verdict: Verdict) -> dict[str, Any]:
    settings = cast("Any", SimpleNamespace(accept_regression=False))
    judging = cast("Any", SimpleNamespace(launches=lambda _: []))
    return Gate(settings, cast("Any", None), judging).told("case", verdict)


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
        _told(verdict)["note"]
        == "the interval contains the 5% that are allowed; measure more; ttft_p50 fell by 38%"
    )


def test_what_failed_is_not_excused_by_an_improvement() -> None:
    metrics = (
        MetricVerdict("ttft_p50", Status.PASS, "improved", "ttft_p50 fell by 38%", improved=True),
    )
    assert _told(Verdict(Status.FAIL, "tpot_p50 rose", metrics=metrics))["note"] == "tpot_p50 rose"
