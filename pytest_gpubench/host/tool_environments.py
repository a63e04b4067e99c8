"""Environments that hold tools of others: one folder for each pinned release, in the user's cache
folder, made by pip or uv."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from pytest_gpubench.host.files import make_private_folder, not_private, write_text
from pytest_gpubench.host.hub.local import user_cache_dir
from pytest_gpubench.model.failures import GpubenchError

PINNED = {"aiperf": "0.13.0"}
"""The release that is installed of each tool: known to work, and read as it writes."""
_MARK = "gpubench-tool.json"
"""Written last: a folder without it was left by an installation that did not end."""
_LOCK_TIMEOUT_S = 1800.0


@dataclass(frozen=True, slots=True)
class ToolEnvironment:
    """Where a tool is, or would be."""

    name: str
    version: str
    folder: Path

    @property
    def python(self) -> Path:
        """The interpreter that the tool is installed in."""
        return self.folder / "bin" / "python"

    @property
    def installed(self) -> bool:
        """Whether an installation ended there, and nothing was taken away since."""
        return (self.folder / _MARK).is_file() and self.python.exists()


def environment_of(name: str) -> ToolEnvironment:
    """The environment of a tool, installed or not.

    Raises:
        GpubenchError: for a tool that is not known.
    """
    if name not in PINNED:
        known = ", ".join(PINNED)
        raise GpubenchError(f"no tool is named {name!r}; known: {known}")
    version = PINNED[name]
    folder = user_cache_dir() / "gpubench" / "tools" / f"{name}-{version}"
    return ToolEnvironment(name, version, folder)


def install_tool(name: str, python: str = "") -> ToolEnvironment:
    """Make the environment of a tool, unless it is there.

    Where packages come from is said to pip or uv as always: by their settings and variables.

    Args:
        python: the interpreter that it is made with; empty: this one.

    Raises:
        GpubenchError: for an unknown tool, or where it cannot be installed; nothing is left then.
    """
    environment = environment_of(name)
    parent = environment.folder.parent
    make_private_folder(parent)
    if wrong := not_private(parent, 0o022):
        raise GpubenchError(f"{wrong}; what is installed there is run: see to that, then try again")
    try:
        with FileLock(parent / f"{name}.lock", timeout=_LOCK_TIMEOUT_S):
            if not environment.installed:
                _make(environment, python or sys.executable)
    except Timeout:
        raise GpubenchError(
            f"another process has been installing {name} for {_LOCK_TIMEOUT_S:.0f} s; end it, "
            "and try again"
        ) from None
    return environment


def _make(environment: ToolEnvironment, python: str) -> None:
    shutil.rmtree(environment.folder, ignore_errors=True)
    wanted = f"{environment.name}=={environment.version}"
    folder, inside = str(environment.folder), str(environment.python)
    uv = shutil.which("uv")
    steps: list[list[str]] = [
        [python, "-m", "venv", folder],
        [inside, "-m", "pip", "install", "--disable-pip-version-check", wanted],
    ]
    if uv is not None:
        steps = [
            [uv, "venv", "--python", python, folder],
            [uv, "pip", "install", "--python", inside, wanted],
        ]
    try:
        for step in steps:
            _run(step, wanted)
        mark = {"name": environment.name, "version": environment.version}
        write_text(
            environment.folder / _MARK, json.dumps(mark) + "\n", what="the mark", remedy="make room"
        )
    except BaseException:
        shutil.rmtree(environment.folder, ignore_errors=True)
        raise


def _run(step: Sequence[str], wanted: str) -> None:
    """One step; what it prints is shown, and its last line is the reason where it fails."""
    without = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    last = ""
    try:
        with subprocess.Popen(
            step,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=without,
        ) as process:
            try:
                for line in process.stdout or ():
                    print(line, end="", file=sys.stderr, flush=True)
                    last = line.strip() or last
            except BaseException:
                process.kill()
                raise
        code = process.returncode
    except OSError as error:
        code, last = 1, str(error)
    if code:
        raise GpubenchError(
            f"{wanted} could not be installed: {last[:500] or f'exit code {code}'}; it needs a "
            "package index that pip reaches (its own settings say where), and a Python that it "
            "supports (--python)"
        )
