"""A case's history as the CSV that Apache Otava (formerly Hunter) reads, and its configuration for
it. Pure."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence

from pytest_gpubench.gate.histories import MetricHistory, RunPoint
from pytest_gpubench.model.metrics import METRICS, Direction
from pytest_gpubench.model.printing import printable

TIME = "time"
_ATTRIBUTES = ("run", "commit", "engine", "host")
"""Columns that Otava shows beside a change."""
_DIRECTIONS: dict[Direction, int] = {"higher": 1, "lower": -1, "neutral": 0}
"""Which way is better, as Otava has it."""


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
    writer.writerow([TIME, *_ATTRIBUTES, *levels])
    for point in ordered:
        writer.writerow([*_texts(point), *(repr(values[point.run]) for values in levels.values())])
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
        f"    time_column: {TIME}",
        f"    attributes: [{', '.join(_ATTRIBUTES)}]",
        "    metrics:",
    ]
    for metric in metrics:
        direction = _DIRECTIONS[METRICS[metric].direction]
        lines.append(f"      {metric}: {{column: {metric}, direction: {direction}}}")
    return lines


def _texts(point: RunPoint) -> list[str]:
    axis = point.axis
    found = [point.date, point.run, *(axis.get(name) or "" for name in _ATTRIBUTES[1:])]
    return [printable(" ".join(str(value).split())) for value in found]
