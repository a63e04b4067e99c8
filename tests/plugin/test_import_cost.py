"""The plugin costs nothing in a run that has no recipes, and collecting pays for nothing that only
a run needs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path


def test_no_heavy_library_is_imported_without_recipes(tmp_path: Path) -> None:
    (tmp_path / "test_folder.py").write_text(
        """
import sys

def test_light():
    heavy = ("openai", "pydantic", "numpy", "scipy", "huggingface_hub", "yaml", "psutil", "pynvml", "prometheus_client")
    assert [name for name in heavy if name in sys.modules] == []
    assert "pytest_gpubench.plugin" in sys.modules
"""
    )
    run = subprocess.run(
        [
            sys.executable,
            "-X",
            "importtime",
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:benchmark",
            "-p",
            "no:xdist",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert run.returncode == 0, run.stdout
    ours = set(re.findall(r"\| +(pytest_gpubench\S*)", run.stderr))
    assert ours <= {
        "pytest_gpubench",
        "pytest_gpubench._version",
        "pytest_gpubench.model",
        "pytest_gpubench.model.policies",
        "pytest_gpubench.plugin",
        "pytest_gpubench.plugin.items",
        "pytest_gpubench.plugin.session",
        "pytest_gpubench.plugin.fixtures",
        "pytest_gpubench.plugin.options",
    }


def test_nothing_that_only_a_run_needs_is_imported_for_collecting(tmp_path: Path) -> None:
    (tmp_path / "recipes.yaml").write_text(
        """
tiny-bf16-cpu-vllm:
  model: org/tiny
  model-prefix: tiny
  precision: bf16
  framework: vllm
  multinode: false
  runner: cpu
  scenarios: {fixed-seq-len: [{isl: 32, osl: 4, search-space: [{tp: 1, conc-list: [1, 2]}]}]}
  serve: {block-size: 128}
"""
    )
    (tmp_path / "test_serving.py").write_text("from pytest_gpubench.suite import test_throughput")
    (tmp_path / "conftest.py").write_text(
        """
import sys

def pytest_collection_finish(session):
    heavy = ("openai", "numpy", "scipy", "huggingface_hub", "psutil", "pynvml", "prometheus_client", "filelock")
    ours = [f"pytest_gpubench.{room}" for room in ("host", "engines", "doctor", "load", "measure", "gate", "demo")]
    print("imported:", [name for name in (*heavy, *ours) if name in sys.modules])
"""
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "-q",
        "-s",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:benchmark",
        "-p",
        "no:xdist",
    ]
    run = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False
    )
    assert "2 tests collected" in run.stdout, run.stdout
    assert "imported: []" in run.stdout


def test_a_run_pays_for_no_library_that_its_cases_do_not_use() -> None:
    code = """
import sys
import pytest_gpubench.plugin.runner, pytest_gpubench.runs.servers, pytest_gpubench.plugin.session_end
heavy = ("openai", "huggingface_hub", "scipy.optimize", "scipy.stats", "uvloop")
print("imported:", [name for name in heavy if name in sys.modules])
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=False
    )
    assert run.stdout == "imported: []\n", run.stderr
