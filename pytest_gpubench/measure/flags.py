"""Flags: what limits the use of a valid measurement. The metric concerned is shown, not gated. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pytest_gpubench.load.protocol import ClientFacts
from pytest_gpubench.measure.measurement import Flag, Totals
from pytest_gpubench.measure.validity import ENGINE_STRETCH, Validity
from pytest_gpubench.model.workload import Workload

VANISHED = "counters-vanished"
_TAILS: tuple[tuple[str, int, int], ...] = (("p90", 29, 100), ("p99", 299, 1000))
"""(percentile, shown from, gated from) so many requests: with 95% confidence one lies beyond it; ten are expected to."""
_BLUR = 0.25
"""Of the median gap between chunks: a client that is this late at times cannot tell how uneven the gaps are."""
_OUTSIDE, _OUTSIDE_FLOOR = 0.10, 0.020
"""Of the median TTFT, and seconds."""
_CACHED = 0.05
"""Of the prompt tokens; a chat template's first words may well be cached."""


def find_flags(
    metrics: Mapping[str, float],
    totals: Totals,
    requests: int,
    workload: Workload,
    seen: Validity,
    client: ClientFacts | None,
    attempts: int = 1,
    vanished: Sequence[str] = (),
) -> tuple[Flag, ...]:
    """All flags of a measurement.

    Args:
        vanished: counters that left ``/metrics`` during the run.
    """
    flags = []
    if vanished:
        shown = ", ".join(vanished[:3]) + (f" and {len(vanished) - 3} more" if len(vanished) > 3 else "")
        flags.append(Flag(VANISHED, f"/metrics lost {shown} during the run: what they count was not checked"))
    for tail, shown_from, gated_from in _TAILS:
        names = tuple(name for name in metrics if name.endswith(f"_{tail}"))
        if names and requests < gated_from:
            message = f"{tail} rests on {requests} requests: shown from {shown_from}, gated from {gated_from}"
            flags.append(Flag("few-requests", message, names, names if requests < shown_from else ()))
    if "steady_output_tput" not in metrics:
        flags.append(Flag("no-steady-state", "the run has no steady window of two median request times", ("steady_output_tput",)))
    if totals.preemptions:
        flags.append(Flag("preemptions", f"the engine preempted {totals.preemptions} requests: its KV cache was too small"))
    if totals.engine_output_tokens is None:
        flags.append(Flag("tokens-unchecked", "/metrics has no vllm:generation_tokens_total: token totals could not be checked"))
    flags += _blurred(metrics, seen)
    if attempts > 1:
        message = f"this is measurement {attempts} on this launch: the engine compiled kernels while the one before was made"
        flags.append(Flag("measured-again", message))
    if seen.engine_gap is not None and seen.engine_gap > max(_OUTSIDE_FLOOR, _OUTSIDE * metrics.get("ttft_p50", 0.0)):
        message = f"{seen.engine_gap * 1e3:.1f} ms of the TTFT (median) passed outside the engine: in its API server, or on the way"
        flags.append(Flag("outside-engine", message))
    if seen.engine_stretch is not None and seen.engine_stretch > ENGINE_STRETCH:
        message = f"streams lasted {seen.engine_stretch:.1%} longer than in the engine (median): its API server is behind"
        flags.append(Flag("streams-outside-engine", message))
    shared = workload.prefix_tokens or workload.turns > 1 or workload.dataset not in ("random", "text")
    if not shared and (totals.prefix_cache_hits or 0) > _CACHED * totals.prompt_tokens:
        names = tuple(name for name in metrics if name.startswith("ttft_"))
        message = f"the engine found {totals.prefix_cache_hits} tokens of prompts in its prefix cache, though all prompts are new"
        flags.append(Flag("prefix-hits", message, names))
    if client is not None and client.stopped_by == "count":
        if workload.duration is not None and metrics.get("duration", 0.0) < workload.duration:
            message = f"all {requests} prompts were sent before {workload.duration:g} s had passed: raise prompts-per-conc"
            flags.append(Flag("prompts-exhausted", message))
        if workload.interval is not None:
            message = f"the confidence interval of {workload.interval_metric} is still wider than {workload.interval:.1%}"
            flags.append(Flag("interval-not-reached", message))
    return tuple(flags)


def _blurred(metrics: Mapping[str, float], seen: Validity) -> list[Flag]:
    gap = metrics.get("icl_p50")
    if seen.lag_p99 is None or gap is None or seen.lag_p99 <= _BLUR * gap:
        return []
    names = tuple(name for name in metrics if name.startswith(("icl_p9", "itl_p9")))
    message = (
        f"the client was late by {seen.lag_p99 * 1e3:.1f} ms at times, which is much beside the {gap * 1e3:.1f} ms between chunks"
    )
    return [Flag("chunk-times-blurred", message, names)]
