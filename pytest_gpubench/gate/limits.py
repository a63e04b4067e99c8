"""Limits: floors and ceilings that a recipe declares (``at-least``, ``at-most``). They need no baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pytest_gpubench.domain.frozen import FrozenMap
from pytest_gpubench.domain.metrics import METRICS
from pytest_gpubench.domain.verdicts import Status, Verdict


@dataclass(frozen=True, slots=True)
class Limit:
    """One bound on one metric, in the metric's unit; ``None`` where there is no bound on that side."""

    metric: str
    at_least: float | None = None
    at_most: float | None = None

    @property
    def declared(self) -> bool:
        """Whether there is a bound at all."""
        return self.at_least is not None or self.at_most is not None

    def violation(self, value: float) -> str | None:
        """The sentence that names a broken bound, or None."""
        unit = METRICS[self.metric].unit
        if self.at_least is not None and value < self.at_least:
            return f"{self.metric} is {value:.4g} {unit}, the recipe demands at least {self.at_least:.4g} {unit}"
        if self.at_most is not None and value > self.at_most:
            return f"{self.metric} is {value:.4g} {unit}, the recipe allows at most {self.at_most:.4g} {unit}"
        return None


def limits_of(gates: FrozenMap) -> tuple[Limit, ...]:
    """The absolute limits among a case's gates; relative gates (``5%``) are not limits."""
    limits = []
    for metric, declared in gates.items():
        if isinstance(declared, FrozenMap) and ("at-least" in declared or "at-most" in declared):
            limits.append(Limit(metric, _number(declared.get("at-least")), _number(declared.get("at-most"))))
    return tuple(limits)


def relative_gates(gates: FrozenMap) -> tuple[str, ...]:
    """Metrics that a case wants compared with a baseline."""
    limited = {limit.metric for limit in limits_of(gates)}
    return tuple(metric for metric in gates if metric not in limited)


def judge(gates: FrozenMap, metrics: Mapping[str, float]) -> Verdict:
    """Verdict of one valid measurement against the limits of its case.

    FAIL where a limit is broken, INCONCLUSIVE where a limited metric was not measured, PASS where every declared gate is a limit
    that holds, UNGATED where nothing was declared or where a relative gate has no baseline to compare with.
    """
    limits = limits_of(gates)
    broken = [sentence for limit in limits if limit.metric in metrics and (sentence := limit.violation(metrics[limit.metric]))]
    if broken:
        return Verdict(Status.FAIL, "; ".join(broken))
    absent = [limit.metric for limit in limits if limit.metric not in metrics]
    if absent:
        return Verdict(Status.INCONCLUSIVE, f"{', '.join(absent)} could not be measured in this run", "see the record's flags")
    uncompared = relative_gates(gates)
    if uncompared:
        return Verdict(Status.UNGATED, f"no baseline for {', '.join(uncompared)}")
    if limits:
        return Verdict(Status.PASS, f"{len(limits)} limit{'s' if len(limits) > 1 else ''} held")
    return Verdict(Status.UNGATED, "the recipe declares no gate")


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
