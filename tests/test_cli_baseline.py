"""``gpubench baseline``: what it shows, accepts and drops, and the sentences for what it cannot
do."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from pytest_gpubench.cli import main
from pytest_gpubench.gate.baseline_files import baseline_path, read_baseline, update_baseline
from pytest_gpubench.gate.baselines import Baseline, LaunchEntry, append
from pytest_gpubench.model.frozen import FrozenMap
from tests.gate.test_histories import recorded

CASE = "m-fp8-h100-vllm-tp8:1k1k-c64"
KEY = FrozenMap({"hardware": "h100", "device": "NVIDIA H100"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    entries = [
        LaunchEntry(
            f"run{index}",
            "launch-1",
            f"2026-0{1 + index // 28}-{1 + index % 28:02}T00:00:00+00:00",
            "",
            _metrics(index),
        )
        for index in range(40)
    ]
    update_baseline(
        baseline_path(tmp_path, "h100", CASE), CASE, lambda before: append(before, KEY, entries)
    )
    return tmp_path


def _metrics(index: int) -> FrozenMap:
    return FrozenMap({"tpot_p50": 0.01 * (1 + 0.001 * (index % 3))})


def test_show_tells_level_spread_and_what_would_be_found(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["baseline", "show", "--baselines", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert f"{CASE}: 40 launches" in shown
    assert "tpot_p50: 10.0" in shown
    assert "1 launch finds" in shown


def test_history_has_a_line_per_launch(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["baseline", "history", CASE, "tpot_p50", "--baselines", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 41
    assert lines[-1].endswith(": no change point in 40 runs")


def test_prune_keeps_window_and_anchor(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["baseline", "prune", "--baselines", str(folder)]) == 0
    assert "12 of 40 launches dropped" in capsys.readouterr().out
    left = read_baseline(baseline_path(folder, "h100", CASE), CASE)
    assert left is not None
    assert len(left.launches) == 28


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["show", "--baselines", "nowhere"], "no baselines in nowhere"),
        (["show", "other:1k1k-c1"], "no baseline of other:1k1k-c1"),
        (["history", CASE, "ttft_p99"], "has no metric ttft_p99"),
        (["history", "other:*"], "no baseline of other:*"),
        (["history", CASE, "--html", "/"], "the page / could not be written"),
        (["history", CASE, "--otava-csv", "/"], "the CSV / could not be written"),
        (["accept", CASE, "nowhere"], "nowhere is no folder"),
    ],
)
def test_what_is_not_there_is_a_sentence(
    folder: Path, arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments if "--baselines" in arguments else [*arguments, "--baselines", str(folder)]
    assert main(["baseline", *given]) != 0
    assert sentence in capsys.readouterr().err


def test_a_run_without_the_case_cannot_be_accepted(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "run").mkdir()
    assert main(["baseline", "accept", CASE, str(folder / "run"), "--baselines", str(folder)]) != 0
    assert "has no record of this case" in capsys.readouterr().err


def test_waivers_are_listed_with_what_they_cover(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert main(["baseline", "waivers", "--baselines", "."]) == 0
    assert capsys.readouterr().out == "no waivers: waivers.yaml has none\n"
    Path("waivers.yaml").write_text(
        "- {case: 'm-*', bug: 'http://x/1', until: 2026-01-31, reason: \"in \\e[31mred\"}\n"
    )
    assert main(["baseline", "waivers", "--baselines", "."]) == 0
    assert capsys.readouterr().out == (
        "waivers.yaml:1: all gated metrics of m-*\n"
        "  http://x/1, in \\x1b[31mred\n"
        f"  until 2026-01-31 (EXPIRED); covers {CASE}\n"
    )
    recipe = "tiny-bf16-cpu-vllm:\n  model: a/b\n  model-prefix: tiny\n  precision: bf16\n"
    recipe += (
        "  framework: vllm\n  multinode: false\n  runner: cpu\n  scenarios:\n    fixed-seq-len:\n"
    )
    recipe += "    - {isl: 32, osl: 4, search-space: [{tp: 1, conc-list: [1]}]}\n"
    Path("recipes.yaml").write_text(recipe)
    Path("waivers.yaml").write_text("- {case: '*:init', bug: 'http://x/1', until: 2999-01-31}\n")
    assert main(["baseline", "waivers", "--baselines", "."]) == 0
    assert "covers tiny-bf16-cpu-vllm-tp1:init\n" in capsys.readouterr().out


def _instead(made: Baseline, _before: Baseline) -> Baseline:
    return made


def test_history_of_several_cases_names_changes_and_writes_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for workload in ("1k1k-c64", "1k1k-c4"):
        case = f"m-fp8-h100-vllm-tp8:{workload}"
        made = replace(recorded(), case=case)
        path = baseline_path(tmp_path, "h100", case)
        update_baseline(path, case, partial(_instead, made))
    page, table = tmp_path / "page.html", tmp_path / "table.csv"
    folder = ["--baselines", str(tmp_path)]
    assert main(["baseline", "history", "m-*", *folder]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "m-fp8-h100-vllm-tp8:1k1k-c4:"
    assert sum("change point: " in line for line in lines) == 4
    assert main(["baseline", "history", "m-*", "tpot_p50", *folder, "--html", str(page)]) == 0
    captured = capsys.readouterr()
    assert sum("change point: " in line for line in captured.out.splitlines()) == 2
    assert captured.err == f"page: {page}\n"
    assert page.read_text().count("<svg") == 2
    otava = ["--otava-csv", str(table), *folder]
    assert main(["baseline", "history", "m-*", *otava]) != 0
    assert "--otava-csv takes one case, and 2 match" in capsys.readouterr().err
    assert main(["baseline", "history", CASE, *otava]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(f'tests:\n  "{CASE}":\n    type: csv\n')
    assert "left out, since some run lacks it: acceptance_length" in captured.err
    assert table.read_text().startswith("time,run,commit,engine,host,output_tput_per_gpu,tpot_p50")


def test_a_baseline_without_launches_is_no_series(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = baseline_path(tmp_path, "h100", CASE)
    update_baseline(path, CASE, partial(_instead, Baseline(CASE)))
    folder = ["--baselines", str(tmp_path)]
    assert main(["baseline", "history", CASE, *folder]) == 0
    table = tmp_path / "table.csv"
    assert main(["baseline", "history", CASE, *folder, "--otava-csv", str(table)]) != 0
    assert "has no launches: there is no series" in capsys.readouterr().err
    assert not table.exists()
