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

import gzip
import hashlib
import itertools
import json
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_gpubench.host import files
from pytest_gpubench.host.files import TooLongError, bounded_lines, open_regular
from pytest_gpubench.load.protocol import RequestRecord
from pytest_gpubench.measure import definitions
from pytest_gpubench.model.grouping import grouped
from pytest_gpubench.report.merge_runs import attempts_that_count
from pytest_gpubench.report.numbers import finite
from pytest_gpubench.report.read_results import read_whole
from pytest_gpubench.report.results import CaseResult, LeftOut

_PERCENTILES = (90, 99, 99.9)
_POWER_SCHEMA = 2
"""Version of its power fields: watts are per GPU, joules those of the whole deployment."""
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
    """One case's result as ``vllm bench serve`` writes it."""
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
    """Statistics of ttft, tpot, itl and e2el in milliseconds, by the names of vLLM's client."""
    found = statistics_ms("ttft", _known(map(definitions.ttft, requests)), percentiles)
    found |= statistics_ms("tpot", _known(map(definitions.tpot, requests)), percentiles)
    found |= statistics_ms("itl", list(definitions.chunk_gaps(requests)), percentiles)
    return found | statistics_ms("e2el", _known(map(definitions.e2e, requests)), percentiles)


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _busiest_second(requests: Sequence[RequestRecord]) -> tuple[float, int]:
    """Most tokens and most requests in one of the run's whole seconds, as vLLM's client counts."""
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


