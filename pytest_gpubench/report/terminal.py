"""Tables for the terminal, as plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_gpubench.model.evaluation import ACCURACY
from pytest_gpubench.model.metrics import ACCEPTANCE
from pytest_gpubench.model.printing import for_terminal
from pytest_gpubench.model.verdicts import Status
from pytest_gpubench.report.pareto import frontier_lines


@dataclass(frozen=True, slots=True)
class Row:
    """One case in the summary."""

    recipe: str
    point: str
    """Topology and workload, for instance ``tp8:1k1k-c64``."""
    metrics: Mapping[str, float]
    verdict: str
    note: str = ""
    tentative: frozenset[str] = frozenset()
    """Metrics that rest on too few requests: printed in brackets."""


@dataclass(frozen=True, slots=True)
class _Column:
    title: str
    metric: str
    scale: float
    digits: int


_COLUMNS = (
    _Column("out tok/s", "output_tput", 1, 1),
    _Column("tok/s/GPU", "output_tput_per_gpu", 1, 1),
    _Column("TTFT p50 ms", "ttft_p50", 1e3, 1),
    _Column("TTFT p99 ms", "ttft_p99", 1e3, 1),
    _Column("TPOT p50 ms", "tpot_p50", 1e3, 2),
    _Column("accept len", "acceptance_length", 1, 2),
    _Column("right %", ACCURACY, 100, 1),
)


_MORE = (
    _Column("TTFT p90 ms", "ttft_p90", 1e3, 1),
    _Column("TPOT p99 ms", "tpot_p99", 1e3, 2),
    _Column("E2E p50 s", "e2e_p50", 1, 2),
    _Column("tok/s/user", "interactivity", 1, 1),
    _Column("in tok/s/GPU", "input_tput_per_gpu", 1, 1),
    _Column("J/tok", "energy_per_output_token", 1, 3),
)


def summary_lines(
    rows: Sequence[Row], *, frontier: bool = True, verbose: bool = False
) -> list[str]:
    """One table per recipe: a title line, a header and a line per case; a metric that a case lacks
    is a dash.

    Args:
        frontier: draw the Pareto frontier under the table of a recipe with enough points of one
        shape.
        verbose: more columns.
    """
    lines: list[str] = []
    for recipe in dict.fromkeys(row.recipe for row in rows):
        own = [row for row in rows if row.recipe == recipe]
        columns = [
            column
            for column in (*_COLUMNS, *(_MORE if verbose else ()))
            if any(column.metric in row.metrics for row in own)
        ]
        header = ["case", *(column.title for column in columns), "verdict"]
        body = [
            [row.point, *(_cell(row, column) for column in columns), row.verdict] for row in own
        ]
        widths = [max(len(line[index]) for line in [header, *body]) for index in range(len(header))]
        lines += ["", recipe]
        lines += ["  " + _aligned(line, widths) for line in [header, *body]]
        lines += [for_terminal(f"  {row.point}: {row.note}") for row in own if row.note]
        lines += _server_lines(own)
        lines += _frontiers(own) if frontier else []
    if any(
        row.tentative.intersection(column.metric for column in _COLUMNS).intersection(row.metrics)
        for row in rows
    ):
        lines += ["", "(in brackets: too few requests for this percentile)"]
    return lines


def _server_lines(rows: Sequence[Row]) -> list[str]:
    """Per server that was asked questions: speed, acceptance and accuracy, in one line."""
    servers: dict[str, list[Row]] = {}
    for row in rows:
        servers.setdefault(row.point.partition(":")[0], []).append(row)
    lines = []
    for server, own in servers.items():
        asked = [row for row in own if ACCURACY in row.metrics]
        if not asked:
            continue
        points = [(row.point.partition(":")[2], row.metrics) for row in own]
        parts = speed_words([(name, metrics) for name, metrics in points if name])
        parts += [
            f"{row.point.partition(':')[2]} {row.metrics[ACCURACY]:.1%} right" for row in asked
        ]
        worst = worst_status([row.verdict for row in own])
        lines.append(for_terminal(f"  {server}: {', '.join(parts)}: {worst}"))
    return lines


def speed_words(points: Sequence[tuple[str, Mapping[str, float]]]) -> list[str]:
    """The highest output throughput of a server and where, and how much of its draft is
    accepted there."""
    measured = [(name, metrics) for name, metrics in points if "output_tput" in metrics]
    if not measured:
        return []
    name, metrics = max(measured, key=lambda point: point[1]["output_tput"])
    words = [f"{metrics['output_tput']:,.1f} tok/s at {name}"]
    if ACCEPTANCE in metrics:
        words.append(f"acceptance {metrics[ACCEPTANCE]:.2f}")
    return words


def worst_status(statuses: Sequence[str]) -> str:
    """The one that counts for a server as a whole."""
    order = [status.value for status in Status]
    known = [status for status in statuses if status in order]
    return min(known, key=order.index) if known else "-"


def _frontiers(rows: Sequence[Row]) -> list[str]:
    """A plot in text per shape (the lengths) that has enough points; an INVALID measurement counts
    for none."""
    shapes: dict[str, list[tuple[str, float, float]]] = {}
    for row in rows:
        across, up = row.metrics.get("interactivity"), row.metrics.get("output_tput_per_gpu")
        if across is not None and up is not None and row.verdict != "INVALID":
            shape = row.point.partition(":")[2].partition("-")[0]
            shapes.setdefault(shape, []).append((row.point, across, up))
    return [
        f"  {line}" if line else ""
        for shape, points in shapes.items()
        for line in _with_gap(
            frontier_lines(points, f"Pareto frontier of {shape}" if shape else "")
        )
    ]


def _with_gap(lines: list[str]) -> list[str]:
    return ["", *lines] if lines else []


def _cell(row: Row, column: _Column) -> str:
    value = row.metrics.get(column.metric)
    if value is None:
        return "-"
    text = f"{value * column.scale:,.{column.digits}f}"
    return f"({text})" if column.metric in row.tentative else text


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *numbers, last = cells
    first_width, *number_widths, _ = widths
    middle = [cell.rjust(width) for cell, width in zip(numbers, number_widths, strict=True)]
    return "  ".join([first.ljust(first_width), *middle, last])
