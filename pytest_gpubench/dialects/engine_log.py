"""How one engine writes its log: what a reader and a diagnosis need to know of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pytest_gpubench.dialects.causes import Cause
from pytest_gpubench.dialects.engine_facts import EngineFacts
from pytest_gpubench.dialects.log_lines import LogLine

CRASHES = (
    r"CUDA error: |CUDA driver error|HIP error: |terminate called after throwing"
    r"|Fatal Python error: |Segmentation fault|Memory access fault by GPU|Bus error"
)
"""What the libraries below every engine say last."""
NEVER: re.Pattern[str] = re.compile(r"(?!)")
"""Matches nothing."""


class LogReader(Protocol):
    """Collects facts from lines as they come."""

    def feed(self, raw: str) -> LogLine:
        """Read one line and return it taken apart."""

    def facts(self) -> EngineFacts:
        """What is known so far."""


@dataclass(frozen=True, slots=True)
class EngineLog:
    """One engine's log; patterns are searched in the text of a line, prefix taken off."""

    parse: Callable[[str], LogLine]
    reader: Callable[[], LogReader]
    causes: tuple[Cause, ...]
    """The known causes of its deaths, first match first."""
    fatal: re.Pattern[str]
    """The engine is lost, even if its processes live on."""
    mark: re.Pattern[str] = NEVER
    """A process says that it failed: the traceback that follows is the root, not an echo."""
    died: re.Pattern[str] = NEVER
    """A process has noticed that another one is gone."""
    generic: re.Pattern[str] = NEVER
    """Headlines of tracebacks that only repeat another process's failure."""
    compiled: re.Pattern[str] = NEVER
    """A kernel was compiled while requests were served; group 1 names it."""
    worth_reading: re.Pattern[bytes] = re.compile(rb"Fatal Python error|CUDA error|Traceback")
    """Lines that are still read when a log has grown beyond what is kept."""
