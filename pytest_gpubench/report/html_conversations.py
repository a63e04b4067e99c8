"""Charts of conversations: times by turn and by shared prefix, what the prefix cache found, what
was offloaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

from pytest_gpubench.model.frozen import entries, mapping
from pytest_gpubench.report.html_chart import Axis, Chart, Mark, Series, draw, sparkline
from pytest_gpubench.report.html_markup import Markup
from pytest_gpubench.report.numbers import finite, seconds

_MOST_ROWS = 120
_LARGEST = 1e12


def conversation_charts(measurement: Mapping[str, Any], case: str) -> Iterator[Markup]:
    """Those that the record has numbers for."""
    turns = _rows(measurement.get("turns"))
    prefixes = _rows(measurement.get("prefixes"))
    yield from _by_turn(turns, case)
    yield from _tokens(turns, case)
    yield from _by_prefix(prefixes, case)
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


def _by_turn(turns: Sequence[Mapping[str, Any]], case: str) -> Iterator[Markup]:
    marks = []
    for row in turns:
        turn, ttft = _number(row, "begin"), _number(row, "ttft")
        if turn is not None and ttft is not None:
            tip = f"turn {turn:.0f}\n{seconds(ttft)}\n{_number(row, 'requests') or 0:.0f} requests"
            marks.append(Mark(turn, ttft * 1e3, tip))
    if len(marks) > 1:
        yield _small(case, "TTFT p50 by turn", Axis("turn", zero=False), "TTFT, ms", [("", marks)])


def _tokens(turns: Sequence[Mapping[str, Any]], case: str) -> Iterator[Markup]:
    lines = []
    for name, title in (
        ("prompt_tokens", "prompt"),
        ("kept_tokens", "seen before"),
        ("cached_tokens", "found"),
    ):
        marks = [
            Mark(turn, value)
            for row in turns
            if (turn := _number(row, "begin")) is not None
            and (value := _number(row, name)) is not None
        ]
        if len(marks) > 1:
            lines.append((title, marks))
    if len(lines) > 1:
        axis = Axis("turn", zero=False)
        yield _small(case, "prompt tokens by turn", axis, "tokens, mean", lines)


def _by_prefix(prefixes: Sequence[Mapping[str, Any]], case: str) -> Iterator[Markup]:
    marks = []
    for row in prefixes:
        kept, ttft = _number(row, "kept_tokens"), _number(row, "ttft")
        if kept is not None and ttft is not None:
            tip = f"{kept:,.0f} tokens seen before\n{seconds(ttft)}"
            marks.append(Mark(kept, ttft * 1e3, tip))
    if len(marks) > 1:
        axis = Axis("tokens seen before")
        yield _small(case, "TTFT p50 by shared prefix", axis, "TTFT, ms", [("", marks)])


def _small(
    case: str, title: str, x: Axis, y_title: str, lines: Sequence[tuple[str, list[Mark]]]
) -> Markup:
    series = tuple(
        Series(name, tuple(marks), colour, named=bool(name), dots=not name)
        for colour, (name, marks) in enumerate(lines)
    )
    values = [mark.y for _, marks in lines for mark in marks]
    words = f"from {min(values):.3g} to {max(values):.3g}"
    names: Literal["inside", "none"] = "inside" if len(lines) > 1 else "none"
    chart = Chart(f"{case}: {title}", words, x, Axis(y_title), series, names)
    return draw(chart, 300, 130, "small-chart")


def _rates(
    points: Sequence[Mapping[str, Any]], name: str, unit: float
) -> list[tuple[float, float]]:
    """What a counter grew by, per second, between the looks at it."""
    known = []
    for point in points:
        at, value = finite(point.get("seconds")), _number(point, name)
        if at is not None and abs(at) < _LARGEST and value is not None:
            known.append((at, value))
    known.sort()
    rates = [
        ((before + after) / 2, max(0.0, now - then) / (after - before) / unit)
        for (before, then), (after, now) in pairwise(known)
        if after > before
    ]
    step = -(-len(rates) // _MOST_ROWS)
    return rates[:: max(1, step)]
