"""Evidence: what one launch says to the gate."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from pytest_gpubench.measure.measurement import Measurement
from pytest_gpubench.model.metrics import METRICS


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """Launches (in an ABBA run: pairs of launches) that were planned before the first one ran."""

    certain: int = 1
    reserve: int = 0

    @property
    def total(self) -> int:
        return self.certain + self.reserve

    @property
    def first_fail(self) -> int:
        """From how many launches on a run may FAIL: all certain ones have run, and one is not
        enough where there is another. A single odd launch cannot be told from a regression; a
        second one can, and costs only where something is about to fail."""
        return max(self.certain, min(2, self.total))

    @property
    def looks(self) -> int:
        """How often a run may be found to have regressed."""
        return self.total - self.first_fail + 1

    def pass_looks(self, launches: int) -> int:
        """By how much the chance of a wrong PASS is divided at the look after so many launches.

        The first look has half of it, for nearly every run without a change ends there; the others
        share the rest.
        """
        others = self.total - self.certain
        if not others:
            return 1
        return 2 if launches <= self.certain else 2 * others


@dataclass(frozen=True, slots=True)
class LaunchEvidence:
    """The metrics of one case (or of one server's start) on one launch."""

    label: str
    """``launch-2``, ``b1``."""
    metrics: Mapping[str, float]
    requests: int = 0
    """Measured requests; tails need many."""
    not_gated: frozenset[str] = frozenset()
    """Metrics that are shown but must not be judged."""
    invalid: tuple[str, ...] = ()
    """Reasons why the launch does not count, one sentence each."""
    answers: str = ""
    """Of an evaluation: which questions were answered right."""
    rounds: tuple[Mapping[str, float], ...] = ()
    """The metrics of each round, where there is more than one; ``metrics`` are their means."""

    def has(self, metric: str, *, zero: bool = False) -> bool:
        """Whether there is a value of the metric that may be compared: measured, positive in every
        round, on enough requests.

        Args:
            zero: whether 0 is one, where nothing but a count of nothing makes it.
        """
        zero = zero and METRICS[metric].may_be_zero
        values = [one.get(metric) for one in (self.metrics, *self.rounds)]
        known = all(
            value is not None and math.isfinite(value) and (value > 0 or (zero and value == 0))
            for value in values
        )
        return known and metric not in self.not_gated

    def noise(self, metric: str) -> float | None:
        """Standard deviation of the logarithm of a metric between the rounds; None where one of
        them lacks it, and for a single round."""
        values = [one.get(metric, 0.0) for one in self.rounds]
        if len(values) < 2 or not all(math.isfinite(value) and value > 0 for value in values):
            return None
        return statistics.stdev(map(math.log, values))


def evidence_of(label: str, measurement: Measurement) -> LaunchEvidence:
    """Evidence from a measurement without problems (one with problems has failed before any
    statistics).

    What ``measure.validity`` found voids the launch: times, clocks, capacity and counts alike.
    """
    return LaunchEvidence(
        label,
        measurement.metrics,
        measurement.totals.requests,
        measurement.not_gated,
        tuple(dict.fromkeys(measurement.invalid)),
        rounds=tuple(measurement.rounds),
    )


def init_evidence(label: str, ready_s: float) -> LaunchEvidence:
    """Evidence of a server's start: seconds from process start to ready."""
    return LaunchEvidence(label, {"engine_init": ready_s})
