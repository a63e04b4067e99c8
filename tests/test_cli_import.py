"""``gpubench import`` as it is called."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_gpubench.cli import main
from pytest_gpubench.recipes.loading import load_recipes


def test_a_recipe_goes_to_stdout_and_what_is_lost_to_stderr(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    line = "A=1 vllm serve org/m --uds /x --max-model-len 4096 -tp 4"
    words = ["--runner", "h200", "--precision", "fp8", "--model-prefix", "mine", "--isl", "256"]
    code = main(
        ["import", *words, "--osl", "64", "--conc", "2", "--conc", "8", "--", *line.split()]
    )
    told = capsys.readouterr()
    assert code == 0
    assert told.err.splitlines() == [
        "mine-fp8-h200-vllm: not carried over: --uds: the plugin talks plain HTTP to 127.0.0.1",
        "gpubench: 1 recipe, 0 without loss",
    ]
    file = tmp_path / "recipes.yaml"
    file.write_text(told.out)
    book = load_recipes([file])
    assert not book.problems
    assert [case.id for case in book.cases] == [
        "mine-fp8-h200-vllm-tp4:256x64-c2",
        "mine-fp8-h200-vllm-tp4:256x64-c8",
    ]


def test_a_file_of_shell(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    script = tmp_path / "serve.sh"
    script.write_text("# how we serve\nvllm serve org/m \\\n  --max-model-len 4096\n")
    assert main(["import", str(script), "--runner", "h100"]) == 0
    told = capsys.readouterr()
    assert told.err == "gpubench: 1 recipe, 1 without loss\n"
    assert told.out.startswith(f"# Made by gpubench import of {script}.\n")


def test_a_hostile_file_stays_a_comment(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    script = tmp_path / "a\nevil: true.sh"
    script.write_text("vllm serve org/m --max-model-len 512\necho '\nevil: true'\n")
    assert main(["import", str(script), "--runner", "h100"]) == 0
    told = capsys.readouterr()
    assert not [line for line in told.out.splitlines() if line.startswith("evil")]
