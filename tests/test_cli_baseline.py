"""``gpubench baseline``: what it shows, accepts and drops, and the sentences for what it cannot
do."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_gpubench.cli import main
from pytest_gpubench.gate.baseline_files import baseline_path, read_baseline, update_baseline
from pytest_gpubench.gate.baselines import LaunchEntry, append
from pytest_gpubench.model.frozen import FrozenMap

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
    assert len(capsys.readouterr().out.splitlines()) == 40


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
