"""Charts as inline SVG: lines and points over two axes, labelled directly. Pure.

Drawn here and not by a library in the page: the file stays small, prints, needs no script and no
network, and a strict content security policy holds. Colours are classes (``c0`` to ``c7``), so that
light and dark are the style sheet's business.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from pytest_gpubench.report.html_geometry import (
    FONT,
    Box,
    Kind,
    Placed,
    Placer,
    Scale,
    scale_for,
    shortened,
    spread,
    text_width,
)
from pytest_gpubench.report.html_markup import Markup, join, tag
from pytest_gpubench.report.numbers import tick

COLOURS = 8
SHAPES = 6


@dataclass(frozen=True, slots=True)
class Mark:
    """One point of a series; ``tip`` is read out and shown on hover, ``label`` stands beside it if
    there is room."""

    x: float
    y: float
    tip: str = ""
    label: str = ""


@dataclass(frozen=True, slots=True)
class Series:
    """Points, and a line through them."""

    name: str
    marks: tuple[Mark, ...]
    colour: int = 0
    shape: int = 0
    dashed: bool = False
    line: bool = True
    dots: bool = True
    faint: bool = False
    named: bool = True
    """Whether its name stands beside it."""
    tags: str = ""
    """Words by which the page's filter hides it."""


@dataclass(frozen=True, slots=True)
class Axis:
    title: str
    kind: Kind = "linear"
    zero: bool = True
    top: float | None = None
    form: Callable[[float], str] = tick


@dataclass(frozen=True, slots=True)
class Chart:
    """What is drawn; every value must be one that its axis can show (above 0 if logarithmic)."""

    title: str
    description: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    names: Literal["margin", "inside", "none"] = "margin"


def draw(chart: Chart, width: int = 352, height: int = 236, class_: str = "") -> Markup:
    """The chart as an ``svg`` element with title and description; drawn at this size, it scales."""
    frame = _frame(chart, width, height)
    crossings = [point for series in chart.series if series.line for point in _along(series, frame)]
    labels = list(_names(chart, frame, crossings)) + list(_mark_labels(chart, frame, crossings))
    return tag(
        "svg",
        _grid(chart, frame, width, height),
        [
            tag("g", _series(series, frame), class_=_class(series), data_tags=series.tags or None)
            for series in chart.series
        ],
        tag("g", labels, class_="labels"),
        class_=f"chart {class_}".strip(),
        viewBox=f"0 0 {width} {height}",
        role="img",
        tabindex=0 if any(mark.tip for series in chart.series for mark in series.marks) else None,
        aria_label=f"{chart.title}. {chart.description}",
    )


@dataclass(frozen=True, slots=True)
class _Frame:
    x: Scale
    y: Scale
    area: Box
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    """Where, and their labels."""
    right: float
    placer: Placer


def _frame(chart: Chart, width: float, height: float) -> _Frame:
    marks = [mark for series in chart.series for mark in series.marks]
    ys = [mark.y for mark in marks]
    top, bottom = FONT * 2.3, height - FONT * 3.1
    y = scale_for(ys, chart.y.kind, bottom, top, zero=chart.y.zero, top=chart.y.top)
    y_ticks = [(value, chart.y.form(value)) for value in y.ticks(FONT * 2.6)]
    left = max((text_width(label) for _, label in y_ticks), default=20) + 8
    right = width - 8 - (_name_room(chart, width) if chart.names == "margin" else 0)
    x = scale_for(
        [mark.x for mark in marks],
        chart.x.kind,
        left + 4,
        right,
        zero=chart.x.zero,
        top=chart.x.top,
    )
    widest = max((text_width(chart.x.form(value)) for value in x.ticks(40)), default=30)
    x_ticks = [(value, chart.x.form(value)) for value in x.ticks(widest + 14)]
    area = Box(left, top - 8, width - 2, bottom)
    placer = Placer(area)
    placer.block(Box(px - 5, py - 5, px + 5, py + 5) for px, py in _places(chart, x, y))
    return _Frame(x, y, area, x_ticks, y_ticks, right, placer)


def _places(chart: Chart, x: Scale, y: Scale) -> Iterator[tuple[float, float]]:
    for series in chart.series:
        if series.dots:
            yield from ((x(mark.x), y(mark.y)) for mark in series.marks)


def _name_room(chart: Chart, width: float) -> float:
    names = [series.name for series in chart.series if series.named and series.marks]
    return min(width * 0.36, max((text_width(name) for name in names), default=0) + 14)


def _grid(chart: Chart, frame: _Frame, width: float, height: float) -> Markup:
    parts: list[Markup] = []
    area = frame.area
    for value, label in frame.y_ticks:
        at = frame.y(value)
        parts.append(tag("line", x1=area.left, x2=frame.right, y1=at, y2=at, class_="grid"))
        parts.append(tag("text", label, x=area.left - 5, y=at + FONT * 0.35, class_="tick end"))
    for value, label in frame.x_ticks:
        at, half = frame.x(value), text_width(label) / 2
        parts.append(tag("line", x1=at, x2=at, y1=area.bottom, y2=area.bottom + 4, class_="axis"))
        place = min(max(at, half), width - half)
        parts.append(tag("text", label, x=place, y=area.bottom + FONT * 1.5, class_="tick mid"))
    bottom, end = area.bottom, frame.right
    parts.append(tag("line", x1=area.left, x2=end, y1=bottom, y2=bottom, class_="axis"))
    across = shortened(chart.x.title, width - area.left)
    parts.append(tag("text", shortened(chart.y.title, width - 4), x=2, y=FONT, class_="axis-title"))
    parts.append(tag("text", across, x=end, y=height - 4, class_="axis-title end"))
    return tag("g", parts, aria_hidden="true")


