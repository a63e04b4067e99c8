"""Limits declared in a recipe: what breaks one, and the sentence that says so."""

from __future__ import annotations

import pytest

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
