"""Scales, labels and charts."""

from __future__ import annotations

import math
import re
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_gpubench.report.html_chart import (
    Axis,
    Chart,
    Mark,
    Series,
    draw,
)
from pytest_gpubench.report.html_geometry import (
    Box,
    Placer,
    scale_for,
    shortened,
    spread,
    text_width,
)
from pytest_gpubench.report.numbers import finite, seconds, short, tick

_COORDINATE = st.floats(0, 300)


@given(st.lists(st.tuples(_COORDINATE, _COORDINATE), min_size=1, max_size=40), st.booleans())
def test_no_label_lies_on_another(points: list[tuple[float, float]], over: bool) -> None:
    placer = Placer(Box(0, 0, 300, 300))
    placer.block(Box(x - 4, y - 4, x + 4, y + 4) for x, y in points)
    for number, point in enumerate(points):
        placed = placer.place(f"label {number}", [point], over=over)
        assert placed is None or placed.x >= 0
    assert not any(one.meets(other) for one, other in combinations(placer.taken, 2))
    if not over:
        assert not any(text.meets(mark) for text in placer.taken for mark in placer.marks)


@given(st.lists(st.floats(0, 200), min_size=1, max_size=12))
def test_spread_keeps_order_and_distance(wanted: list[float]) -> None:
    placed = spread(wanted, 13, 0, 200)
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    gap = min(13, 200 / max(1, len(wanted) - 1))
    assert all(0 <= at <= 200 for at in placed)
    for upper, lower in pairwise(order):
        assert placed[lower] - placed[upper] >= gap - 1e-6


@given(
    st.lists(st.floats(1e-6, 1e9), min_size=1, max_size=20),
    st.sampled_from(["linear", "log2", "log10"]),
)
@settings(max_examples=200)
def test_every_value_has_its_place_and_ticks_keep_apart(values: list[float], kind: str) -> None:
    scale = scale_for(values, kind, 30, 330)  # type: ignore[arg-type]
    assert all(29 <= scale(value) <= 331 for value in values)
    places = [scale(value) for value in scale.ticks(40)]
    assert places == sorted(places)
    assert all(after - before > 15 for before, after in pairwise(places))


def test_round_steps() -> None:
    assert scale_for([0, 5354], "linear", 300, 0, zero=True).ticks(40) == [
        0,
        1000,
        2000,
        3000,
        4000,
        5000,
        6000,
    ]
    assert scale_for([1, 2048], "log2", 0, 300).ticks(40) == [1, 4, 16, 64, 256, 1024]


def _chart(*series: Series, names: str = "margin") -> str:
    return draw(Chart("T", "D", Axis("x"), Axis("y"), series, names))  # type: ignore[arg-type]


def test_a_chart_says_in_words_what_it_shows_and_stays_inside() -> None:
    text = _chart(
        Series("A & <B>", (Mark(1, 1, "tip <1>"), Mark(2, 5))), Series("C", (Mark(1, 2),))
    )
    assert 'role="img"' in text
    assert 'aria-label="T. D"' in text
    assert "A &amp; &lt;B&gt;" in text
    assert "<title>tip &lt;1&gt;</title>" in text
    numbers = [float(found) for found in re.findall(r' (?:x|x1|x2)="([-\d.]+)"', text)]
    assert min(numbers) >= 0
    assert max(numbers) <= 352


def test_one_point_and_equal_values_are_drawn() -> None:
    for value in (0.0, 3.0, -2.0):
        assert "NaN" not in _chart(Series("A", (Mark(value, value),)))
    log = draw(
        Chart(
            "T", "D", Axis("x", "log2"), Axis("y", "log10"), (Series("A", (Mark(4, 7),)),), "inside"
        )
    )
    assert "nan" not in log.lower().replace("name", "")


def test_names_that_are_too_long_are_shortened() -> None:
    text = _chart(Series("a very long name of a series that no margin can hold", (Mark(1, 1),)))
    assert "…</text>" in text
    assert text_width(shortened("x" * 100, 80)) <= 80


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0421, "42.1 ms"), (3.21, "3.21 s"), (185.4, "3 min 5 s"), (7325.0, "2 h 02 min")],
)
def test_durations(value: float, text: str) -> None:
    assert seconds(value) == text


def test_numbers() -> None:
    assert [tick(value) for value in (0, 0.25, 500, 1500, 2e6)] == [
        "0",
        "0.25",
        "500",
        "1.5k",
        "2M",
    ]
    assert [short(value) for value in (0.00012, 0.5, 12.34, 1234.5)] == [
        "0.00012",
        "0.500",
        "12.3",
        "1,234",
    ]
    assert [finite(value) for value in (1, True, "1", math.nan, math.inf, 10**400)] == [
        1.0,
        None,
        None,
        None,
        None,
        None,
    ]
