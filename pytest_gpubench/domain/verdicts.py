"""Verdicts: what a measurement means for a gate."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Status(str, Enum):
    """The outcome of a gate, worst first."""

    FAIL = "FAIL"
    INVALID = "INVALID"
    INCONCLUSIVE = "INCONCLUSIVE"
    PASS = "PASS"
    UNGATED = "UNGATED"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A status with the sentence that explains it and, where there is one, what to do next."""

    status: Status
    reason: str
    remedy: str = ""
