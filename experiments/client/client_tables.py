"""What the scripts here write into ``experiments/client/README.md``, between marks, and the
sentence about the machine."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path


def replace_part(page: Path, name: str, text: str) -> None:
    """Put a text between the marks of a page."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    old = page.read_text("utf-8")
    if begin not in old or end not in old:
        raise SystemExit(f"{page} has no marks {begin} and {end}")
    page.write_text(
        f"{old.partition(begin)[0]}{begin}\n{text}\n{end}{old.partition(end)[2]}", "utf-8"
    )


def machine_line(*, load: bool = True) -> str:
    """Processor, cores, load average now, system, versions."""
    lines = (
        Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        if Path("/proc/cpuinfo").exists()
        else []
    )
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )
    loaded = f" (load average {os.getloadavg()[0]:.1f})" if load else ""
    return (
        f"{model}, {os.cpu_count()} cores{loaded}; Linux {platform.release()}, Python "
        f"{platform.python_version()}, uvloop {version('uvloop')}, openai {version('openai')}."
    )
