"""Limits declared in a recipe: what breaks one, and the sentence that says so."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from pytest_gpubench.gate.bounds import usable
from pytest_gpubench.gate.evidence import LaunchEvidence
from pytest_gpubench.gate.policy import Limit


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
    assert usable(whole, "tpot_p50")
    rounds.append({} if last is None else {"tpot_p50": last})
    assert not usable(replace(whole, rounds=tuple(rounds)), "tpot_p50")
