"""Results in the JSON of ``vllm bench serve``, field by field as its ``--save-result`` writes it.

On top of that the sizes of the parallelism, which ``vllm bench sweep`` adds: its Pareto plot takes
one GPU without. Times are ours: TTFT and E2E count from the moment a request was due, so queueing
in the client is inside them. ``itl`` is the gap between chunks, as it is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_gpubench.load.protocol import RequestRecord
from pytest_gpubench.measure import definitions
from pytest_gpubench.report.exports_common import (
    Exported,
    NotExportedError,
    export,
    measured_requests,
    model_of,
    statistics_ms,
)
from pytest_gpubench.report.numbers import finite
from pytest_gpubench.report.read_results import read_whole
from pytest_gpubench.report.results import CaseResult

_PERCENTILES = (50, 90, 95, 99)


def export_vllm(
    results: Iterable[CaseResult], folder: Path, *, every_launch: bool = False
) -> Exported:
    """Write ``CASE.json`` per measured case (per launch and attempt with ``every_launch``); what
    has no requests is left out.

    Raises:
        GpubenchError: if the disk refuses a file.
    """
    return export(
        results,
        folder,
        lambda result: vllm_document(result, read_whole(result.path), measured_requests(result)),
        every_launch=every_launch,
    )


def vllm_document(
    result: CaseResult, record: Mapping[str, Any], requests: Sequence[RequestRecord]
) -> dict[str, Any]:
    """One case's result as ``vllm bench serve`` writes it.

    Args:
        record: the whole record of the case.
        requests: the measured requests that were answered.
    """
    workload, model = result.workload, model_of(record, result)
    backend = "openai" if workload.get("api") == "completions" else "openai-chat"
    rate = finite(workload.get("request_rate")) or 0.0
    duration = definitions.span(requests) or 0.0
    inputs = sum(request.prompt_tokens or 0 for request in requests)
    outputs = sum(request.completion_tokens or 0 for request in requests)
    if duration <= 0:
        raise NotExportedError("its requests span no time")
    most_tokens, most_requests = _busiest_second(requests)
    measurement = result.measurement
    document: dict[str, Any] = {
        "date": f"{result.finished:%Y%m%d-%H%M%S}",
        "endpoint_type": backend,
        "backend": backend,
        "label": None,
        "model_id": model,
        "tokenizer_id": model,
        "num_prompts": len(requests),
        "request_rate": rate or "inf",
        "burstiness": finite(workload.get("burstiness")) or 1.0,
        "max_concurrency": None if rate else int(finite(workload.get("conc")) or 1),
        "duration": duration,
        "completed": len(requests),
        "failed": measurement.totals.failed if measurement else 0,
        "total_input_tokens": inputs,
        "total_output_tokens": outputs,
        "request_throughput": len(requests) / duration,
        "request_goodput": result.metrics.get("goodput"),
        "output_throughput": outputs / duration,
        "total_token_throughput": (inputs + outputs) / duration,
        "latencies": _known(definitions.e2e(request) for request in requests),
        "queue_times": [
            ((request.send_ns or request.due_ns) - request.due_ns) / 1e9 for request in requests
        ],
        "max_output_tokens_per_s": most_tokens,
        "max_concurrent_requests": most_requests,
        "rtfx": 0.0,
        "tensor_parallel_size": result.topology.tensor_parallel_size,
        "pipeline_parallel_size": result.topology.pp,
        "data_parallel_size": result.topology.dp,
    }
    drafting = measurement.drafting if measurement else None
    if drafting is not None and drafting.drafts:
        document |= {
            "spec_decode_acceptance_rate": 100.0
            * drafting.accepted_tokens
            / max(drafting.draft_tokens, 1),
            "spec_decode_acceptance_length": 1 + drafting.accepted_tokens / drafting.drafts,
            "spec_decode_num_drafts": drafting.drafts,
            "spec_decode_draft_tokens": drafting.draft_tokens,
            "spec_decode_accepted_tokens": drafting.accepted_tokens,
            "spec_decode_per_position_acceptance_rates": list(drafting.acceptance_per_position),
        }
    return document | statistics_of(requests, _PERCENTILES)


def statistics_of(
    requests: Sequence[RequestRecord], percentiles: Sequence[float]
) -> dict[str, float]:
    """Statistics of ttft, tpot, itl and e2el in milliseconds, under the names of vLLM's client and
    its forks."""
    found = statistics_ms("ttft", _known(map(definitions.ttft, requests)), percentiles)
    found |= statistics_ms("tpot", _known(map(definitions.tpot, requests)), percentiles)
    found |= statistics_ms("itl", list(definitions.chunk_gaps(requests)), percentiles)
    return found | statistics_ms("e2el", _known(map(definitions.e2e, requests)), percentiles)


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _busiest_second(requests: Sequence[RequestRecord]) -> tuple[float, int]:
    """Most tokens and most requests in one of the run's whole seconds, counted as vLLM's client
    does."""
    start = min(request.due_ns for request in requests)
    tokens: dict[int, int] = {}
    active: dict[int, int] = {}
    for request in requests:
        totals = request.chunk_tokens or tuple(range(1, len(request.chunk_ns) + 1))
        before = 0
        for stamp, total in zip(request.chunk_ns, totals, strict=False):
            second = (stamp - start) // 10**9
            tokens[second] = tokens.get(second, 0) + total - before
            before = total
        last = request.last_token_ns or request.due_ns
        for second in range(
            (request.due_ns - start) // 10**9, min((last - start) // 10**9, 10**6) + 1
        ):
            active[second] = active.get(second, 0) + 1
    return float(max(tokens.values(), default=0)), max(active.values(), default=0)
