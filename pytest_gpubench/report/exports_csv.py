"""CSV: all measurements as one table, a row per case and launch, for spreadsheets and data frames;
and a case's history as Apache Otava (formerly Hunter) reads it, with its configuration. Pure."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence

from pytest_gpubench.gate.histories import MetricHistory, RunPoint
from pytest_gpubench.model.metrics import METRICS, Direction
from pytest_gpubench.model.printing import printable
from pytest_gpubench.model.verdicts import WaiverState
from pytest_gpubench.report.results import CaseResult

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
        fields = (_safe(read(result)) for read in _FIELDS.values())
        writer.writerow([*fields, *(result.metrics.get(name, "") for name in metrics)])
    return sheet.getvalue()


def _waivers(result: CaseResult) -> str:
    """``tpot_p50 waived until 2027-01-31: https://...``."""
    metrics = result.verdict.metrics if result.verdict else ()
    return "; ".join(
        f"{one.metric} {_STATES[one.waiver.state]} {one.waiver.until}: {one.waiver.bug}"
        for one in metrics
        if one.waiver is not None
    )


def _reason(result: CaseResult) -> str:
    if result.failure:
        return result.failure.summary
    return result.verdict.reason if result.verdict else ""


def _asked(name: str) -> Callable[[CaseResult], object]:
    """A number of the workload; empty for none, which a record of a replay (lengths) or of a closed
    loop (rate) has as 0. A record may hold anything."""

    def read(result: CaseResult) -> object:
        value = result.workload.get(name)
        known = isinstance(value, int | float) and not isinstance(value, bool) and value
        return value if known else ""

    return read


_FIELDS: dict[str, Callable[[CaseResult], object]] = {
    "run": lambda it: it.run,
    "case": lambda it: it.case,
    "recipe": lambda it: it.recipe,
    "model": lambda it: it.identity.model,
    "precision": lambda it: it.identity.precision,
    "hardware": lambda it: it.hardware,
    "framework": lambda it: it.identity.framework,
    "spec": lambda it: it.identity.spec,
    "variant": lambda it: it.identity.variant,
    "topology": lambda it: it.topology.label,
    "tp": lambda it: it.topology.tp,
    "pp": lambda it: it.topology.pp,
    "pcp": lambda it: it.topology.pcp,
    "dcp": lambda it: it.topology.dcp,
    "ep": lambda it: it.topology.ep,
    "dp_attn": lambda it: str(it.topology.dp_attn).lower(),
    "gpus": lambda it: it.topology.gpus,
    "isl": _asked("isl"),
    "osl": _asked("osl"),
    "conc": _asked("conc"),
    "request_rate": _asked("request_rate"),
    "server": lambda it: it.server,
    "server_per": lambda it: it.policy,
    "launch": lambda it: it.launch.label,
    "finished": lambda it: it.finished.isoformat(),
    "status": lambda it: it.status.value,
    "reason": _reason,
    "waivers": _waivers,
    "failure_cause": lambda it: it.failure.cause if it.failure else "",
    "failure_class": lambda it: it.failure.failure_class if it.failure else "",
    "engine_version": lambda it: it.versions.engine,
    "plugin_version": lambda it: it.versions.plugin,
    "driver": lambda it: it.versions.driver,
    "device": lambda it: it.device,
    "hostname": lambda it: it.hostname,
    "commit": lambda it: it.versions.commit,
    "fingerprint": lambda it: it.fingerprint,
    "reused_from": lambda it: it.reused_from,
    "doubts": lambda it: "; ".join(it.measurement.invalid) if it.measurement else "",
}
"""The columns before the metrics."""


def _safe(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = printable(" ".join(value[:_LONGEST].split()))
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def otava_csv(histories: Sequence[MetricHistory]) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """The table of one case with one key: a row per run, the geometric mean of its launches per
    metric.

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
    """The lines of ``otava.yaml`` for that table; text is quoted as JSON, which YAML reads."""
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
