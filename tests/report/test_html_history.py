"""The page of a history, and the table that Otava reads."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime

import pytest
import yaml

from pytest_gpubench.gate.baselines import Baseline, LaunchEntry, append
from pytest_gpubench.gate.histories import metric_histories
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.report import html_history
from pytest_gpubench.report.exports_csv import otava_config, otava_csv
from pytest_gpubench.report.html_history import history_page
from tests.gate.test_histories import CASE, KEY, recorded


def test_the_page_has_a_chart_a_metric_and_every_change() -> None:
    page = history_page(metric_histories(recorded()))
    assert page.count("<svg") == 3
    assert "1 case, 3 series, 2 change points" in page
    assert "engine: 0.32.0 before, 0.33.0 now" in page
    assert "2026-06-20T00:00, r25" in page
    assert ">+8" in page or ">+7" in page  # the label at the step
    assert "default-src &#x27;none&#x27;" in page
    assert '<text x="' in page


def test_what_is_hostile_is_text() -> None:
    page = history_page(metric_histories(recorded()), title="<script>alert(1)</script>")
    for text in ("<i>new</i>", "<b>node</b>", "<script>alert"):
        assert text not in page
    assert "&lt;i&gt;new&lt;/i&gt; scheduler" in page


def test_runs_of_one_day_stand_in_their_order() -> None:
    entries = [
        LaunchEntry(
            f"r{run}", "launch-1", f"2026-05-01T{run:02}:00:00Z", "", FrozenMap({"tpot_p50": 0.01})
        )
        for run in range(3)
    ]
    page = history_page(metric_histories(append(Baseline(CASE), KEY, entries)))
    assert "runs, in the order of their dates" in page
    assert "The level of no metric has moved." in page


def test_a_single_launch_is_drawn() -> None:
    assert "<svg" in history_page(metric_histories(recorded(1, launches=1)))
    assert "<svg" not in history_page([])


def test_a_long_history_is_cut_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html_history, "MOST_RUNS", 10)
    monkeypatch.setattr(html_history, "MOST_CHARTS", 2)
    page = history_page(metric_histories(recorded()))
    assert page.count("<svg") == 2
    assert page.count('class="dot"') <= 2 * (10 * 2 + 2)
    assert "1 more series are left out here: name fewer cases." in page


def test_otava_gets_a_row_per_run_without_holes() -> None:
    histories = metric_histories(recorded())
    text, metrics, left_out = otava_csv(histories)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 40
    assert metrics == ("output_tput_per_gpu", "tpot_p50")
    assert left_out == ("acceptance_length",)
    last = rows[-1]
    assert list(last) == ["time", "run", "commit", "engine", "host", *metrics]
    assert datetime.fromisoformat(last["time"]) == datetime(2026, 7, 18, tzinfo=UTC)
    assert (last["run"], last["commit"], last["engine"]) == ("r39", "c39", "0.33.0")
    assert float(last["tpot_p50"]) == histories[1].runs[-1].level


def test_the_configuration_names_columns_and_which_way_is_better() -> None:
    lines = otava_config('m:"x" é', "a b.csv", ("tpot_p50", "output_tput_per_gpu", "duration"))
    found = yaml.safe_load("\n".join(lines))["tests"]['m:"x" é']
    assert found["type"] == "csv"
    assert found["file"] == "a b.csv"
    assert found["time_column"] == "time"
    assert found["attributes"] == ["run", "commit", "engine", "host"]
    assert {name: it["direction"] for name, it in found["metrics"].items()} == {
        "tpot_p50": -1,
        "output_tput_per_gpu": 1,
        "duration": 0,
    }
