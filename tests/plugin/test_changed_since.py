"""``--gpubench-changed-since`` and ``gpubench changelog``, in a git repository."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pytest_gpubench.cli import main
from tests.plugin.conftest import RECIPES, Project, workers

DRAFT = "num-speculative-tokens: 3"


def _git(folder: Path, *words: str) -> None:
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True)


@pytest.fixture
def committed(project: Project) -> Project:
    folder = project.pytester.path
    _git(folder, "init", "-q")
    _git(folder, "add", "recipes.yaml")
    _git(folder, "commit", "-q", "-m", "recipes")
    _git(folder, "tag", "v1")
    return project


def test_only_what_changed_is_selected_and_the_reason_is_printed(committed: Project) -> None:
    committed.recipes(RECIPES.replace(DRAFT, "num-speculative-tokens: 2"))
    result = committed.inside("benchmarks", "--collect-only", "-q", "--gpubench-changed-since=v1")
    assert result.ret == 0
    found = [line for line in result.stdout.lines if "::" in line]
    assert [line.partition("::")[2] for line in found] == [
        "test_engine_init[tiny-bf16-cpu-vllm-mtp-tp1]",
        "test_throughput[tiny-bf16-cpu-vllm-mtp-tp1:32x4-c1]",
    ]
    result.stdout.fnmatch_lines(
        [
            "since v1: tiny-bf16-cpu-vllm-mtp: 1 case changed: "
            "speculative.num-speculative-tokens: 3 -> 2",
            "selected 1 case on 1 server",
        ]
    )


def test_it_adds_to_other_selections(committed: Project) -> None:
    committed.recipes(RECIPES.replace("block-size: 128", "block-size: 64"))
    result = committed.inside(
        "benchmarks", "--collect-only", "-q", "-m", "mtp", "--gpubench-changed-since=v1"
    )
    result.stdout.fnmatch_lines(
        [
            "since v1: *-mtp: 1 case changed: serve.block-size: 128 -> 64",
            "selected 1 case on 1 server",
        ]
    )


def test_without_a_change_nothing_is_selected(committed: Project) -> None:
    result = committed.inside("benchmarks", "--gpubench-changed-since=HEAD")
    assert result.ret == 5
    result.stdout.fnmatch_lines(["since HEAD: no selected case changed"])


def test_a_recipe_file_that_did_not_exist_then_is_all_new(committed: Project) -> None:
    (committed.pytester.path / "more.yaml").write_text(RECIPES)
    words = ("--gpubench-recipes=more.yaml", "--gpubench-changed-since=v1")
    result = committed.inside("benchmarks", "--collect-only", "-q", "-m", "mtp", *words)
    result.stdout.fnmatch_lines(["since v1: tiny-bf16-cpu-vllm-mtp: 1 case new"])


def test_recipes_that_were_broken_then_are_said_to_be_new(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = project.pytester.path
    project.recipes("x: [")
    _git(folder, "init", "-q")
    _git(folder, "add", "recipes.yaml")
    _git(folder, "commit", "-q", "-m", "broken")
    project.recipes(RECIPES)
    result = project.inside(
        "benchmarks", "--collect-only", "-q", "-m", "mtp", "--gpubench-changed-since=HEAD"
    )
    result.stdout.fnmatch_lines(
        [
            "since HEAD: the recipes had 1 problem then; a recipe that could not be "
            "read counts as new",
            "since HEAD: *: 1 case new",
        ]
    )
    capsys.readouterr()
    assert main(["changelog", "HEAD", str(folder / "recipes.yaml")]) == 0
    assert "at HEAD the recipes had 1 problem then" in capsys.readouterr().err


def test_other_tests_stay(committed: Project) -> None:
    committed.pytester.makepyfile(test_other="def test_it(): pass")
    result = committed.inside("--gpubench-changed-since=v1")
    result.assert_outcomes(passed=1, deselected=8)


def test_an_unknown_revision_is_a_sentence(committed: Project) -> None:
    result = committed.inside("benchmarks", "--gpubench-changed-since=v9")
    assert result.ret == 4
    result.stderr.fnmatch_lines(
        ["ERROR: --gpubench-changed-since: v9 is no revision of the repository of *recipes.yaml; *"]
    )
    assert committed.inside("benchmarks", "--gpubench-changed-since=--output=x").ret == 4


def test_outside_git_is_a_sentence(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(project.pytester.path.parent))
    result = project.inside("benchmarks", "--gpubench-changed-since=v1")
    assert result.ret == 4
    result.stderr.fnmatch_lines(
        ["ERROR: --gpubench-changed-since: *recipes.yaml is in no git repository, *"]
    )


def test_under_xdist(committed: Project) -> None:
    committed.recipes(RECIPES.replace(DRAFT, "num-speculative-tokens: 2"))
    result = committed.run(
        "benchmarks", *workers(2), "--gpubench-exclusive=no", "--gpubench-changed-since=v1"
    )
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        ["since v1: tiny-bf16-cpu-vllm-mtp: 1 case changed: *", "selected 1 case on 1 server"]
    )


def test_the_changelog_command(
    committed: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(committed.pytester.path)
    committed.recipes(RECIPES.replace(DRAFT, "num-speculative-tokens: 2"))
    assert main(["changelog", "v1"]) == 0
    assert "    - speculative.num-speculative-tokens: 3 -> 2" in capsys.readouterr().out
    assert main(["changelog", "v9"]) == 4
    assert "v9 is no revision" in capsys.readouterr().err
    assert main(["changelog", "v1", "gone.yaml"]) == 4
    assert "gone.yaml does not exist" in capsys.readouterr().err
    committed.recipes("x: [")
    assert main(["changelog", "v1"]) == 4
    assert "recipes.yaml:" in capsys.readouterr().err


def test_what_a_file_includes_is_of_the_same_revision(committed: Project) -> None:
    folder = committed.pytester.path
    (folder / "families").mkdir()
    (folder / "families" / "tiny.yaml").write_text(RECIPES)
    committed.recipes("include: [families/tiny.yaml]\n")
    _git(folder, "add", "recipes.yaml", "families")
    _git(folder, "commit", "-q", "-m", "families")
    words = ("benchmarks", "--collect-only", "-q")
    result = committed.inside(*words, "--gpubench-changed-since=v1")
    result.stdout.fnmatch_lines(["since v1: no selected case changed"])
    (folder / "families" / "tiny.yaml").write_text(
        RECIPES.replace(DRAFT, "num-speculative-tokens: 2")
    )
    result = committed.inside(*words, "--gpubench-changed-since=HEAD")
    result.stdout.fnmatch_lines(["since HEAD: *-mtp: 1 case changed: *: 3 -> 2"])
