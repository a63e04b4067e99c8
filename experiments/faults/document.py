"""experiments/faults/README.md: its prose is written by hand, its tables by the scripts."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest
from harness import REPOSITORY

DOCUMENT = REPOSITORY / "experiments" / "faults" / "README.md"


def machine() -> str:
    """Where and when, in one sentence."""
    memory = psutil.virtual_memory().total >> 30
    cpu = next(
        iter(re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())),
        platform.machine(),
    )
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {psutil.cpu_count()} cores of {cpu}, {memory} GiB, load "
        f"average {os.getloadavg()[1]:.1f} "
        f"(shared with other work), Linux {platform.release()}, Python "
        f"{platform.python_version()}, pytest {pytest.__version__}."
    )


def write_section(name: str, lines: Sequence[str]) -> None:
    """Replace what stands between the section's two marks.

    Raises:
        ValueError: if the document lacks the marks.
    """
    text = DOCUMENT.read_text()
    begin, end = f"<!-- {name}: written by the script -->", f"<!-- {name}: end -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"{DOCUMENT} lacks the marks of the section {name}")
    head, tail = text.partition(begin)[0], text.partition(end)[2]
    DOCUMENT.write_text("\n".join([head + begin, *lines, "", end]) + tail)