_LONGEST_NAME = 190
MAX_LINE = 64 * 2**20
"""Bytes of one request, unpacked: one of 128,000 tokens has some 4 MiB."""
MAX_UNPACKED = 4 * 2**30
"""Bytes of all requests of a case, unpacked."""
_BEYOND = 2**63


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote, and what it could not."""

    written: tuple[Path, ...]
    left_out: tuple[LeftOut, ...]
    passed_over: int = 0
    """Other launches and attempts of the same cases, for which nobody asked."""


class NotExportedError(Exception):
    """A case that cannot be exported; the text says why."""


def measured_requests(result: CaseResult, number: int = 1) -> list[RequestRecord]:
    """The measured requests of one round of a case that answered.

    Raises:
        NotExportedError: if they were not kept or cannot be read.
    """
    path = result.requests_path(number)
    try:
        with open_regular(path) as packed, gzip.open(packed, "rb") as lines:
            records = [
                _request(line)
                for line in bounded_lines(lines, MAX_LINE, MAX_UNPACKED)
                if line.strip()
            ]
    except TooLongError as error:
        raise NotExportedError(f"its requests are left out ({path.name}): {error}") from None
    except FileNotFoundError:
        raise NotExportedError(
            f"its requests are not there ({path.name}): copy the whole results folder"
        ) from None
    except (
        OSError,
        EOFError,
        zlib.error,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RecursionError,
    ) as error:
        raise NotExportedError(
            f"its requests cannot be read ({path.name}): {type(error).__name__}"
        ) from None
    measured = [record for record in records if record.phase == "measured" and record.ok]
    if not measured or any(
        record.first_token_ns is None or record.last_token_ns is None for record in measured
    ):
        raise NotExportedError("none of its requests was answered, or not to the end")
    return measured


def _request(line: bytes) -> RequestRecord:
    record = RequestRecord.from_json(json.loads(line, parse_constant=_no_constant))
    numbers = (
        *(record.due_ns, record.send_ns, record.first_token_ns, record.last_token_ns),
        *(record.end_ns, record.prompt_tokens, record.completion_tokens),
        *record.chunk_ns,
        *record.chunk_tokens,
    )
    if not all(value is None or (type(value) is int and abs(value) < _BEYOND) for value in numbers):
        raise ValueError("a stamp or a count that is none")
    return record


def _no_constant(word: str) -> float:
    raise ValueError(word)


def statistics_ms(
    name: str, values: Sequence[float], percentiles: Sequence[float]
) -> dict[str, float]:
    """``mean_``, ``median_``, ``std_`` and ``p.._{name}_ms`` of seconds; nothing without values."""
    import numpy as np

    if not len(values):
        return {}
    numbers = np.asarray(values, dtype=np.float64) * 1000
    return {
        f"mean_{name}_ms": float(numbers.mean()),
        f"median_{name}_ms": float(np.median(numbers)),
        f"std_{name}_ms": float(numbers.std()),
        **{f"p{share:g}_{name}_ms": float(np.percentile(numbers, share)) for share in percentiles},
    }


def model_of(record: Mapping[str, Any], result: CaseResult) -> str:
    """The repository that was served, by the command line that ran, else the model prefix."""
    argv = [word for word in record.get("argv") or () if isinstance(word, str)]
    for flag in ("--model", "serve"):
        if flag in argv[:-1]:
            return argv[argv.index(flag) + 1]
    commits = record.get("commits")
    return next(iter(commits if isinstance(commits, Mapping) else ()), result.identity.model)


def export(
    results: Iterable[CaseResult],
    folder: Path,
    document_of: Callable[[CaseResult], Mapping[str, Any]],
    *,
    prefix: str = "",
    every_launch: bool = False,
) -> Exported:
    """Write ``PREFIXCASE.json`` per case, of the launch that speaks for it (``representative``).

    Args:
        document_of: what to write; raises ``NotExportedError`` for a case that is left out with
        that reason.
        every_launch: a file for every launch and every attempt instead, named apart by launch, then
            by run.

    Raises:
        GpubenchError: if the disk refuses a file.
    """
    results = [one for one in results if not one.evaluation]  # they have no load to tell of
    wanted = results if every_launch else representatives(results)
    names: set[str] = set()
    written, left_out = [], []
    for result in wanted:
        try:
            document = document_of(result)
        except NotExportedError as error:
            left_out.append(LeftOut(result.path, str(error)))
            continue
        path = folder / f"{prefix}{_new_name(result, names, every_launch=every_launch)}.json"
        text = json.dumps(document, indent=1, allow_nan=False) + "\n"
        files.write_text(path, text, what="the export", remedy="choose another folder")
        written.append(path)
    return Exported(tuple(written), tuple(left_out), len(results) - len(wanted))


def representatives(results: Iterable[CaseResult]) -> list[CaseResult]:
    """One result per case: of the launches that count, the one with the median throughput, failed
    and INVALID ones last.

    Of two engines that were compared the recipes' own counts.
    """
    return [_representative(own) for own in grouped(results, lambda one: one.case).values()]


def _representative(found: Sequence[CaseResult]) -> CaseResult:
    counting = attempts_that_count([one for one in found if one.launch.arm != "b"] or found)
    good = [one for one in counting if "output_tput" in one.metrics and one.failure is None]
    valid = [one for one in good if one.measurement is None or not one.measurement.invalid]
    ranked = sorted(valid, key=lambda one: one.metrics["output_tput"])
    return ranked[(len(ranked) - 1) // 2] if ranked else counting[-1]


def _new_name(result: CaseResult, taken: set[str], *, every_launch: bool) -> str:
    """A name for any file system, that no other file of the export has in upper or lower case."""
    label = result.case
    if every_launch and (result.launch.index > 1 or result.launch.arm):
        label += f"-{result.launch.label}"
    tries = [label, f"{label}-{result.run}"]
    for name in itertools.chain(tries, (f"{tries[1]}-{number}" for number in itertools.count(2))):
        safe = re.sub(r"[^A-Za-z0-9._-]+", "_", name)
        if len(safe) > _LONGEST_NAME:
            safe = f"{safe[:_LONGEST_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        if safe.lower() not in taken:
            taken.add(safe.lower())
            return safe
    raise AssertionError("numbers do not end")
