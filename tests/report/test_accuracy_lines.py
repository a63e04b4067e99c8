"""Accuracy beside speed, wherever results are shown."""

from __future__ import annotations

from pathlib import Path

from pytest_gpubench.model.verdicts import Status
from pytest_gpubench.report import html
from pytest_gpubench.report.exports_csv import csv_text
from pytest_gpubench.report.markdown import markdown
from pytest_gpubench.report.merge_runs import merge
from pytest_gpubench.report.read_results import load_results
from pytest_gpubench.report.terminal import Row, summary_lines
from pytest_gpubench.report.views import case_views, server_views
from tests.report.result_files import case_record, write

SERVER = "tiny-bf16-h100-vllm-tp1"


def evaluation(status: str = "FAIL") -> dict[str, object]:
    record = case_record(metrics={"accuracy": 0.905}, status=status, minute=9, conc=8)
    part = {"name": "gsm8k", "asked": 200, "right": 181, "interval": [0.846, 0.947]}
    return record | {"case": f"{SERVER}:gsm8k", "evaluation": part}


def run(tmp_path: Path) -> Path:
    folder = tmp_path / "results" / "run"
    write(folder, case_record(conc=4))
    write(
        folder,
        case_record(
            conc=8,
            metrics={"output_tput": 150.0, "acceptance_length": 2.4},
        ),
    )
    write(folder, evaluation())
    return folder


def test_one_line_per_server(tmp_path: Path) -> None:
    (view,) = server_views(case_views(load_results([run(tmp_path)]).cases()))
    assert view.name == SERVER
    assert view.speed == ("150.0 tok/s at 1k1k-c8", "acceptance 2.40")
    assert view.accuracy == ("gsm8k 90.5% right (98% interval 84.6% to 94.7%)",)
    assert view.status is Status.FAIL


def test_page_comment_and_table_have_it(tmp_path: Path) -> None:
    loaded = load_results([run(tmp_path)])
    assert "150.0 tok/s at 1k1k-c8, acceptance 2.40, gsm8k 90.5% right" in markdown(loaded)
    page = html.render(loaded)
    assert "Speed and accuracy" in page
    assert "gsm8k 90.5% right" in page
    head, *rows = csv_text(loaded.cases()).splitlines()
    assert head.endswith(",accuracy")
    assert sum(row.endswith(",0.905") for row in rows) == 1


def test_the_merged_verdict_is_the_worst_and_waits_for_one_launch(tmp_path: Path) -> None:
    merged = merge(load_results([run(tmp_path)]))
    assert merged.exit_code == 1
    several = {"launches": 3, "include": [{"name": "j", "cases": [f"{SERVER}:gsm8k"]}]}
    rows = {row.name: row.status for row in merge(load_results([run(tmp_path)]), several).rows}
    assert rows[f"{SERVER}:gsm8k"] is Status.FAIL
    write(tmp_path / "results" / "run", evaluation("PASS"))
    rows = {row.name: row.status for row in merge(load_results([tmp_path]), several).rows}
    assert rows[f"{SERVER}:gsm8k"] is Status.PASS
    assert rows[f"{SERVER}:1k1k-c4"] is Status.INCONCLUSIVE


def test_the_terminal_has_a_line_per_server() -> None:
    rows = [
        Row("r", "tp1:1k1k-c4", {"output_tput": 100.0}, "PASS"),
        Row("r", "tp1:gsm8k", {"accuracy": 0.905}, "INVALID", "2 of 9 failed"),
        Row("r", "tp2:1k1k-c4", {"output_tput": 100.0}, "PASS"),
    ]
    lines = summary_lines(rows)
    assert "  tp1: 100.0 tok/s at 1k1k-c4, gsm8k 90.5% right: INVALID" in lines
    assert not any(line.startswith("  tp2: ") for line in lines)
