"""What a known cause is: how an engine's root-cause text looks, who must act, and what to do.

The first that matches wins; an engine's own come before those that all share (`shared_causes.py`).
Patterns are matched against the root cause only (an exception's last lines, an argument parser's
complaint, a loader's cry), never against the whole log: ordinary lines mention memory, ports and
backends all the time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

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
