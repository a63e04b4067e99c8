"""`gpubench init` in an empty repository, with the plugin installed from a wheel."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.plugin.conftest import STUB

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the plugin as its wheel unpacks, dependencies left out."""
    wheels = tmp_path_factory.mktemp("wheels")
    site = tmp_path_factory.mktemp("site")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels)],
        cwd=ROOT,
        check=True,
    )
    (wheel,) = wheels.glob("*.whl")
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(site),
        str(wheel),
    ]
    subprocess.run(install, check=True)
    return site


def _run(site: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run(
        [sys.executable, "-P", "-m", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_starter_files_work_as_they_are(wheel_site: Path, tmp_path: Path) -> None:
    made = _run(wheel_site, tmp_path, "pytest_gpubench.cli", "init")
    assert made.returncode == 0, made.stderr
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {
        "recipes.yaml",
        "test_serving.py",
    }
    where = _run(wheel_site, tmp_path, "pytest_gpubench.cli", "--version")
    assert where.stdout.startswith("pytest-gpubench ")

    (tmp_path / "conftest.py").write_text(
        "import pytest_gpubench\n\ndef pytest_report_header():\n    return 'imported "
        "from ' + pytest_gpubench.__file__\n"
    )
    arguments = [
        "benchmarks",
        "-k",
        "tiny and mtp and c4",
        f"--gpubench-vllm-command={sys.executable} {STUB} serve",
    ]
    run = _run(
        wheel_site,
        tmp_path,
        "pytest",
        "-p",
        "no:cacheprovider",
        "--gpubench-cache-dir=hub",
        *arguments,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"imported from {wheel_site}" in run.stdout
    assert "1 passed" in run.stdout
    assert len(list((tmp_path / "results").rglob("launch-1.json"))) == 2


def test_init_keeps_what_exists(wheel_site: Path, tmp_path: Path) -> None:
    (tmp_path / "recipes.yaml").write_text("mine: true\n")
    made = _run(wheel_site, tmp_path, "pytest_gpubench.cli", "init", ".")
    assert made.returncode == 0
    assert "kept recipes.yaml" in made.stdout
    assert (tmp_path / "recipes.yaml").read_text() == "mine: true\n"


def test_init_in_a_folder_that_does_not_exist_is_a_sentence(
    wheel_site: Path, tmp_path: Path
) -> None:
    made = _run(wheel_site, tmp_path, "pytest_gpubench.cli", "init", "nowhere")
    assert made.returncode == 4
    assert made.stderr == "gpubench: nowhere is not a folder; give the root of a repository\n"
