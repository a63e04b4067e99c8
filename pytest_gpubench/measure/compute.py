"""From request records and two scrapes to a Measurement. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pytest_gpubench.domain.topology import Topology
from pytest_gpubench.domain.workload import Workload
from pytest_gpubench.engines.scrape import Scrape
from pytest_gpubench.load.plan import ClientFacts, RequestRecord
from pytest_gpubench.measure import definitions
from pytest_gpubench.measure.checks import find_problems
from pytest_gpubench.measure.measurement import Drafting, Flag, Measurement, Totals

_TAILS: tuple[tuple[str, int, int], ...] = (("p90", 29, 100), ("p99", 299, 1000))
"""(percentile, shown from, gated from) so many requests: with 95% confidence one lies beyond it; ten are expected to."""


def compute(
    records: Sequence[RequestRecord],
    before: Scrape,
    after: Scrape,
    workload: Workload,
    topology: Topology,
    *,
    speculative: bool,
    prefix_caching: bool,
    client: ClientFacts | None = None,
) -> Measurement:
    """The measurement of a load run.

    Args:
        records: of all requests, warm-up included.
        before: scrape of the idle engine before the first request (of the warm-up).
        after: scrape of the idle engine after the last one.
        speculative: whether the server was asked to draft; then it must have.
        prefix_caching: whether hits are allowed.

    Raises:
        ValueError: if counters went backwards between the scrapes.
    """
    counted = after.since(before)
    measured = [record for record in records if record.phase == "measured" and record.ok]
    totals = _totals(records, counted)
    drafting = _drafting(counted)
    problems = find_problems(records, workload, totals, drafting, speculative=speculative, prefix_caching=prefix_caching)
    metrics = {} if problems else _metrics(measured, totals, drafting, workload, topology)
    lags = [record.send_ns - record.due_ns for record in measured if record.send_ns is not None]
    return Measurement(
        metrics=metrics,
        totals=totals,
        problems=problems,
        flags=() if problems else _flags(metrics, totals, len(measured)),
        drafting=drafting,
        send_lag_max=max(lags, default=0) / 1e9,
        client_cpu_share=client.cpu_share if client else None,
        started_unix=client.started_unix if client else None,
        client={"openai": client.openai, "python": client.python, "event_loop": client.event_loop} if client else {},
    )


def _totals(records: Sequence[RequestRecord], counted: Scrape) -> Totals:
    measured = [record for record in records if record.phase == "measured"]
    return Totals(
        requests=len(measured),
        failed=sum(not record.ok for record in records),
        prompt_tokens=sum(record.prompt_tokens or 0 for record in measured),
        output_tokens=sum(record.completion_tokens or 0 for record in measured),
        output_tokens_with_warmup=sum(record.completion_tokens or 0 for record in records),
        engine_output_tokens=_integer(counted.total("vllm:generation_tokens_total")),
        preemptions=_integer(counted.total("vllm:num_preemptions_total")),
        prefix_cache_hits=_integer(counted.total("vllm:prefix_cache_hits_total")),
    )


def _integer(value: float | None) -> int | None:
    return None if value is None else round(value)


def _drafting(counted: Scrape) -> Drafting | None:
    drafts = counted.total("vllm:spec_decode_num_drafts_total")
    if drafts is None:
        return None
    positions = counted.by_label("vllm:spec_decode_num_accepted_tokens_per_pos_total", "position")
    rates = tuple(positions[key] / drafts for key in sorted(positions, key=int)) if drafts else ()
    proposed = counted.total("vllm:spec_decode_num_draft_tokens_total") or 0.0
    accepted = counted.total("vllm:spec_decode_num_accepted_tokens_total") or 0.0
    return Drafting(round(drafts), round(proposed), round(accepted), rates)


def _metrics(
    measured: Sequence[RequestRecord], totals: Totals, drafting: Drafting | None, workload: Workload, topology: Topology
) -> dict[str, float]:
    metrics: dict[str, float] = {}
    duration = definitions.span(measured)
    if duration is not None and duration > 0:
        per_gpu = duration * topology.gpus
        metrics["output_tput"] = totals.output_tokens / duration
        metrics["output_tput_per_gpu"] = totals.output_tokens / per_gpu
        metrics["input_tput_per_gpu"] = totals.prompt_tokens / per_gpu
        metrics["total_tput_per_gpu"] = (totals.prompt_tokens + totals.output_tokens) / per_gpu
        metrics["request_tput"] = len(measured) / duration
        metrics["duration"] = duration
    for name, definition in (("ttft", definitions.ttft), ("tpot", definitions.tpot), ("e2e", definitions.e2e)):
        metrics |= definitions.summary(name, _values(definition, measured))
    metrics |= definitions.summary("icl", definitions.chunk_gaps(measured))
    if metrics.get("tpot_p50", 0.0) > 0:
        metrics["interactivity"] = 1 / metrics["tpot_p50"]
    steady = definitions.steady_throughput(measured, workload.conc)
    if steady is not None:
        metrics["steady_output_tput"] = steady
    if drafting is not None and drafting.drafts > 0:
        metrics["acceptance_length"] = 1 + drafting.accepted_tokens / drafting.drafts
    return metrics


def _values(definition: Callable[[RequestRecord], float | None], records: Sequence[RequestRecord]) -> list[float]:
    return [value for value in map(definition, records) if value is not None]


def _flags(metrics: dict[str, float], totals: Totals, requests: int) -> tuple[Flag, ...]:
    flags = []
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
    return tuple(flags)
