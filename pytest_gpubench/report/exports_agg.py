"""Results as InferenceX's ``process_result.py`` writes them: ``agg_*.json``.

Only what was measured as InferenceX measures (client profile ``inferencex``) is exported; one
server per point is what its scripts do, so a case that shared its server is marked
``shared_server``. Left out of its fields: ``std_intvty``, which says nothing (the reciprocal of a
standard deviation), and the rate of a time that is zero, which its script cannot divide by.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_gpubench.load.protocol import RequestRecord
from pytest_gpubench.report.exports_common import (
    Exported,
    NotExportedError,
    export,
    measured_requests,
    model_of,
)
from pytest_gpubench.report.exports_vllm import statistics_of
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
        return agg_document(result, read_whole(result.path), measured_requests(result))

    return export(results, folder, document_of, prefix="agg_", every_launch=every_launch)


def _check(result: CaseResult) -> None:
    profile = result.workload.get("profile", "gpubench")
    if profile != "inferencex":
        raise NotExportedError(
            f"it was measured with the client profile {str(profile)[:40]}, whose numbers are not "
            "InferenceX's; "
            "write `profile: inferencex` in the recipe's client section"
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
    power, per_token = (
        result.metrics.get("gpu_power"),
        result.metrics.get("energy_per_output_token"),
    )
    outputs = sum(request.completion_tokens or 0 for request in requests)
    inputs = sum(request.prompt_tokens or 0 for request in requests)
    if power is None or per_token is None or not outputs:
        return {}
    gpus = (
        len(result.measurement.gpus)
        if result.measurement and result.measurement.gpus
        else result.gpus
    )
    energy = per_token * outputs
    return {
        "power_valid": 1,
        "power_metric_schema_version": _POWER_SCHEMA,
        "avg_power_w": power / gpus,
        "avg_total_gpu_power_w": power,
        "total_gpu_energy_j": energy,
        "joules_per_successful_query": energy / len(requests),
        "joules_per_output_token": per_token,
        "joules_per_total_token": energy / (inputs + outputs),
        **({"joules_per_input_token": energy / inputs} if inputs else {}),
    }
