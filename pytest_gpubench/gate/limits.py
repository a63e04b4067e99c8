"""Limits: floors and ceilings that a recipe declares (``at-least``, ``at-most``). They need no baseline."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_gpubench.model.metrics import METRICS


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
