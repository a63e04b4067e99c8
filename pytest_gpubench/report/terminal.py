"""Tables for the terminal, as plain text, and the Pareto frontier: points that no other point beats
in both throughput and interactivity."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pytest_gpubench.model.evaluation import ACCURACY
from pytest_gpubench.model.grouping import grouped
from pytest_gpubench.model.metrics import ACCEPTANCE
from pytest_gpubench.model.printing import for_terminal
from pytest_gpubench.model.verdicts import Status
from pytest_gpubench.report.numbers import columns, with_values


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


_COLUMNS = columns(
    *("output_tput", "output_tput_per_gpu", "ttft_p50", "ttft_p99", "tpot_p50"),
    *(ACCEPTANCE, ACCURACY),
)
_MORE = columns(
    *("ttft_p90", "tpot_p99", "e2e_p50", "interactivity", "input_tput_per_gpu"),
    "energy_per_output_token",
)


def summary_lines(
    rows: Sequence[Row], *, frontier: bool = True, verbose: bool = False
) -> list[str]:
    """One table per recipe: a title line, a header and a line per case; a metric that a case lacks
    is a dash.

    Args:
        frontier: draw the Pareto frontier under the table of a recipe with enough points of one
        shape.
    """
    lines: list[str] = []
    for recipe, own in grouped(rows, lambda row: row.recipe).items():
        wanted = (*_COLUMNS, *(_MORE if verbose else ()))
        shown = with_values(wanted, [row.metrics for row in own])
        table = [["case", *(column.title for column in shown), "verdict"]]
        for row in own:
            cells = [column.cell(row.metrics, row.tentative) for column in shown]
            table.append([row.point, *cells, row.verdict])
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines += ["", recipe]
        lines += ["  " + _aligned(line, widths) for line in table]
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
    lines = []
    for server, own in grouped(rows, lambda row: row.point.partition(":")[0]).items():
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
    """The highest output throughput of a server and where, and the acceptance there."""
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
    """A plot in text per shape (the lengths) with enough points; an INVALID one counts for none."""
    shapes: dict[str, list[tuple[str, float, float]]] = {}
    for row in rows:
        across, up = row.metrics.get("interactivity"), row.metrics.get("output_tput_per_gpu")
        if across is not None and up is not None and row.verdict != "INVALID":
            shape = row.point.partition(":")[2].partition("-")[0]
            shapes.setdefault(shape, []).append((row.point, across, up))
    lines = []
    for shape, points in shapes.items():
        plot = frontier_lines(points, f"Pareto frontier of {shape}" if shape else "")
        lines += ["", *(f"  {line}" for line in plot)] if plot else []
    return lines


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *numbers, last = cells
    first_width, *number_widths, _ = widths
    middle = [cell.rjust(width) for cell, width in zip(numbers, number_widths, strict=True)]
    return "  ".join([first.ljust(first_width), *middle, last])


T = TypeVar("T")

_WIDTH = 56
_HEIGHT = 12
FEWEST_POINTS = 3
"""Below this many points there is no curve to speak of."""


def frontier(points: Iterable[T], x: Callable[[T], float], y: Callable[[T], float]) -> list[T]:
    """The points for which no other is at least as good in both and better in one, by ascending
    ``x``; more is better in both."""
    best: list[T] = []
    for point in sorted(points, key=lambda point: (x(point), y(point)), reverse=True):
        if not best or y(point) > y(best[-1]):
            best.append(point)
    return best[::-1]


def frontier_lines(points: Sequence[tuple[str, float, float]], title: str = "") -> list[str]:
    """The points (name, interactivity, throughput per GPU) as a plot in text, frontier as ``o``,
    others as ``.``; [] for too few.

    Under the plot the frontier's points by name, from the highest throughput to the highest
    interactivity.
    """
    usable = [point for point in points if point[1] > 0 and point[2] > 0]
    if len(usable) < FEWEST_POINTS:
        return []
    best = frontier(usable, lambda point: point[1], lambda point: point[2])
    most_x, most_y = max(point[1] for point in usable), max(point[2] for point in usable)
    grid = [[" "] * _WIDTH for _ in range(_HEIGHT)]
    for mark, group in ((".", usable), ("o", best)):
        for _, across, up in group:
            column = round(across / most_x * (_WIDTH - 1))
            row = _HEIGHT - 1 - round(up / most_y * (_HEIGHT - 1))
            grid[row][column] = mark
    top, margin = f"{most_y:,.0f}", max(len(f"{most_y:,.0f}"), 3)
    lines = [title or "Pareto frontier", f"  {'tok/s/GPU'.rjust(margin)}"]
    lines += [
        f"  {(top if row == 0 else '').rjust(margin)} |{''.join(cells).rstrip()}"
        for row, cells in enumerate(grid)
    ]
    end = f"{most_x:,.0f} tok/s/user"
    lines += [
        f"  {'0'.rjust(margin)} +{'-' * _WIDTH}",
        f"  {' ' * margin}  0{end.rjust(_WIDTH - 1)}",
    ]
    width = max(len(name) for name, _, _ in best)
    return lines + [
        f"  o {name.ljust(width)}  {across:>8,.1f} tok/s/user  {up:>10,.1f} tok/s/GPU"
        for name, across, up in best
    ]
