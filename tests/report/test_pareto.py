"""The frontier, as points and as text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pytest_gpubench.report.terminal import Row, frontier, frontier_lines, summary_lines

_POINT = st.tuples(st.integers(1, 30), st.integers(1, 30))


def _dominates(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one != other and one[0] >= other[0] and one[1] >= other[1]


@given(st.lists(_POINT, min_size=1, max_size=40))
def test_the_frontier_is_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    best = frontier(points, lambda point: point[0], lambda point: point[1])
    assert set(best) == {
        point for point in points if not any(_dominates(other, point) for other in points)
    }
    assert best == sorted(best)


def test_text_shows_frontier_and_beaten_points() -> None:
    lines = frontier_lines(
        [("c1", 100.0, 50.0), ("c8", 60.0, 300.0), ("slow", 40.0, 100.0), ("c64", 20.0, 900.0)],
        "Pareto",
    )
    text = "\n".join(lines)
    assert text.count("o ") >= 3
    assert "." in text.split("+---")[0].replace("900", "")
    assert "slow" not in text
    assert "o c64" in text
    assert "900.0 tok/s/GPU" in text


def test_no_curve_from_two_points() -> None:
    assert frontier_lines([("a", 1.0, 1.0), ("b", 2.0, 0.5)]) == []
    assert frontier_lines([("a", 1.0, 1.0), ("b", 2.0, 0.5), ("zero", 0.0, 1.0)]) == []


def _rows() -> list[Row]:
    return [
        Row(
            "r",
            f"tp8:1k1k-c{conc}",
            {"interactivity": 100.0 / conc, "output_tput_per_gpu": 10.0 * conc, "ttft_p90": 0.5},
            "PASS",
        )
        for conc in (1, 4, 16)
    ]


def test_the_table_is_followed_by_the_frontier_of_each_shape() -> None:
    text = "\n".join(summary_lines(_rows()))
    assert "Pareto frontier of 1k1k" in text
    assert "Pareto" not in "\n".join(summary_lines(_rows(), frontier=False))
    assert "Pareto" not in "\n".join(summary_lines(_rows()[:2]))
    invalid = [*_rows()[:2], Row("r", "tp8:1k1k-c16", _rows()[2].metrics, "INVALID")]
    assert "Pareto" not in "\n".join(summary_lines(invalid))


def test_verbose_adds_columns() -> None:
    assert "TTFT p90 ms" in "\n".join(summary_lines(_rows(), verbose=True))
    assert "TTFT p90 ms" not in "\n".join(summary_lines(_rows()))
