"""CSV: all measurements as one table, a row per case and launch, for spreadsheets and data frames;
and a case's history as Apache Otava (formerly Hunter) reads it, with its configuration. Pure."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence

from pytest_gpubench.gate.histories import MetricHistory, RunPoint
from pytest_gpubench.model.metrics import METRICS, Direction
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
_OTAVA_TIME = "time"
_OTAVA_ATTRIBUTES = ("run", "commit", "engine", "host")
"""Columns that Otava shows beside a change."""
_OTAVA_DIRECTIONS: dict[Direction, int] = {"higher": 1, "lower": -1, "neutral": 0}
"""Which way is better, as Otava has it."""


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


def otava_csv(histories: Sequence[MetricHistory]) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """The table of one case with one key: a row per run, the geometric mean of its launches per
    metric.

    Args:
        histories: of the case with that key.

    Returns:
        The text, the metrics that it has, and those that it leaves out: Otava takes a table
        without holes, and some run lacks them.
    """
    runs = {point.run: point for history in histories for point in history.runs}
    ordered = sorted(runs.values(), key=lambda point: (point.date, point.run))
    whole = [one for one in histories if len(one.runs) == len(ordered)]
    levels = {one.metric: {point.run: point.level for point in one.runs} for one in whole}
    sheet = io.StringIO()
    writer = csv.writer(sheet, lineterminator="\n")
    writer.writerow([_OTAVA_TIME, *_OTAVA_ATTRIBUTES, *levels])
    for point in ordered:
        writer.writerow(
            [*_otava_texts(point), *(repr(values[point.run]) for values in levels.values())]
        )
    left_out = tuple(one.metric for one in histories if one.metric not in levels)
    return sheet.getvalue(), tuple(levels), left_out


def otava_config(case: str, file: str, metrics: Sequence[str]) -> list[str]:
    """The lines of ``otava.yaml`` for that table; what is text is quoted as JSON, which YAML
    reads."""
    lines = [
        "tests:",
        f"  {json.dumps(case)}:",
        "    type: csv",
        f"    file: {json.dumps(file)}",
        f"    time_column: {_OTAVA_TIME}",
        f"    attributes: [{', '.join(_OTAVA_ATTRIBUTES)}]",
        "    metrics:",
    ]
    for metric in metrics:
        direction = _OTAVA_DIRECTIONS[METRICS[metric].direction]
        lines.append(f"      {metric}: {{column: {metric}, direction: {direction}}}")
    return lines


def _otava_texts(point: RunPoint) -> list[str]:
    axis = point.axis
    found = [point.date, point.run, *(axis.get(name) or "" for name in _OTAVA_ATTRIBUTES[1:])]
    return [printable(" ".join(str(value).split())) for value in found]
