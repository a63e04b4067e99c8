"""Options in two words, plans that are not written, and terminals without UTF-8."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_gpubench.plugin.options import joined
from tests.plugin.conftest import RECIPES


def _takes_value(option: str) -> bool:
    return option != "--gpubench-reuse"


def test_words_are_joined(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text("--gpubench-results\nd\n-k\nx\n")
    words = [
        "a",
        "--gpubench-results",
        "d",
        "--gpubench-reuse",
        "b",
        "--gpubench-plan=p",
        f"@{file}",
        "@nowhere",
        "--gpubench-matrix",
    ]
    assert joined(words, _takes_value) == [
        "a", "--gpubench-results=d", "--gpubench-reuse", "b", "--gpubench-plan=p", "--gpubench-results=d", "-k", "x", "@nowhere",
        "--gpubench-matrix",
    ]  # fmt: skip
    assert joined(["--", "--gpubench-results", "d"], _takes_value) == [
        "--",
        "--gpubench-results",
        "d",
    ]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "benchmarks").mkdir(parents=True)
    (root / "recipes.yaml").write_text(RECIPES)
    (root / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider -p no:benchmark\n")
    (root / "benchmarks" / "test_serving.py").write_text(
        "from pytest_gpubench.suite import test_throughput\n"
    )
    (tmp_path / "elsewhere").mkdir()
    return root


def _run(root: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *words]
    env = os.environ | environment
    return subprocess.run(
        command, cwd=root, env=env, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("option", ["results", "baselines", "cache-dir", "runner"])
def test_a_folder_elsewhere_is_no_path_of_tests(option: str, repository: Path) -> None:
    words = [
        "pytest",
        "benchmarks",
        "--co",
        "-q",
        f"--gpubench-{option}",
        str(repository.parent / "elsewhere"),
    ]
    run = _run(repository, *words)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "benchmarks/test_serving.py::test_throughput[tiny" in run.stdout


def test_also_from_a_file_from_the_environment_and_through_retry(repository: Path) -> None:
    elsewhere = str(repository.parent / "elsewhere")
    (repository / "words.txt").write_text(f"--gpubench-results\n{elsewhere}\n")
    runs = [
        _run(repository, "pytest", "benchmarks", "--co", "-q", "@words.txt"),
        _run(
            repository,
            "pytest",
            "benchmarks",
            "--co",
            "-q",
            PYTEST_ADDOPTS=f"--gpubench-results {elsewhere}",
        ),
        _run(
            repository,
            "pytest_gpubench.cli",
            "retry",
            "--",
            "benchmarks",
            "--co",
            "-q",
            "--gpubench-results",
            elsewhere,
        ),
    ]
    for run in runs:
        assert run.returncode == 0, run.stdout + run.stderr
        assert "benchmarks/test_serving.py::test_throughput[tiny" in run.stdout


def test_no_document_where_other_tests_cannot_be_collected(repository: Path) -> None:
    (repository / "benchmarks" / "test_broken.py").write_text("import nowhere_at_all\n")
    run = _run(
        repository,
        "pytest",
        "benchmarks",
        "--gpubench-plan=plan.json",
        "--gpubench-matrix=matrix.json",
    )
    assert run.returncode == 2
    assert not list(repository.glob("*.json"))


def test_a_plan_in_a_small_character_set_is_json_all_the_same(repository: Path) -> None:
    (repository / "recipes.yaml").write_text(
        RECIPES.replace("block-size: 128", 'block-size: 128, "x": "caf\u00e9"')
    )
    small = {
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONIOENCODING": "ascii",
    }
    run = _run(repository, "pytest_gpubench.cli", "plan", **small)
    assert run.returncode == 0, run.stderr
    assert "caf\\u00e9" in run.stdout


def test_a_conftest_that_breaks_is_the_exit_code_of_the_command(repository: Path) -> None:
    (repository / "conftest.py").write_text("1 / 0\n")
    run = _run(repository, "pytest_gpubench.cli", "plan")
    assert (run.returncode, run.stdout) == (4, "")
    assert "ZeroDivisionError" in run.stderr
