"""Engine B from the recipes of another checkout; engine A in place of the recipes'; one metric
gated."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from tests.plugin.conftest import RECIPES, STUB, Project, plant_levels

pytestmark = pytest.mark.usefixtures("canned")

ONE = ("benchmarks", "-m", "cpu and not mtp and c1")
STEADY = {"output_tput_per_gpu": 10.0, "tpot_p50": 0.01, "ttft_p50": 0.25}


def _checkout(project: Project, recipes: str) -> str:
    folder = project.pytester.mkdir("other")
    (folder / "recipes.yaml").write_text(recipes)
    return f"--gpubench-against-checkout={folder}"


def _record(project: Project, label: str, folder: str = "32x4-c1") -> dict[str, Any]:
    (path,) = (project.pytester.path / "results").rglob(f"{folder}/{label}.json")
    record: dict[str, Any] = json.loads(path.read_text())
    return record


@pytest.mark.slow
def test_engine_b_is_that_of_the_recipes_there_and_starts_there(project: Project) -> None:
    """Its command is a script that only the other checkout has, named from there."""
    plain = "tiny-bf16-cpu-vllm: {extends: base}"
    edited = RECIPES.replace("block-size: 128", "block-size: 64")
    assert plain in edited
    there = edited.replace(plain, "tiny-bf16-cpu-vllm: {extends: base, command: [./engine.sh]}")
    option = _checkout(project, there)
    script = project.pytester.path / "other" / "engine.sh"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} {STUB} serve "$@"\n')
    script.chmod(0o755)
    plant_levels(project, {"a": STEADY, "b": STEADY | {"tpot_p50": 0.02}})
    result = project.run(*ONE, option, "--gpubench-launches=2")
    assert result.ret == 1, result.stdout.str()
    result.stdout.fnmatch_lines(
        [
            "*tpot_p50 rose by * against the first engine*5% allowed*",
            f"*note: engine B is the recipes in {project.pytester.path}/other (command ./engine.sh "
            "instead of *; --block-size 64 instead of 128*",
            "(a) is the engine of the recipes, (b) the one of --gpubench-against-checkout: *other",
        ]
    )
    first, second = _record(project, "a1", "init"), _record(project, "b1", "init")
    assert first["argv"][first["argv"].index("--block-size") + 1] == "128"
    assert second["argv"][0] == "./engine.sh"
    assert second["argv"][second["argv"].index("--block-size") + 1] == "64"


def test_a_case_without_a_counterpart_is_not_compared(project: Project) -> None:
    """Nothing is started for it, of neither engine."""
    option = _checkout(project, RECIPES.replace("prompts-per-conc: 2", "prompts-per-conc: 3"))
    result = project.run(*ONE, option)
    assert result.ret == 1, result.stdout.str()
    result.stdout.fnmatch_lines(
        [
            "*tiny-bf16-cpu-vllm-tp1:32x4-c1 cannot be compared with the recipes in *other: it "
            "asks for other work: num_prompts: 2 before, 3 now*no-counterpart, recipe*",
        ]
    )
    for label in ("a1", "b1"):
        assert _record(project, label)["failure"]["cause"] == "no-counterpart"
    assert not list((project.pytester.path / "results").rglob("*.log"))


@pytest.mark.parametrize(
    ("recipes", "options", "words"),
    [
        ("base: 1\n", [], "*--gpubench-against-checkout: *problem*other/recipes.yaml*"),
        (RECIPES, ["--gpubench-against=--x"], "*exclude each other: each says what engine B is*"),
        (RECIPES, ["--gpubench-update-baselines"], "*exclude each other*"),
        (RECIPES, ["--gpubench-base-url=http://127.0.0.1:1"], "*exclude each other*"),
        (
            RECIPES,
            ["--gpubench-recipes=more.yaml"],
            "*--gpubench-against-checkout: */other/more.yaml does not exist, and the recipes of "
            "engine B would be in it; give a checkout that has the same recipe files",
        ),
        (
            RECIPES,
            ["--gpubench-against-checkout=nowhere"],
            "*nowhere is no folder; give the folder of another checkout in which pytest would be "
            "started",
        ),
    ],
)
def test_wrong_checkouts_are_usage_errors(
    project: Project, recipes: str, options: list[str], words: str
) -> None:
    (project.pytester.path / "more.yaml").write_text(RECIPES)
    result = project.inside("benchmarks", _checkout(project, recipes), *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([words])
    assert "Traceback" not in result.stderr.str()


def test_engine_a_can_be_another_than_that_of_the_recipes(project: Project) -> None:
    plant_levels(project, {"a": STEADY, "b": STEADY})
    options = ("--gpubench-first-engine=--block-size 64", "--gpubench-against=--block-size 32")
    result = project.run(*ONE, *options)
    assert result.ret in (0, 10), result.stdout.str()
    result.stdout.fnmatch_lines(
        [
            "(a) is the one of --gpubench-first-engine: --block-size 64, (b) the one of "
            "--gpubench-against: --block-size 32"
        ]
    )
    first, second = _record(project, "a1"), _record(project, "b1")
    assert first["against"] == {
        "option": "--block-size 64",
        "differences": ["--block-size 64 instead of 128"],
    }
    assert second["against"]["differences"] == ["--block-size 32 instead of 64"]


@pytest.mark.slow
def test_only_the_named_metric_is_gated(project: Project) -> None:
    """Another one is twice as slow; a metric that the recipe does not gate has its usual
    tolerance."""
    plant_levels(project, {"a": STEADY, "b": STEADY | {"tpot_p50": 0.02}})
    options = ("--gpubench-against=--block-size 64", "--gpubench-launches=2")
    only = ("--gpubench-gate-only=output_tput_per_gpu", "--gpubench-gate-only=request_tput")
    result = project.run(*ONE, *options, *only)
    assert result.ret in (0, 10), result.stdout.str()
    judged = {one["metric"] for one in _record(project, "a4")["verdict"]["metrics"]}
    assert judged == {"output_tput_per_gpu", "request_tput"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--gpubench-gate-only=tpot_p5"], "*'tpot_p5' is no metric that can be gated; did you*"),
        (["--gpubench-gate-only=gpu_power"], "*'gpu_power' is no metric that can be gated*"),
        (["--gpubench-first-engine=--x 1"], "*give engine B with --gpubench-against*"),
        (
            ["--gpubench-first-engine=nowhere", "--gpubench-against=--x 1"],
            "*--gpubench-first-engine, read as --gpubench-against: *no executable on PATH*",
        ),
    ],
)
def test_options_that_cannot_be_met_are_usage_errors(
    project: Project, options: list[str], words: str
) -> None:
    result = project.inside("benchmarks", *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([words])
