"""Limits declared in a recipe, judged without a baseline."""

from __future__ import annotations

import pytest

from pytest_gpubench.domain.frozen import FrozenMap
from pytest_gpubench.domain.verdicts import Status
from pytest_gpubench.gate.limits import judge


@pytest.mark.parametrize(
    ("gates", "metrics", "status", "words"),
    [
        ({}, {"output_tput": 10.0}, Status.UNGATED, "declares no gate"),
        ({"output_tput_per_gpu": "5%"}, {"output_tput_per_gpu": 10.0}, Status.UNGATED, "no baseline for output_tput_per_gpu"),
        ({"acceptance_length": {"at-least": 2.0}}, {"acceptance_length": 2.0}, Status.PASS, "1 limit held"),
        ({"acceptance_length": {"at-least": 2.0}}, {"acceptance_length": 1.99}, Status.FAIL, "at least 2 tok"),
        ({"ttft_p50": {"at-most": 0.5}}, {"ttft_p50": 0.51}, Status.FAIL, "at most 0.5 s"),
        ({"ttft_p50": {"at-most": 0.5}}, {}, Status.INCONCLUSIVE, "ttft_p50 could not be measured"),
        ({"ttft_p50": {"at-most": 0.5, "at-least": 0.1}, "tpot_p50": "5%"}, {"ttft_p50": 0.2}, Status.UNGATED, "tpot_p50"),
    ],
)
def test_verdict_follows_the_limits(gates: dict[str, object], metrics: dict[str, float], status: Status, words: str) -> None:
    verdict = judge(FrozenMap(gates), metrics)
    assert verdict.status is status
    assert words in verdict.reason


def test_every_broken_limit_is_named() -> None:
    gates = FrozenMap({"ttft_p50": {"at-most": 0.5}, "output_tput": {"at-least": 100}})
    reason = judge(gates, {"ttft_p50": 1.0, "output_tput": 1.0}).reason
    assert "ttft_p50" in reason
    assert "output_tput" in reason
