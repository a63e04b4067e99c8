"""The metric table: every number we report, with unit, direction and definition."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from pytest_gpubench.model.evaluation import ACCURACY

Direction: TypeAlias = Literal["higher", "lower", "neutral"]
ACCEPTANCE = "acceptance_length"
"""The one metric that others publish for a draft: it does not depend on the machine."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: ``direction`` says which way is better."""

    name: str
    unit: str
    direction: Direction
    definition: str
    tolerance: float = 0.05
    """Share by which it may worsen where a gate names no other."""
    guard: float = 0.0
    """In its unit: a worsening counts only if it is larger than this as well."""
    shown_from: int = 1
    """Measured requests below which it is in brackets."""
    gated_from: int = 1
    """Measured requests below which it is never gated."""
    may_be_zero: bool = False
    """Whether 0 is a value (no hit in a cache, no request within its limits), which a limit judges;
    a time or a rate of 0 was not measured."""


_STATISTICS = {"mean": (1, 1), "p50": (1, 1), "p90": (29, 100), "p99": (299, 1000)}
"""Shown from, gated from so many requests: with 95% confidence one lies beyond the percentile; ten
are expected to."""


def _latency(name: str, words: str, tolerance: float = 0.05, guard: float = 0.0) -> list[Metric]:
    return [
        Metric(
            f"{name}_{stat}",
            "s",
            "lower",
            f"{words}; {stat} of the measured requests, linear interpolation",
            tolerance,
            guard,
            *requests,
        )
        for stat, requests in _STATISTICS.items()
    ]


_TABLE: tuple[Metric, ...] = (
    Metric("output_tput", "tok/s", "higher",
        "output tokens of the measured requests / (last token - first start)"),
    Metric("output_tput_per_gpu", "tok/s/GPU", "higher", "output_tput / (tp * pp * pcp)"),
    Metric("input_tput_per_gpu", "tok/s/GPU", "higher",
        "prompt tokens / (last token - first start) / (tp * pp * pcp)"),
    Metric("total_tput_per_gpu", "tok/s/GPU", "higher",
        "prompt and output tokens / (last token - first start) / (tp * pp * pcp)"),
    Metric("request_tput", "req/s", "higher", "measured requests / (last token - first start)"),
    *_latency("ttft", "time to first token: due time to the first chunk that carries a token",
        tolerance=0.15, guard=0.010),
    *_latency("tpot", "time per output token: (E2E - TTFT) / (output tokens - 1)"),
    *_latency("e2e", "end to end: due time to the last token"),
    *_latency("icl", "inter-chunk latency: gap between chunks of one stream",
        tolerance=0.10, guard=0.001),
    *_latency("itl", "inter-token latency: each gap shared equally among the tokens of its chunk, "
        "where their number is known"),
    *_latency("engine_ttft",
        "the engine's own time from scheduling to the first token, where it tells",
        tolerance=0.15, guard=0.010),
    *_latency("queue", "the engine's own time from arrival to scheduling, where it tells",
        tolerance=0.15, guard=0.010),
    Metric("interactivity", "tok/s/user", "higher", "1 / tpot_p50"),
    Metric("peak_output_tput", "tok/s", "higher",
        "highest rate in one of the run's equal parts of about 1 s"),
    Metric("goodput", "req/s", "higher",
        "measured requests within every SLO of the recipe / (last token - first start)",
        may_be_zero=True),
    Metric("steady_output_tput", "tok/s", "higher",
        "output tokens per second inside the steady-state window"),
    Metric("acceptance_length", "tok", "higher",
        "1 + accepted draft tokens / drafts, from /metrics, idle to idle",
        tolerance=0.03),
    Metric("prefix_hit_rate", "share", "higher",
        "prompt tokens found in the prefix cache / prompt tokens looked up there, from /metrics, "
        "idle to idle",
        may_be_zero=True),
    Metric("session_duration_mean", "s", "lower",
        "first turn due to the last token of the session and its sub-sessions, pauses included; "
        "mean of the sessions that ended"),
    Metric("session_duration_p50", "s", "lower", "likewise; median of the sessions that ended"),
    Metric("session_output_tput", "tok/s", "higher",
        "output tokens of a session / its duration; median of the sessions that ended"),
    Metric("session_goodput", "share", "higher",
        "sessions of which every request is within every SLO of the recipe / sessions that ended",
        may_be_zero=True),
    Metric("energy_per_output_token", "J/tok", "lower",
        "energy of the server's GPUs / output tokens, over the measured window"),
    Metric(ACCURACY, "share", "higher", "questions answered right / questions asked",
        tolerance=0.01),
    Metric("gpu_power", "W", "neutral", "energy of the server's GPUs / duration"),
    Metric("duration", "s", "neutral", "last token - first start"),
    Metric("engine_init", "s", "lower", "process start to ready", tolerance=0.30, guard=20.0),
)  # fmt: skip
METRICS: dict[str, Metric] = {metric.name: metric for metric in _TABLE}


def mean_of(values: Sequence[float]) -> float:
    """Of a metric's values on launches or rounds: the geometric mean; the plain one where a value
    is 0, or is no number."""
    if min(values) <= 0 or not all(map(math.isfinite, values)):
        return statistics.fmean(values)
    return statistics.geometric_mean(values)
