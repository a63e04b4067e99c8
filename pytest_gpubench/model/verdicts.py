"""Verdicts: what a measurement means for a gate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Against: TypeAlias = Literal["baseline", "anchor", "engine", "limit", "ratio"]
"""What a value was compared with: the baseline's recent launches, its fixed anchor, the other
engine of an ABBA run, a declared bound, or another case of the run."""

WaiverState: TypeAlias = Literal["holds", "expired", "unneeded"]


class Status(str, Enum):
    """The outcome of a gate, worst first."""

    FAIL = "FAIL"
    """Worse than the tolerance, beyond reasonable doubt, or a declared limit is broken; the test
    fails."""
    INVALID = "INVALID"
    """The measurement does not count, the client or a foreign process disturbed it; shown as
    skipped, exit code 10."""
    INCONCLUSIVE = "INCONCLUSIVE"
    """The launches cannot tell, and the reason says what would settle it; shown as skipped, exit
    code 10."""
    WAIVED = "WAIVED"
    """It would be FAIL, and a waiver of the baselines folder names the bug; shown as xfailed."""
    PASS = "PASS"
    """Not worse than the tolerance, beyond reasonable doubt, and every limit held; the test
    passes."""
    UNGATED = "UNGATED"
    """There is nothing to compare with; the test passes, unless a baseline is required."""

    @property
    def undecided(self) -> bool:
        """Whether it leaves the question open."""
        return self in (Status.INVALID, Status.INCONCLUSIVE)

    @property
    def needs_nobody(self) -> bool:
        """Whether nothing is to be done about it now."""
        return self in (Status.WAIVED, Status.PASS, Status.UNGATED)


@dataclass(frozen=True, slots=True)
class Change:
    """How far a metric moved. Shares are of the old value, signed as the metric moved: 0.05 is 5%
    more, whichever way is better."""

    before: float
    """In the metric's unit; geometric mean over launches, outliers pulled in."""
    now: float
    estimate: float
    low: float
    high: float
    """Ends of the 95% interval."""
    spread: float
    """Standard deviation of one launch, as a share."""
    launches_before: int
    launches_now: int
    detectable: float
    """Worsening that would be found in 19 of 20 runs with all planned launches, as a share; an
    unsigned size."""


@dataclass(frozen=True, slots=True)
class WaiverUse:
    """What a waiver of the baselines folder had to say on a metric."""

    place: str
    """``FILE:LINE`` of the waiver."""
    bug: str
    """Address of the bug."""
    until: str
    """Until when it holds, in words."""
    state: WaiverState
    """``holds``: the metric would fail, and is waived. ``expired``: it fails all the same.
    ``unneeded``: nothing that the waiver covers in this case fails any more."""


@dataclass(frozen=True, slots=True)
class MetricVerdict:
    """The verdict on one metric."""

    metric: str
    status: Status
    code: str
    """Stable kebab-case name of the reason: ``regressed``, ``straddles``, ``drifted``,
    ``limit-broken``, ``no-baseline``, ..."""
    reason: str
    """One sentence."""
    remedy: str = ""
    against: Against = "baseline"
    change: Change | None = None
    tolerance: float | None = None
    """Share that the metric may worsen; None for declared bounds."""
    improved: bool = False
    """Better by more than the tolerance, beyond doubt."""
    waiver: WaiverUse | None = None
    """Of the waiver that covers the metric; None where there is none."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A status with the sentence that explains it and, where there is one, what to do next."""

    status: Status
    reason: str
    remedy: str = ""
    metrics: tuple[MetricVerdict, ...] = ()
    notes: tuple[str, ...] = ()
    """Worth knowing, without effect on the status."""
    wants_launch: bool = False
    """The plan has another launch that could still change this verdict."""
    section: str = ""
    """Several lines for the failure report: per metric what was compared, the interval, the
    tolerance, what would settle it."""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Verdict:
        """The verdict of a record or a report, from its plain JSON data."""
        return _adapter().validate_python(data)

    @property
    def pending(self) -> bool:
        """Whether it is open and the plan has another launch for it."""
        return self.wants_launch and self.status.undecided

    @property
    def line(self) -> str:
        """What a table says beside the status: why it is not good, and what got better."""
        improved = [one.reason for one in self.metrics if one.improved]
        if self.status in (Status.PASS, Status.UNGATED):
            return "; ".join(improved)
        why = self.reason + (f"; {self.remedy}" if self.remedy else "")
        return "; ".join([why, *improved]) if self.status is Status.INCONCLUSIVE else why


@cache
def _adapter() -> TypeAdapter[Verdict]:
    from pydantic import TypeAdapter  # it takes as long as all the words

    return TypeAdapter(Verdict)
