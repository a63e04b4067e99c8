"""The metric table: every number we report, with unit, direction and definition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

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


def _latency(name: str, words: str) -> list[Metric]:
    return [
        Metric(
            f"{name}_{stat}",
            "s",
            "lower",
            f"{words}; {stat} of the measured requests, linear interpolation",
        )
        for stat in ("mean", "p50", "p90", "p99")
    ]


_TABLE: tuple[Metric, ...] = (
    Metric(
        "output_tput",
        "tok/s",
        "higher",
        "output tokens of the measured requests / (last token - first start)",
    ),
    Metric("output_tput_per_gpu", "tok/s/GPU", "higher", "output_tput / (tp * pp * pcp)"),
    Metric(
        "input_tput_per_gpu",
        "tok/s/GPU",
        "higher",
        "prompt tokens / (last token - first start) / (tp * pp * pcp)",
    ),
    Metric(
        "total_tput_per_gpu",
        "tok/s/GPU",
        "higher",
        "prompt and output tokens / (last token - first start) / (tp * pp * pcp)",
    ),
    Metric("request_tput", "req/s", "higher", "measured requests / (last token - first start)"),
    *_latency("ttft", "time to first token: due time to the first chunk that carries a token"),
    *_latency("tpot", "time per output token: (E2E - TTFT) / (output tokens - 1)"),
    *_latency("e2e", "end to end: due time to the last token"),
    *_latency("icl", "inter-chunk latency: gap between chunks of one stream"),
    *_latency(
        "itl",
        "inter-token latency: each gap shared equally among the tokens of its chunk, "
        "where their number is known",
    ),
    *_latency(
        "engine_ttft", "the engine's own time from scheduling to the first token, where it tells"
    ),
    *_latency("queue", "the engine's own time from arrival to scheduling, where it tells"),
    Metric("interactivity", "tok/s/user", "higher", "1 / tpot_p50"),
    Metric(
        "peak_output_tput",
        "tok/s",
        "higher",
        "highest rate in one of the run's equal parts of about 1 s",
    ),
    Metric(
        "goodput",
        "req/s",
        "higher",
        "measured requests within every SLO of the recipe / (last token - first start)",
    ),
    Metric(
        "steady_output_tput",
        "tok/s",
        "higher",
        "output tokens per second inside the steady-state window",
    ),
    Metric(
        "acceptance_length",
        "tok",
        "higher",
        "1 + accepted draft tokens / drafts, from /metrics, idle to idle",
    ),
    Metric(
        "energy_per_output_token",
        "J/tok",
        "lower",
        "energy of the server's GPUs / output tokens, over the measured window",
    ),
    Metric("gpu_power", "W", "neutral", "energy of the server's GPUs / duration"),
    Metric("duration", "s", "neutral", "last token - first start"),
    Metric("engine_init", "s", "lower", "process start to ready"),
)
METRICS: dict[str, Metric] = {metric.name: metric for metric in _TABLE}
