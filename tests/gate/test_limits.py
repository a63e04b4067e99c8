"""Limits declared in a recipe: what breaks one, and the sentence that says so."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from pytest_gpubench.gate.decide import limit_results, refusal
from pytest_gpubench.gate.evidence import LaunchEvidence
from pytest_gpubench.gate.policy import Limit, MetricPolicy
from pytest_gpubench.model.evaluation import ACCURACY
from pytest_gpubench.model.metrics import METRICS
from pytest_gpubench.model.verdicts import Status


@pytest.mark.parametrize(
    ("limit", "value", "words"),
    [
        (Limit("acceptance_length", at_least=2.0), 2.0, None),
        (Limit("acceptance_length", at_least=2.0), 1.99, "at least 2 tok"),
        (Limit("ttft_p50", at_most=0.5), 0.5, None),
        (Limit("ttft_p50", at_most=0.5), 0.51, "at most 0.5 s"),
        (Limit("ttft_p50", at_least=0.1, at_most=0.5), 0.2, None),
        (Limit("ttft_p50"), 1e9, None),
    ],
)
def test_a_bound_itself_is_allowed(limit: Limit, value: float, words: str | None) -> None:
    found = limit.violation(value)
    assert found is None if words is None else words in (found or "")


def test_a_limit_without_bounds_is_not_declared() -> None:
    assert not Limit("ttft_p50").declared
    assert Limit("ttft_p50", at_most=1.0).declared


@pytest.mark.parametrize("last", [0.0, math.nan, None])
def test_a_metric_counts_where_every_round_has_it(last: float | None) -> None:
    """A mean over 2 ms and 0 looks like an improvement."""
    rounds: list[dict[str, float]] = [{"tpot_p50": 0.002}, {"tpot_p50": 0.002}]
    whole = LaunchEvidence("launch-1", {"tpot_p50": 0.002}, 10, rounds=tuple(rounds))
    assert whole.has("tpot_p50")
    rounds.append({} if last is None else {"tpot_p50": last})
    assert not replace(whole, rounds=tuple(rounds)).has("tpot_p50")


@pytest.mark.parametrize(
    ("value", "limit", "status", "words"),
    [
        (0.0, Limit("prefix_hit_rate", at_least=0.4), Status.FAIL, "demands at least 0.4 share"),
        (0.0, Limit("goodput", at_least=1.0), Status.FAIL, "demands at least 1 req/s"),
        (0.0, Limit("prefix_hit_rate", at_most=0.1), Status.PASS, "within its limits"),
        (0.0, Limit("ttft_p50", at_most=0.1), Status.INCONCLUSIVE, "could not be measured"),
        (None, Limit("prefix_hit_rate", at_least=0.4), Status.INCONCLUSIVE, "could not be"),
    ],
)
def test_a_share_of_nothing_is_a_measured_one(
    value: float | None, limit: Limit, status: Status, words: str
) -> None:
    """A cache that finds nothing any more is the loss that its limit is there for."""
    metrics = {} if value is None else {limit.metric: value}
    launch = LaunchEvidence("launch-1", metrics, 10, rounds=(metrics,))
    (verdict,) = limit_results([MetricPolicy(limit.metric, limit=limit)], [launch])
    assert (verdict.status, words in verdict.reason) == (status, True), verdict


def test_every_share_of_a_load_may_be_zero() -> None:
    """A new share whose 0 no limit could judge would be INCONCLUSIVE where it is at its best or
    worst."""
    shares = {metric for metric in METRICS.values() if metric.unit == "share"}
    refused = {metric.name for metric in shares if not metric.may_be_zero}
    assert refused == {ACCURACY}, "set may_be_zero: model/metrics.py"


def test_there_is_no_ratio_to_nothing() -> None:
    launch = LaunchEvidence("launch-1", {"prefix_hit_rate": 0.0}, 10)
    verdict = refusal(MetricPolicy("prefix_hit_rate", 0.05), [launch])
    assert verdict is not None
    assert verdict.reason == "prefix_hit_rate is 0 on launch-1"
    assert verdict.remedy == "give it a limit, which judges 0"


@pytest.mark.parametrize(
    ("metric", "remedy"),
    [
        ("prefix_hit_rate", "turn prefix caching on"),
        ("session_goodput", "within `slo`"),
        ("session_duration_p50", "`dataset: sessions`"),
        ("acceptance_length", "see the record's flags"),
    ],
)
def test_what_was_not_measured_says_what_it_needs(metric: str, remedy: str) -> None:
    launch = LaunchEvidence("launch-1", {}, 10, rounds=({},))
    verdict = refusal(MetricPolicy(metric, tolerance=0.05), [launch])
    assert verdict is not None
    assert remedy in verdict.remedy
