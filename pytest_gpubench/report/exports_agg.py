"""Results as InferenceX's ``process_result.py`` writes them: ``agg_*.json``.

Only what was measured as InferenceX measures (client profile ``inferencex``) is exported; one server per point is what its scripts
do, so a case that shared its server is marked ``shared_server``. Left out of its fields: ``std_intvty``, which says nothing (the
reciprocal of a standard deviation), and the rate of a time that is zero, which its script cannot divide by.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_gpubench.load.plan import RequestRecord
from pytest_gpubench.report.exports_common import (
    Exported,
    NotExportedError,
    file_name,
    measured_requests,
    model_of,
    write_json,
)
from pytest_gpubench.report.exports_vllm import statistics_of
from pytest_gpubench.report.loaded import CaseResult, LeftOut
from pytest_gpubench.report.loading import read_whole
from pytest_gpubench.report.numbers import finite

_PERCENTILES = (90, 99, 99.9)
_NEEDED = ("total_tput_per_gpu", "output_tput_per_gpu", "input_tput_per_gpu")


def export_agg(results: Iterable[CaseResult], folder: Path) -> Exported:
    """Write ``agg_CASE.json`` per case and launch that was measured InferenceX's way; others are left out with the reason.

    Raises:
        GpubenchError: if the disk refuses a file.
    """
    written, left_out = [], []
    for result in results:
        try:
            _check(result)
            document = agg_document(result, read_whole(result.path), measured_requests(result))
        except NotExportedError as error:
            left_out.append(LeftOut(result.path, str(error)))
            continue
        path = folder / f"agg_{file_name(result)}.json"
        write_json(path, document)
        written.append(path)
    return Exported(tuple(written), tuple(left_out))


def _check(result: CaseResult) -> None:
    profile = result.workload.get("profile", "gpubench")
    if profile != "inferencex":
        raise NotExportedError(
            f"it was measured with the client profile {str(profile)[:40]}, whose numbers are not InferenceX's; "
            "write `profile: inferencex` in the recipe's client section"
        )
    if result.measurement is not None and result.measurement.invalid:
        raise NotExportedError(f"its measurement does not count: {result.measurement.invalid[0]}")
    missing = [name for name in _NEEDED if name not in result.metrics]
    if missing:
        raise NotExportedError(f"it has no {missing[0]}: the case failed")


def agg_document(result: CaseResult, record: Mapping[str, Any], requests: Sequence[RequestRecord]) -> dict[str, Any]:
    """One case's result as ``agg_*.json`` has it: times in seconds, rates in tokens per second, ``dp_attention`` as text.

    Args:
        record: the whole record of the case.
        requests: the measured requests that were answered.
    """
    topology, workload, metrics = result.topology, result.workload, result.metrics
    document: dict[str, Any] = {
        "hw": result.hardware,
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
    if "gpu_power" in metrics and "energy_per_output_token" in metrics:
        document |= {"power_valid": 1, "avg_power_w": metrics["gpu_power"]}
        document["joules_per_output_token"] = metrics["energy_per_output_token"]
    if result.policy != "point":
        document["shared_server"] = True
    return document
