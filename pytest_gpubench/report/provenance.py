"""Where numbers come from: versions of what ran and the commit of the repository it ran in."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pytest_gpubench._version import __version__

_CLIENT_DISTRIBUTIONS = (
    "openai",
    "pytest",
    "pytest-xdist",
    "pydantic",
    "numpy",
    "uvloop",
    "huggingface-hub",
    "nvidia-ml-py",
)


def client_versions() -> dict[str, str]:
    """Versions of the plugin and of what measures with it; what is not installed is left out."""
    versions = {"pytest-gpubench": __version__, "python": sys.version.split()[0]}
    for name in _CLIENT_DISTRIBUTIONS:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def git_state(folder: Path, apart: Path | None = None) -> dict[str, str | bool] | None:
    """Commit of the working tree and whether it has uncommitted changes; None outside git or
    without the git command.

    Changes below ``apart`` do not count: baselines that a run before this one wrote.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    without: list[str] = []
    if apart is not None and apart.is_relative_to(folder):
        without = [":/", f":(exclude){apart.relative_to(folder)}"]
    status = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", *without)
    return {"commit": commit, "dirty": status != ""}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "backslashreplace").strip() if done.returncode == 0 else None
