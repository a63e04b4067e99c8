"""Results in the JSON of others: InferenceX's and that of ``vllm bench serve``.

InferenceX's is that of its ``process_result.py`` (``agg_*.json``). Only what was measured as it
measures (client profile ``inferencex``) is exported; one server per point is what its scripts do,
so a case that shared its server is marked ``shared_server``. Left out of its fields:
``std_intvty``, which says nothing (the reciprocal of a standard deviation), and the rate of a time
that is zero, which its script cannot divide by.

vLLM's is what ``--save-result`` writes, field by field. On top of that the sizes of the
parallelism, which ``vllm bench sweep`` adds: its Pareto plot takes one GPU without. Times are ours:
TTFT and E2E count from the moment a request was due, so queueing in the client is inside them.
``itl`` is the gap between chunks, as it is there.
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

_PERCENTILES = (90, 99, 99.9)
_POWER_SCHEMA = 2
"""Version of its power fields in which the watts are per GPU and the joules those of the whole
deployment."""
_NEEDED = ("total_tput_per_gpu", "output_tput_per_gpu", "input_tput_per_gpu")


def export_agg(
    results: Iterable[CaseResult], folder: Path, *, every_launch: bool = False
) -> Exported:
    """Write ``agg_CASE.json`` per case that was measured InferenceX's way; others are left out with
    the reason.

    Its tools refuse two rows of one configuration: hence one file per case, unless ``every_launch``
        is asked for.

    Raises:
        GpubenchError: if the disk refuses a file.
    """

    def document_of(result: CaseResult) -> dict[str, Any]:
        _check(result)
        requests = [
            request
            for number in range(1, result.rounds + 1)
            for request in measured_requests(result, number)
        ]
        return agg_document(result, read_whole(result.path), requests)

    return export(results, folder, document_of, prefix="agg_", every_launch=every_launch)


def _check(result: CaseResult) -> None:
    profile = result.workload.get("profile", "gpubench")
    if profile != "inferencex":
        raise NotExportedError(
            f"it was measured with the client profile {str(profile)[:40]}, whose numbers are not "
            "InferenceX's; write `profile: inferencex` in the recipe's client section"
        )
    if result.measurement is not None and result.measurement.invalid:
        raise NotExportedError(f"its measurement does not count: {result.measurement.invalid[0]}")
    missing = [name for name in _NEEDED if name not in result.metrics]
    if missing:
        raise NotExportedError(f"it has no {missing[0]}: the case failed")


def agg_document(
    result: CaseResult, record: Mapping[str, Any], requests: Sequence[RequestRecord]
) -> dict[str, Any]:
    """One case's result as ``agg_*.json`` has it: times in seconds, rates in tokens per second,
    ``dp_attention`` as text.

    Args:
        record: the whole record of the case.
        requests: the measured requests that were answered.
    """
    topology, workload, metrics = result.topology, result.workload, result.metrics
    document: dict[str, Any] = {
        "hw": record.get("runner") or result.hardware,
        "conc": int(finite(workload.get("conc")) or 1),
        "image": result.image,
        "model": model_of(record, result),
        "infmax_model_prefix": result.identity.model,
        "framework": result.identity.framework,
        "precision": result.identity.precision,
        "spec_decoding": result.identity.spec or "none",
        "disagg": False,
        "recipe_fingerprint": result.fingerprint,
        "isl": int(finite(workload.get("isl")) or 0),
        "osl": int(finite(workload.get("osl")) or 0),
        "is_multinode": False,
        "tp": topology.tp,
        "pp": topology.pp,
        "dcp_size": topology.dcp,
        "pcp_size": topology.pcp,
        "ep": topology.ep,
        "dp_attention": "true" if topology.dp_attn else "false",
        "tput_per_gpu": metrics["total_tput_per_gpu"],
        "output_tput_per_gpu": metrics["output_tput_per_gpu"],
        "input_tput_per_gpu": metrics["input_tput_per_gpu"],
    }
    for key, value in statistics_of(requests, _PERCENTILES).items():
        document[key.removesuffix("_ms")] = value / 1000
        if "tpot" in key and not key.startswith("std_") and value > 0:
            document[key.removesuffix("_ms").replace("tpot", "intvty")] = 1000 / value
    document |= _power(result, requests)
    if result.policy != "point":
        document["shared_server"] = True
    return document


def _power(result: CaseResult, requests: Sequence[RequestRecord]) -> dict[str, float]:
    """Its power fields; none where the samples of the GPUs did not cover the window."""
    power = result.metrics.get("gpu_power")
    per_token = result.metrics.get("energy_per_output_token")
    outputs = sum(request.completion_tokens or 0 for request in requests)
    inputs = sum(request.prompt_tokens or 0 for request in requests)
    if power is None or per_token is None or not outputs:
        return {}
    gpus = len(result.measurement.gpus) if result.measurement else 0
    energy = per_token * outputs
    return {
        "power_valid": 1,
        "power_metric_schema_version": _POWER_SCHEMA,
        "avg_power_w": power / (gpus or result.gpus),
        "avg_total_gpu_power_w": power,
        "total_gpu_energy_j": energy,
        "joules_per_successful_query": energy / len(requests),
        "joules_per_output_token": per_token,
        "joules_per_total_token": energy / (inputs + outputs),
        **({"joules_per_input_token": energy / inputs} if inputs else {}),
    }


_VLLM_PERCENTILES = (50, 90, 95, 99)


def export_vllm(
    results: Iterable[CaseResult], folder: Path, *, every_launch: bool = False
) -> Exported:
    """Write ``CASE.json`` per measured case (per launch and attempt with ``every_launch``); what
    has no requests is left out. Of several rounds the first one is written: its file is of one run.

    Raises:
        GpubenchError: if the disk refuses a file.
    """

    def document_of(result: CaseResult) -> dict[str, Any]:
        if result.measurement is None:  # requests are there where a later round was broken off
            raise NotExportedError("it was not measured whole")
        return vllm_document(result, read_whole(result.path), measured_requests(result))

    return export(results, folder, document_of, every_launch=every_launch)


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
    rounds = measurement.rounds if measurement else ()
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
        "request_goodput": (rounds[0] if rounds else result.metrics).get("goodput"),
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
    return document | statistics_of(requests, _VLLM_PERCENTILES)


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
