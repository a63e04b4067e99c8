"""The history of baselines as one HTML page: a chart per metric, and every change of its level with
what changed there. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from pytest_gpubench._version import __version__
from pytest_gpubench.gate.change_points import FALSE_ALARM, MIN_RUNS
from pytest_gpubench.gate.histories import MetricHistory, Moved
from pytest_gpubench.gate.wording import percent, quantity
from pytest_gpubench.model.grouping import grouped
from pytest_gpubench.model.metrics import METRICS
from pytest_gpubench.model.printing import counted
from pytest_gpubench.report.html import document
from pytest_gpubench.report.html_chart import Axis, Chart, Mark, Series, draw
from pytest_gpubench.report.html_markup import (
    Child,
    Markup,
    clip,
    figure,
    more,
    section,
    table,
    tag,
)

MOST_CHARTS = 300
"""The page stays below some 10 MB."""
MOST_RUNS = 200
"""Drawn in a chart; the newest."""
_MOST_ROWS = 500
_SHORT_SPAN = 3.0
"""Days: runs of so few lie on each other by date, and are drawn in their order."""


def history_page(histories: Sequence[MetricHistory], title: str = "Baselines over time") -> str:
    """The page of these histories, cases in their order."""
    drawn = histories[:MOST_CHARTS]
    cases = grouped(drawn, lambda history: history.case)
    found = [(history, move) for history in histories for move in history.moves]
    words = (
        f"{counted(len(cases), 'case')}, {len(histories):,} series, "
        f"{counted(len(found), 'change point')}"
    )
    sections = [
        _changes(found),
        *(_case(number, case, own) for number, (case, own) in enumerate(cases.items(), 1)),
        more(len(histories) - len(drawn), "series are left out here: name fewer cases"),
    ]
    footer = f"Made by pytest-gpubench {__version__} from recorded baselines."
    return document(title, tag("p", words, class_="muted"), sections, footer)


def _changes(found: Sequence[tuple[MetricHistory, Moved]]) -> Markup:
    lead = (
        f"A change point is where the mean of runs moved beyond chance: of series of {MIN_RUNS} or "
        f"more runs without a change, no more than one in {1 / FALSE_ALARM:.0f} has one where runs "
        "spread normally. One odd run is none. Where a new level was accepted is marked in the "
        "charts."
    )
    newest = sorted(found, key=lambda pair: pair[0].runs[pair[1].index].date, reverse=True)
    rows = [_row(history, move) for history, move in newest[:_MOST_ROWS]]
    head = ("Case", "Metric", "Change", "From, to", "Since", "What changed there")
    content = (
        table(head, rows, class_="reasons", caption="Change points, newest first")
        if rows
        else tag("p", "The level of no metric has moved.")
    )
    return section(
        "changes",
        "Change points",
        content,
        more(len(newest) - _MOST_ROWS, "are left out here"),
        lead=lead,
    )


def _row(history: MetricHistory, move: Moved) -> tuple[Child, ...]:
    first = history.runs[move.index]
    changed = [tag("li", clip(one, 300)) for one in move.changed]
    return (
        history.case,
        history.metric,
        f"{percent(move.size)} {history.word(move)}",
        f"{quantity(history.metric, move.before)} to {quantity(history.metric, move.after)}",
        f"{first.date[:16]}, {first.run}",
        tag("ul", changed) if changed else "nothing that is recorded",
    )


def _case(number: int, case: str, histories: Sequence[MetricHistory]) -> Markup:
    keys = dict.fromkeys(history.key for history in histories)
    figures = [_figure(history, several=len(keys) > 1) for history in histories]
    return section(f"case-{number}", case, tag("div", figures, class_="grid-wide"))


def _figure(history: MetricHistory, *, several: bool) -> Markup:
    words = [counted(len(history.runs), "run"), history.device, history.key if several else ""]
    note = ", ".join(filter(None, words))
    return figure(history.metric, draw(_chart(history), 520, 236, "wide"), note)


def _chart(history: MetricHistory) -> Chart:
    skipped = max(0, len(history.runs) - MOST_RUNS)
    places, x_axis = _places(history, skipped)
    shown = list(enumerate(history.runs))[skipped:]
    launches = [
        Mark(
            places[index],
            value,
            f"{run.date[:16]}, run {run.run}: {quantity(history.metric, value)}, engine "
            f"{run.axis.get('engine') or '?'}",
        )
        for index, run in shown
        for value in run.values
    ]
    series = [Series("launches", tuple(launches), 0, line=False, faint=True, named=False)]
    ends = [0, *(move.index for move in history.moves), len(history.runs)]
    levels = [move.before for move in history.moves[:1]]
    levels += [move.after for move in history.moves]
    for begin, end, level in zip(ends, ends[1:], levels, strict=False):
        at = [places[max(begin, skipped)], places[end - 1]] if end > skipped else []
        marks = tuple(Mark(place, level) for place in at)
        series.append(Series("level", marks, 0, dots=False, named=False))
    moved = [
        Mark(places[move.index], move.after, clip(history.line(move), 600), percent(move.size))
        for move in history.moves
        if move.index >= skipped
    ]
    accepted = [
        Mark(places[index], run.level, f"{run.date[:16]}, run {run.run}: {clip(run.accepted, 300)}")
        for index, run in shown
        if run.accepted
    ]
    series.append(Series("change", tuple(moved), 1, 3, line=False, named=False))
    series.append(Series("accepted", tuple(accepted), 2, 1, line=False, named=False))
    changes = "; ".join(history.line(move) for move in history.moves) or "no change point"
    return Chart(
        f"{history.metric} of {history.case}",
        clip(f"{len(history.runs)} runs: {changes}", 2000),
        x_axis,
        Axis(METRICS[history.metric].unit, zero=False),
        tuple(one for one in series if one.marks),
        names="none",
    )


def _places(history: MetricHistory, skipped: int) -> tuple[list[float], Axis]:
    """Where each run stands: by date, or where all are of a few days in their order."""
    days = [datetime.fromisoformat(run.date).timestamp() / 86_400 for run in history.runs]
    if days[-1] - days[skipped] < _SHORT_SPAN:
        places = [float(index) for index in range(1, len(days) + 1)]
        return places, Axis("runs, in the order of their dates", zero=False)
    return days, Axis("", zero=False, form=_day)


def _day(days: float) -> str:
    try:
        return datetime.fromtimestamp(days * 86_400, UTC).date().isoformat()
    except (OverflowError, ValueError, OSError):
        return ""
