"""``gpubench bisect`` with pytest, the stub engine and git."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.plugin.conftest import RECIPES, STUB, Project, plant_levels

STEADY = {"output_tput_per_gpu": 10.0, "tpot_p50": 0.01, "ttft_p50": 0.25}
SLOW = STEADY | {"tpot_p50": 0.02}


def _git(folder: Path, *words: str) -> None:
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True)


@pytest.fixture
def committed(project: Project) -> Project:
    """Three commits; by what is planted every engine B is slower. The second has recipes that are
    wrong."""
    folder = project.pytester.path
    plant_levels(project, {"a": STEADY, "b": SLOW})
    (folder / ".gitignore").write_text("results/\nleases/\n__pycache__/\n")
    _git(folder, "init", "-q", "-b", "main")
    for name, text in (
        ("v0", RECIPES),
        ("v1", RECIPES.replace("framework: vllm", "framework: vlm")),
        ("v2", RECIPES.replace("block-size: 128", "block-size: 64")),
    ):
        project.recipes(text)
        _git(folder, "add", "-A")
        _git(folder, "commit", "-q", "-m", f"Edit {name}")
        _git(folder, "tag", name)
    return project


def _words(project: Project, *options: str) -> list[str]:
    return [
        *(sys.executable, "-m", "pytest_gpubench.cli", "bisect", *options, "--launches=1"),
        *("--", "benchmarks", "-m", "cpu and not mtp and c1", "-p", "calm_clocks"),
        f"--gpubench-vllm-command={sys.executable} {STUB} serve",
        f"--gpubench-cache-dir={project.hub}",
    ]


@pytest.mark.slow
def test_a_walk_over_commits(committed: Project) -> None:
    """The last commit is bad, the one before cannot be read: one of the two it is."""
    folder = committed.pytester.path
    result = committed.pytester.run(*_words(committed, "v0", "v2"), timeout=600)
    assert result.ret == 10, result.stdout.str() + result.stderr.str()
    result.stdout.fnmatch_lines(
        [
            "2 candidates after * Edit v0, the last one is * Edit v2",
            "* Edit v2: bad (FAIL, tpot_p50 +100.0%, 95% interval *; 2 pairs, *",
            "* Edit v1: skipped (not measured, pytest ended with 4: --gpubench-against-checkout: *"
            "did you mean 'vllm'?*",
            "the first bad one is one of 2; what is before the last could not be told:",
        ]
    )
    walk = json.loads((folder / "results/bisect/walk.json").read_text())
    (first, _) = walk["steps"]
    (record,) = (folder / "results/bisect" / first["run"]).rglob("32x4-c1/b1.json")
    assert json.loads(record.read_text())["against"]["differences"] == [
        "--block-size 64 instead of 128"
    ]


@pytest.mark.slow
def test_git_walks_itself(committed: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = committed.pytester.path
    monkeypatch.setenv("GIT_PAGER", "cat")
    for words in (("start", "--first-parent"), ("good", "v0"), ("bad", "v2")):
        _git(folder, "bisect", *words)
    run = _words(committed, "v0", "--exit-code", "git-bisect")
    done = subprocess.run(
        ["git", "-C", str(folder), "bisect", "run", *run],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', '')}"},
        check=False,
    )
    told = done.stdout + done.stderr
    assert "Edit v1: skipped (not measured, pytest ended with 4" in told, shlex.join(run) + told
    assert "There are only 'skip'ped commits left to test" in told
