"""The table of all cases, and one case in detail: numbers, doubts, the engine over the run, how
latencies are distributed, what turns and prefixes of conversations took."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

from pytest_gpubench.model.evaluation import ACCURACY
from pytest_gpubench.model.frozen import entries, mapping
from pytest_gpubench.model.metrics import ACCEPTANCE
from pytest_gpubench.report.html_chart import Axis, Chart, Mark, Series, draw, sparkline
from pytest_gpubench.report.html_markup import (
    ABSENT,
    Child,
    Markup,
    badge,
    clip,
    join,
    section,
    shown,
    table,
    table_row,
    tag,
)
from pytest_gpubench.report.merge_runs import Row
from pytest_gpubench.report.numbers import Column, columns, finite, seconds, with_values
from pytest_gpubench.report.views import CaseView, server_views

_COLUMNS = (
    *columns("output_tput_per_gpu", "output_tput", "interactivity", "ttft_p50", "ttft_p99"),
    *columns("tpot_p50", ACCEPTANCE, ACCURACY),
    Column("energy_per_output_token", "J/tok", digits=2),
)
_MOST_POINTS = 120
_GAUGES = (
    ("running", "running requests", None),
    ("waiting", "waiting requests", None),
    ("kv_cache_usage", "KV cache, %", 100.0),
)


def case_table(
    views: Sequence[CaseView], starts: Sequence[Row], link_of: dict[int, str]
) -> Markup | None:
    """All cases and starts in one table; the page's script sorts it by a click on a heading."""
    if not views and not starts:
        return None
    shown_columns = with_values(_COLUMNS, [view.metrics for view in views])
    rows = []
    for view in views:
        cells = [column.cell(view.metrics, view.hidden, ABSENT) for column in shown_columns]
        name = case_link(view, link_of)
        rows.append(table_row((name, badge(view.status), *cells), view.tags))
    blank = [ABSENT] * len(shown_columns)
    rows += [table_row((start.name, badge(start.status), *blank)) for start in starts]
    tentative = any(view.hidden for view in views)
    return section(
        "cases",
        "All cases",
        table(
            ("Case", "Verdict", *(column.title for column in shown_columns)),
            rows,
            class_="numbers sortable",
            caption="All cases",
        ),
        lead="In brackets: too few requests for this percentile." if tentative else "",
    )


def server_table(views: Sequence[CaseView]) -> Markup | None:
    """Speed beside accuracy, a line per server that was asked questions."""
    found = server_views(views)
    if not found:
        return None
    rows = [
        (one.name, badge(one.status), ", ".join(one.speed), "; ".join(one.accuracy))
        for one in found
    ]
    head = ("Server", "Verdict", "Speed", "Accuracy")
    return section(
        "accuracy",
        "Speed and accuracy",
        table(head, rows, class_="reasons", caption="Speed and accuracy of servers"),
        lead="Questions with known answers, asked of the same servers after their loads.",
    )


def case_link(view: CaseView, link_of: dict[int, str]) -> Child:
    """The name of a case, a link where its details have an anchor."""
    anchor = link_of.get(id(view))
    return tag("a", view.id, href=f"#{anchor}") if anchor else view.id


def case_details(view: CaseView, record: Mapping[str, Any], anchor: str, *, charts: bool) -> Markup:
    """Everything about a case that its record says; ``charts``: whether there is room for them."""
    measurement = mapping(record.get("measurement"))
    reused = tag("span", " reused", class_="muted") if view.last.reused_from else None
    head = tag("summary", tag("span", view.id, class_="key"), " ", badge(view.status), reused)
    launches = (
        f"Geometric means over {len(view.launches)} launches." if len(view.launches) > 1 else ""
    )
    body = join(
        tag("p", clip(view.reason, 2000)) if view.reason else None,
        [tag("p", clip(doubt, 1000), class_="problem") for doubt in view.doubts],
        [
            tag("p", clip(str(mapping(flag).get("message")), 1000), class_="note")
            for flag in entries(measurement.get("flags"))
        ],
        tag("p", launches, class_="muted") if launches else None,
        tag("p", f"Not measured again: reused from run {view.last.reused_from}.", class_="muted")
        if view.last.reused_from
        else None,
        tag("div", list(_charts(measurement, view)), class_="grid-small") if charts else None,
        tag("div", [_metric(view, name) for name in view.metrics], class_="metric-list")
        if view.metrics
        else None,
    )
    return tag("details", head, body, class_="case", id=anchor or None, data_tags=view.tags)


