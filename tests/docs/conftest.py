"""The generators of the reference live in docs/_ext, which is no package that is installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "docs" / "_ext"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many commands of the documentation were run, and of how many only the words were
    checked."""
    from tests.docs.test_commands import counted

    terminalreporter.write_line(counted())
