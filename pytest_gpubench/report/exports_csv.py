"""All measurements as one table: a row per case and launch, for spreadsheets and data frames."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

from pytest_gpubench.model.metrics import METRICS
from pytest_gpubench.model.printing import printable
from pytest_gpubench.model.verdicts import WaiverState
from pytest_gpubench.report.results import CaseResult

_FIELDS = [
    "run",
    "case",
    "recipe",
    "model",
    "precision",
    "hardware",
    "framework",
    "spec",
    "variant",
    "topology",
    "tp",
    "pp",
    "pcp",
    "dcp",
    "ep",
    "dp_attn",
    "gpus",
    "isl",
    "osl",
    "conc",
    "request_rate",
    "server",
    "server_per",
    "launch",
    "finished",
    "status",
    "reason",
    "waivers",
    "failure_cause",
    "failure_class",
    "engine_version",
    "plugin_version",
    "driver",
    "device",
    "hostname",
    "commit",
    "fingerprint",
    "reused_from",
    "doubts",
]
_LONGEST = 500
_STATES: dict[WaiverState, str] = {
    "holds": "waived until",
    "expired": "fails, waived until",
    "unneeded": "holds, waived until",
}


def csv_text(results: Iterable[CaseResult]) -> str:
    """The table with a head line; metrics in SI units under their names, empty where undefined.

    A text that a spreadsheet would take for a formula gets an apostrophe in front.
    """
    results = list(results)
    metrics = [name for name in METRICS if any(name in result.metrics for result in results)]
    sheet = io.StringIO()
    writer = csv.writer(sheet, lineterminator="\n")
    writer.writerow([*_FIELDS, *metrics])
    for result in results:
        row = _row(result)
        writer.writerow(
            [
                *(row[field] for field in _FIELDS),
                *(result.metrics.get(name, "") for name in metrics),
            ]
        )
    return sheet.getvalue()


def _row(result: CaseResult) -> dict[str, object]:
    identity, topology, failure = result.identity, result.topology, result.failure
    reason = result.verdict.reason if result.verdict else ""
    texts = {
        "run": result.run,
        "case": result.case,
        "recipe": result.recipe,
        "model": identity.model,
        "precision": identity.precision,
        "hardware": result.hardware,
        "framework": identity.framework,
        "spec": identity.spec,
        "variant": identity.variant,
        "topology": topology.label,
        "server": result.server,
        "server_per": result.policy,
        "launch": result.launch.label,
        "finished": result.finished.isoformat(),
        "status": result.status.value,
        "reason": failure.summary if failure else reason,
        "waivers": _waivers(result),
        "failure_cause": failure.cause if failure else "",
        "failure_class": failure.failure_class if failure else "",
        "engine_version": result.versions.engine,
        "plugin_version": result.versions.plugin,
        "driver": result.versions.driver,
        "device": result.device,
        "hostname": result.hostname,
        "commit": result.versions.commit,
        "fingerprint": result.fingerprint,
        "reused_from": result.reused_from,
        "doubts": "; ".join(result.measurement.invalid) if result.measurement else "",
    }
    sizes: dict[str, object] = {
        name: getattr(topology, name) for name in ("tp", "pp", "pcp", "dcp", "ep", "gpus")
    }
    load = {
        name: _number(result.workload.get(name)) for name in ("isl", "osl", "conc", "request_rate")
    }
    return (
        {name: _safe(text) for name, text in texts.items()}
        | sizes
        | load
        | {"dp_attn": str(topology.dp_attn).lower()}
    )


def _waivers(result: CaseResult) -> str:
    """``tpot_p50 waived until 2027-01-31: https://...``."""
    metrics = result.verdict.metrics if result.verdict else ()
    return "; ".join(
        f"{one.metric} {_STATES[one.waiver.state]} {one.waiver.until}: {one.waiver.bug}"
        for one in metrics
        if one.waiver is not None
    )


def _number(value: object) -> object:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else ""


def _safe(text: str) -> str:
    text = printable(" ".join(text[:_LONGEST].split()))
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