def _metric(view: CaseView, name: str) -> Markup:
    value = shown(name, view.metrics[name])
    return tag("span", tag("b", name), f" ({value})" if name in view.hidden else f" {value}")


def _charts(measurement: Mapping[str, Any], view: CaseView) -> Iterator[Markup]:
    points = [mapping(point) for point in entries(measurement.get("series"))]
    for name, title, top in _GAUGES:
        factor = 100.0 if name == "kv_cache_usage" else 1.0
        found = _thinned(_over_time(points, name, factor))
        if len(found) > 1 and (name != "waiting" or any(y for _, y in found)):
            yield tag("figure", sparkline(found, f"{view.id}: {title}", title, top=top))
    for chart in conversation_charts(measurement, view.id):
        yield tag("figure", chart)
    gpus = [mapping(point) for point in entries(measurement.get("gpu_series"))]
    for name, title in (("power", "GPU power, W"), ("sm_clock", "lowest SM clock, MHz")):
        found = _thinned(_over_time(gpus, name, 1.0))
        if len(found) > 1:
            yield tag("figure", sparkline(found, f"{view.id}: {title}", title, colour=1))
    distribution = _distribution(measurement, view)
    if distribution is not None:
        yield tag("figure", distribution)


def _over_time(
    points: Sequence[Mapping[str, Any]], name: str, factor: float
) -> list[tuple[float, float]]:
    found = []
    for point in points:
        at, value = finite(point.get("seconds")), finite(point.get(name))
        if at is not None and value is not None and abs(at) < 1e9 and abs(value) < 1e12:
            found.append((at, value * factor))
    return sorted(found)


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most so many points, the least and the greatest of each stretch: no peak is lost."""
    if len(points) <= _MOST_POINTS:
        return points
    stretch = -(-len(points) * 2 // _MOST_POINTS)
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), stretch):
        part = points[start : start + stretch]
        kept += sorted(
            {min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])}
        )
    return kept


def _distribution(measurement: Mapping[str, Any], view: CaseView) -> Markup | None:
    """Share of requests that took at most so long, from the quantiles, else the percentiles."""
    quantiles = mapping(measurement.get("quantiles"))
    series = []
    for index, (name, title) in enumerate((("tpot", "TPOT"), ("ttft", "TTFT"), ("e2e", "E2E"))):
        values = [finite(value) for value in entries(quantiles.get(name))]
        pairs = [
            (value, 100 * place / (len(values) - 1))
            for place, value in enumerate(values)
            if value is not None
        ]
        if not pairs:
            known = ((50.0, f"{name}_p50"), (90.0, f"{name}_p90"), (99.0, f"{name}_p99"))
            pairs = [
                (view.metrics[key], share)
                for share, key in known
                if key in view.metrics and key not in view.hidden
            ]
        drawn = [(value * 1000, share) for value, share in pairs if value > 0]
        if len(drawn) > 1:
            many = len(drawn) > 3
            marks = tuple(
                Mark(x, y, "" if many else f"{title} p{y:.0f}\n{seconds(x / 1000)}")
                for x, y in drawn
            )
            series.append(Series(title, marks, index, index, dots=not many))
    if not series:
        return None
    words = "; ".join(
        f"{one.name} from {one.marks[0].x:.3g} to {one.marks[-1].x:.3g} ms" for one in series
    )
    chart = Chart(
        f"{view.id}: latency distribution",
        words,
        Axis("ms", "log10", zero=False),
        Axis("% at most", top=100.0),
        tuple(series),
        "inside",
    )
    return draw(chart, 300, 130, "small-chart")


_MOST_ROWS = 120
_LARGEST = 1e12


def conversation_charts(measurement: Mapping[str, Any], case: str) -> Iterator[Markup]:
    """Times by turn and by shared prefix, what the prefix cache found, what was offloaded: those
    that the record has numbers for."""
    turns, prefixes = (_rows(measurement.get(name)) for name in ("turns", "prefixes"))
    by_turn, by_prefix = Axis("turn", zero=False), Axis("tokens seen before")
    marks = _marks(turns, "begin", "ttft", 1e3, _turn_tip)
    yield from _small(case, "TTFT p50 by turn", by_turn, "TTFT, ms", [("", marks)])
    lines = [
        (title, marks)
        for name, title in (
            ("prompt_tokens", "prompt"),
            ("kept_tokens", "seen before"),
            ("cached_tokens", "found"),
        )
        if len(marks := _marks(turns, "begin", name)) > 1
    ]
    if len(lines) > 1:
        yield from _small(case, "prompt tokens by turn", by_turn, "tokens, mean", lines)
    marks = _marks(prefixes, "kept_tokens", "ttft", 1e3, _prefix_tip)
    yield from _small(case, "TTFT p50 by shared prefix", by_prefix, "TTFT, ms", [("", marks)])
    points = [mapping(point) for point in entries(measurement.get("series"))]
    for name, title, unit in (
        ("prefix_cache_hits", "tokens found in the prefix cache, tok/s", 1.0),
        ("offload_stored", "KV offloaded, MB/s", 1e6),
        ("offload_loaded", "KV loaded back, MB/s", 1e6),
    ):
        rates = _rates(points, name, unit)
        if len(rates) > 1 and any(rate for _, rate in rates):
            yield sparkline(rates, f"{case}: {title}", title, colour=2)


def _rows(value: object) -> list[Mapping[str, Any]]:
    return [mapping(row) for row in entries(value)][:_MOST_ROWS]


def _number(row: Mapping[str, Any], name: str) -> float | None:
    value = finite(row.get(name))
    return value if value is not None and 0 <= value < _LARGEST else None


def _marks(
    rows: Sequence[Mapping[str, Any]],
    x: str,
    y: str,
    factor: float = 1.0,
    tip: Callable[[Mapping[str, Any], float, float], str] = lambda _row, _x, _y: "",
) -> list[Mark]:
    """A mark for each row that has both numbers."""
    pairs = [(row, _number(row, x), _number(row, y)) for row in rows]
    return [
        Mark(at, value * factor, tip(row, at, value))
        for row, at, value in pairs
        if at is not None and value is not None
    ]


def _turn_tip(row: Mapping[str, Any], turn: float, ttft: float) -> str:
    return f"turn {turn:.0f}\n{seconds(ttft)}\n{_number(row, 'requests') or 0:.0f} requests"


def _prefix_tip(_row: Mapping[str, Any], kept: float, ttft: float) -> str:
    return f"{kept:,.0f} tokens seen before\n{seconds(ttft)}"


def _small(
    case: str, title: str, x: Axis, y_title: str, lines: Sequence[tuple[str, list[Mark]]]
) -> Iterator[Markup]:
    """A chart of lines with more than one mark; the same order as their colours."""
    if len(lines[0][1]) < 2:
        return
    series = tuple(
        Series(name, tuple(marks), colour, named=bool(name), dots=not name)
        for colour, (name, marks) in enumerate(lines)
    )
    values = [mark.y for _, marks in lines for mark in marks]
    words = f"from {min(values):.3g} to {max(values):.3g}"
    names: Literal["inside", "none"] = "inside" if len(lines) > 1 else "none"
    chart = Chart(f"{case}: {title}", words, x, Axis(y_title), series, names)
    yield draw(chart, 300, 130, "small-chart")


def _rates(
    points: Sequence[Mapping[str, Any]], name: str, unit: float
) -> list[tuple[float, float]]:
    """What a counter grew by, per second, between the looks at it."""
    known = _over_time(points, name, 1.0)
    rates = [
        ((before + after) / 2, max(0.0, now - then) / (after - before) / unit)
        for (before, then), (after, now) in pairwise(known)
        if after > before
    ]
    step = -(-len(rates) // _MOST_ROWS)
    return rates[:: max(1, step)]
