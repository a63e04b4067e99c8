"""The plugin costs nothing in a run that has no recipes."""

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
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stdout
    ours = set(re.findall(r"\| +(pytest_gpubench\S*)", run.stderr))
    assert ours <= {
        "pytest_gpubench",
        "pytest_gpubench.domain",
        "pytest_gpubench.domain.policies",
        "pytest_gpubench.plugin",
        "pytest_gpubench.plugin.collection",
        "pytest_gpubench.plugin.fixtures",
        "pytest_gpubench.plugin.options",
        "pytest_gpubench.plugin.state",
    }
