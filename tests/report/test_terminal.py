"""The summary table."""

from __future__ import annotations

from pytest_gpubench.report.terminal import Row, summary_lines


def test_one_table_per_recipe_with_units_and_dashes() -> None:
    rows = [
        Row(
            "a",
            "tp1:1k1k-c1",
            {"output_tput": 1234.56, "ttft_p50": 0.05, "tpot_p50": 0.01},
            "UNGATED",
        ),
        Row("a", "tp1:1k1k-c64", {"output_tput": 9.0}, "FAIL", "too slow"),
        Row("b", "tp1:1k1k-c1", {"acceptance_length": 2.5}, "PASS"),
    ]
    text = "\n".join(summary_lines(rows))
    first, second = text.split("\nb\n")
    assert "TTFT p50 ms" in first
    assert "1,234.6" in first
    assert "50.0" in first
    assert "too slow" in first
    assert "accept len" not in first
    assert "2.50" in second


def test_columns_line_up() -> None:
    lines = summary_lines(
        [
            Row("a", "x", {"output_tput": 1.0}, "PASS"),
            Row("a", "longer", {"output_tput": 100.0}, "PASS"),
        ]
    )
    table = [line for line in lines if line.startswith("  ")]
    assert len({line.index("PASS") for line in table[1:]}) == 1


def test_no_rows_no_lines() -> None:
    assert summary_lines([]) == []
