"""How one engine writes its log: what a reader and a diagnosis need to know of it, one line taken
apart, the values in a line, and what a known cause of its death is. Pure.

The first cause that matches wins; an engine's own come before those that all share
(`shared_causes.py`). Patterns are matched against the root cause only (an exception's last lines,
an argument parser's complaint, a loader's cry), never against the whole log: ordinary lines mention
memory, ports and backends all the time.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pytest_gpubench.dialects.engine_facts import EngineFacts
from pytest_gpubench.model.failures import FailureClass

OUT_OF_MEMORY = (
    r"OutOfMemoryError|CUDA out of memory|HIP out of memory|CUDA error: out of memory"
    r"|CUBLAS_STATUS_ALLOC_FAILED|Cuda failure (?:\d+ )?'out of memory'"
    r"|Triton Error \[\w+\]: out of memory"
)


@dataclass(frozen=True, slots=True)
class Cause:
    """One known cause; ``frames`` must occur in the traceback, and ``log`` in a line before it,
    where they are given. ``retried``: a start that ends so is made once more."""

    name: str
    failure_class: FailureClass
    pattern: re.Pattern[str]
    summary: str
    remedy: str
    frames: re.Pattern[str] | None = None
    log: re.Pattern[str] | None = None
    retried: bool = False


def cause(
    name: str,
    failure_class: FailureClass,
    pattern: str,
    summary: str,
    remedy: str,
    frames: str | None = None,
    log: str | None = None,
    *,
    retried: bool = False,
) -> Cause:
    def compiled(text: str | None) -> re.Pattern[str] | None:
        return re.compile(text) if text else None

    return Cause(
        name,
        failure_class,
        re.compile(pattern),
        summary,
        remedy,
        compiled(frames),
        compiled(log),
        retried,
    )


def refused_by(checks: str) -> Cause:
    """What the engine's own check of its configuration raises: files whose path matches
    ``checks``. Comes last, since what it says may be better known."""
    return cause(
        "invalid-configuration",
        "recipe",
        r"^(?:ValueError|AssertionError|NotImplementedError)\b",
        "The engine rejects what the recipe asks for.",
        "Correct the value that the message names in the recipe.",
        frames=rf'{checks}", line \d+, in \S+(?:\n(?!\s*File ")[^\n]*)*\Z',
    )


GPU_MEMORY_FOREIGN = cause(
    "gpu-memory-foreign",
    "infrastructure",
    rf"(?:{OUT_OF_MEMORY})[\s\S]*Process \d+ has (?:[2-9]|\d{{2,}})(?:\.\d+)? GiB memory"
    r" in use[\s\S]*this process has",
    "The GPU ran out of memory beside another process that has much of it.",
    "Find the process that the message names (nvidia-smi), end it or wait for it.",
)
"""Comes before what an engine says about running out of memory: that is not its fault."""

WRONG_ARGUMENT = cause(
    "wrong-argument",
    "recipe",
    r"error: (?:unrecognized arguments|argument |the following arguments are "
    r"required|ambiguous option)",
    "The engine does not accept an argument of the recipe.",
    "Correct the flag under `serve` (or in extra-args), or require an engine that knows it.",
)
"""As Python's argument parser says it; an engine may want it above other causes."""


CRASHES = (
    r"CUDA error: |CUDA driver error|HIP error: |terminate called after throwing"
    r"|Fatal Python error: |Segmentation fault|Memory access fault by GPU|Bus error"
)
"""What the libraries below every engine say last."""
NEVER: re.Pattern[str] = re.compile(r"(?!)")
"""Matches nothing."""
MAX_LINE = 100_000
"""Characters of one line that are looked at."""
_DIGITS = 15
"""Of a number that is believed."""


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of the log, taken apart; ``level`` and ``time`` are empty where the line has
    none."""

    process: str
    pid: int | None
    level: str
    time: str
    text: str

    heartbeat: bool = False
    """Whether the line says no more than that something is being waited for: no sign of
    progress."""


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
    last_words: re.Pattern[str] = NEVER
    """Lines without a level that say what it dies of, where no traceback does."""
    generic: re.Pattern[str] = NEVER
    """Headlines of tracebacks that only repeat another process's failure."""
    compiled: re.Pattern[str] = NEVER
    """A kernel was compiled while requests were served; group 1 names it."""
    worth_reading: re.Pattern[bytes] = re.compile(rb"Fatal Python error|CUDA error|Traceback")
    """Lines that are still read when a log has grown beyond what is kept."""


_RANK = re.compile(r"\[rank(\d+)\]: ?(?!\[)")


def without_rank(text: str) -> tuple[str, str]:
    """A line that PyTorch wrote for one rank, as (``rank0``, its text); any other is all text."""
    rank = _RANK.match(text)
    return (f"rank{rank[1]}", text[rank.end() :]) if rank else ("", text)


def seconds_of(stamp: str) -> float | None:
    """A line's time in seconds since the year's start, for differences; None for what is no
    time."""
    if not stamp:
        return None
    try:
        # Log lines carry no year; a leap year reads every date.
        moment = dt.datetime.strptime(f"2000-{stamp}", "%Y-%m-%d %H:%M:%S").replace(tzinfo=dt.UTC)
    except ValueError:
        return None
    return moment.timestamp()


def text_of(value: str) -> str | None:
    """A value of the configuration as text; None where it prints None."""
    return None if value == "None" else value.strip("'").removeprefix("torch.")


def number_of(value: str) -> int | None:
    """A count of the configuration; None for everything else."""
    try:
        return count_of(value)
    except ValueError:
        return None


def count_of(text: str) -> int:
    """A count of the log; ValueError for what is none, or beyond all sense: logs come from
    anywhere."""
    digits = text.strip()
    if len(digits) > _DIGITS:
        raise ValueError(f"{len(digits)} digits")
    return int(digits)


def amount_of(text: str) -> float:
    """An amount of the log, in its unit; raises as `count_of` does."""
    value = float(text)
    if not math.isfinite(value) or abs(value) >= 10**_DIGITS:
        raise ValueError("beyond all sense")
    return value


def truth_of(value: str) -> bool | None:
    """A switch of the configuration; None for everything else."""
    return {"True": True, "False": False}.get(value)
