"""Defaults and what a recipe lays over them."""

from __future__ import annotations

import pytest

from pytest_gpubench.gate.policy import (
    DEFAULTS,
    MetricPolicy,
    narrowed,
    policies,
    policy_document,
)
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.metrics import METRICS
from pytest_gpubench.model.workload import Workload

WORKLOAD = Workload(1024, 1024, 4, 40, 8)


def one(metric: str, gate: object) -> MetricPolicy | None:
    found = policies(FrozenMap({metric: gate}), WORKLOAD)
    return next((policy for policy in found if policy.metric == metric), None)


def test_defaults_are_gated_unasked() -> None:
    found = policies(FrozenMap(), WORKLOAD)
    assert [policy.metric for policy in found] == [
        "output_tput_per_gpu",
        "tpot_p50",
        "ttft_p50",
        "ttft_p99",
    ]
    assert not any(policy.declared for policy in found)
    assert [policy.metric for policy in policies(FrozenMap())] == ["engine_init"]
    assert all(METRICS[policy.metric].direction != "neutral" for policy in DEFAULTS)


@pytest.mark.parametrize(
    ("metric", "gate", "tolerance", "absolute", "declared"),
    [
        ("ttft_p50", "10%", 0.10, 0.010, True),
        ("ttft_p50", {"absolute": 0.02}, 0.15, 0.02, True),
        ("ttft_p50", {"tolerance": "2.5%", "absolute": 0}, 0.025, 0.0, True),
        ("ttft_p50", {"at-most": 0.5}, 0.15, 0.010, False),
        ("e2e_p50", "8%", 0.08, 0.0, True),
        ("e2e_p50", {"at-most": 9}, None, 0.0, False),
        ("icl_p50", {"absolute": 0.002}, 0.10, 0.002, True),
    ],
)
def test_a_gate_replaces_what_it_names(
    metric: str, gate: object, tolerance: float | None, absolute: float, declared: bool
) -> None:
    policy = one(metric, gate)
    assert policy is not None
    assert (policy.tolerance, policy.absolute, policy.declared) == (tolerance, absolute, declared)


def test_false_takes_a_metric_out() -> None:
    assert one("tpot_p50", False) is None


def test_tails_need_requests() -> None:
    assert [MetricPolicy(name).min_requests for name in ("ttft_p50", "e2e_p90", "tpot_p99")] == [
        1,
        100,
        1000,
    ]


def test_the_plan_shows_what_is_gated() -> None:
    gates = FrozenMap({"ttft_p50": {"at-most": 0.5}, "acceptance_length": {"golden": 2.8}})
    shown = policy_document(policies(gates, WORKLOAD))
    assert shown["ttft_p50"] == {"unit": "s", "tolerance": "15%", "absolute": 0.01, "at-most": 0.5}
    assert shown["ttft_p99"]["min-requests"] == 1000
    assert "random tokens" in str(shown["acceptance_length"]["not-gated"])
    assert shown["output_tput_per_gpu"] == {"unit": "tok/s/GPU", "tolerance": "5%"}


def test_the_engines_own_times_have_guards_of_their_own() -> None:
    """Not that of the engine's start, which is 20 s."""
    policy = one("engine_ttft_p50", "5%")
    assert policy is not None
    assert (policy.tolerance, policy.absolute) == (0.05, 0.010)


def test_a_run_may_gate_some_metrics_only() -> None:
    found = policies(FrozenMap({"tpot_p50": "2%"}), WORKLOAD)
    assert narrowed(found, ()) == found
    tpot, e2e = narrowed(found, ("e2e_p50", "tpot_p50", "engine_init", "e2e_p50"))
    assert (tpot.metric, tpot.tolerance) == ("tpot_p50", 0.02)
    assert (e2e.metric, e2e.tolerance, e2e.declared) == ("e2e_p50", 0.05, True)
    start = policies(FrozenMap())
    assert narrowed(start, ("e2e_p50",), start=True) == ()
    assert [one.metric for one in narrowed(start, ("engine_init",), start=True)] == ["engine_init"]