def _class(series: Series) -> str:
    words = ["s", f"c{series.colour % COLOURS}"]
    words += ["dash"] if series.dashed else []
    words += ["faint"] if series.faint else []
    return " ".join(words)


def _series(series: Series, frame: _Frame) -> Markup:
    places = [(frame.x(mark.x), frame.y(mark.y)) for mark in series.marks]
    line = None
    if series.line and len(places) > 1:
        line = tag("path", d="M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places), class_="line")
    dots = [
        tag(
            "path",
            tag("title", mark.tip) if mark.tip else None,
            d=_shape(series.shape, x, y),
            class_="dot",
        )
        for mark, (x, y) in zip(series.marks, places, strict=True)
        if series.dots
    ]
    return join(line, dots)


def marker(shape: int, x: float, y: float) -> Markup:
    """A single marker, for legends."""
    return tag("path", d=_shape(shape, x, y), class_="dot")


def _shape(shape: int, x: float, y: float) -> str:
    """Path of a marker: circle, square, triangle, diamond, cross, triangle upside down."""
    start = f"M{x:.1f} {y:.1f}"
    return (
        start
        + (
            "m-3.8 0a3.8 3.8 0 1 0 7.6 0a3.8 3.8 0 1 0-7.6 0z",
            "m-3.4-3.4h6.8v6.8h-6.8z",
            "m0-4.4l4.3 7.6h-8.6z",
            "m0-4.8l4.8 4.8l-4.8 4.8l-4.8-4.8z",
            "m-1.4-4.2h2.8v2.8h2.8v2.8h-2.8v2.8h-2.8v-2.8h-2.8v-2.8h2.8z",
            "m0 4.4l4.3-7.6h-8.6z",
        )[shape % SHAPES]
    )


def _names(
    chart: Chart, frame: _Frame, crossings: Sequence[tuple[float, float]]
) -> Iterator[Markup]:
    named = [series for series in chart.series if series.named and series.marks]
    if chart.names == "inside":
        for series in named:
            ends = [series.marks[-1], series.marks[0], *series.marks[1:-1]]
            anchors = [(frame.x(mark.x), frame.y(mark.y)) for mark in ends]
            placed = frame.placer.place(series.name, anchors, crossings) or frame.placer.place(
                series.name, anchors, over=True
            )
            if placed:
                yield _label(placed, "name", series)
    elif chart.names == "margin":
        lasts = [series.marks[-1] for series in named]
        places = spread(
            [frame.y(mark.y) for mark in lasts],
            FONT * 1.22,
            frame.area.top + FONT / 2,
            frame.area.bottom - FONT / 2,
        )
        for series, mark, at in zip(named, lasts, places, strict=True):
            x, y = frame.x(mark.x), frame.y(mark.y)
            text = shortened(series.name, frame.area.right - frame.right - 12)
            lead = f"M{x + 5:.1f} {y:.1f}L{frame.right + 8:.1f} {at:.1f}"
            far = abs(at - y) > 4 or frame.right - x > 8
            yield tag(
                "g",
                tag("path", d=lead, class_="lead") if far else None,
                tag("text", text, x=frame.right + 10, y=at + FONT * 0.35, class_="name"),
                class_=_class(series),
                data_tags=series.tags or None,
            )


def _along(series: Series, frame: _Frame) -> Iterator[tuple[float, float]]:
    places = [(frame.x(mark.x), frame.y(mark.y)) for mark in series.marks]
    for (x1, y1), (x2, y2) in itertools.pairwise(places):
        steps = max(2, int((abs(x2 - x1) + abs(y2 - y1)) / 6))
        for step in range(steps + 1):
            yield x1 + (x2 - x1) * step / steps, y1 + (y2 - y1) * step / steps


def _mark_labels(
    chart: Chart, frame: _Frame, crossings: Sequence[tuple[float, float]]
) -> Iterator[Markup]:
    for series in chart.series:
        for mark in series.marks:
            if not mark.label:
                continue
            placed = frame.placer.place(mark.label, [(frame.x(mark.x), frame.y(mark.y))], crossings)
            if placed:
                yield _label(placed, "small", series)


def _label(placed: Placed, kind: str, series: Series) -> Markup:
    return tag(
        "text",
        placed.text,
        x=placed.x,
        y=placed.y,
        class_=f"{kind} {_class(series)}",
        data_tags=series.tags or None,
    )


def sparkline(
    points: Sequence[tuple[float, float]],
    title: str,
    y_title: str,
    *,
    colour: int = 0,
    top: float | None = None,
) -> Markup:
    """A small chart of a quantity over the seconds of a run."""
    series = Series(
        "", tuple(Mark(x, y) for x, y in points), colour, dots=len(points) == 1, named=False
    )
    low, high = min(y for _, y in points), max(y for _, y in points)
    description = (
        f"{y_title} over {points[-1][0] - points[0][0]:.0f} s: least {tick(low)}, most {tick(high)}"
    )
    return draw(
        Chart(title, description, Axis("s", zero=False), Axis(y_title, top=top), (series,), "none"),
        300,
        130,
        "small-chart",
    )
