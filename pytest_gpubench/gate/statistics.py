"""The gate's statistics: from launches to an interval for the change, on the log scale. Pure,
vectorised over leading axes.

The unit is the launch: the last axis of an array holds one value per launch, the logarithm of a
metric, signed so that more is worse. Leading axes are independent comparisons, which is how the
calibration runs the very functions that judge.

A launch's value is the mean of its rounds (measurements of one case on one server). Two variances
stand behind it: launches differ, and rounds on one launch do; the second shrinks with more rounds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

Array: TypeAlias = NDArray[np.float64]

CONFIDENCE = 0.95
"""Two-sided: each verdict is wrong at most once in forty at the tolerance itself, for one look."""
CHANCE = 0.001
"""Of a verdict on the wrong side of what its tolerance is for, by noise alone: FAIL where nothing
changed, PASS at twice the tolerance. An interval about the tolerance keeps both far below that
while launches spread little; where they spread by more than the tolerance, as on an H100 whose API
server was the bottleneck, it does not, and this second condition decides."""
CHANCE_OF_PAIRS = 0.005
"""The same for pairs, of which a run has few: their spread is so uncertain that at one in a
thousand four pairs could not fail an engine that takes half as long again."""
POWER = 0.95
"""The minimum detectable change is found in this share of runs."""
SPREAD_FLOOR = 0.003
"""No launch spread below 0.3% is believed: a handful of equal numbers is not certainty."""
SESSION = 0.005
"""Standard deviation by which two runs differ beyond their launches (hour, temperature,
neighbours). The launches of one run share it, so more of them do not average it out; a baseline has
too few runs to estimate it."""
MAX_LAUNCHES = 20
"""Longest baseline window."""

# Launch farthest from the mean pulled in to its neighbour, normal launches: expected sum of squares
# in units of the variance, its degrees of freedom (2 E^2 / Var), variance of the mean times n. By
# experiments/gate/constants.py, 4 million draws each.
_PULLED: dict[int, tuple[float, float, float]] = {
    5: (1.922, 2.34, 1.254),
    6: (2.854, 3.28, 1.185),
    7: (3.809, 4.23, 1.144),
    8: (4.775, 5.19, 1.115),
    9: (5.749, 6.16, 1.098),
    10: (6.729, 7.12, 1.083),
    11: (7.709, 8.10, 1.070),
    12: (8.695, 9.10, 1.063),
    13: (9.683, 10.06, 1.055),
    14: (10.674, 11.05, 1.049),
    15: (11.663, 12.05, 1.045),
    16: (12.653, 13.03, 1.042),
    17: (13.644, 14.01, 1.039),
    18: (14.641, 14.99, 1.036),
    19: (15.638, 15.97, 1.032),
    20: (16.632, 16.98, 1.031),
}


@dataclass(frozen=True, slots=True)
class Summary:
    """Location and spread of the launches of one side."""

    mean: Array
    variance_of_mean: float
    """In units of the launch variance: 1/n for a plain mean."""
    variance: Array
    """Of one launch."""
    df: float
    """Degrees of freedom of ``variance``."""


@dataclass(frozen=True, slots=True)
class Rounds:
    """How far apart the rounds of one launch are, on both sides of a comparison together, and over
    how many of them each side's launches are means."""

    variance: Array
    """Of one round about its launch's mean."""
    df: float
    """Degrees of freedom of ``variance``; more than 0."""
    before: float
    """Mean over the old launches of 1 / their rounds."""
    now: float
    """The same of the new launches."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A change on the log scale, positive is worse, with its standard error."""

    change: Array
    error: Array
    df: float
    """Degrees of freedom of ``shown``."""
    spread: Array
    """Standard deviation of one launch of the new side, floored."""
    launches: int
    """Of the new side."""
    before: Array | None = None
    """Variance of the old side's mean; None for pairs, where both sides grow together."""
    session: float = 0.0
    rounds: Rounds | None = None
    """Where the new launches have other numbers of rounds than those that showed their spread."""

    def half_width(self) -> Array:
        """Half of the interval's length."""
        return self._width(0.5 + CONFIDENCE / 2)

    def sure_width(self, looks: int = 1) -> Array:
        """Half of the length of an interval that the true change leaves on one given side in CHANCE
        of the runs, in all looks."""
        chance = CHANCE_OF_PAIRS if self.before is None else CHANCE
        return self._width(1 - chance / looks)

    def with_launches(self, launches: int) -> Estimate:
        """The same change and spread as if so many launches had shown them."""
        new = self.spread**2 / launches
        error = np.sqrt(new + (new if self.before is None else self.before) + self.session**2)
        return replace(self, error=error, df=self.df + launches - self.launches, launches=launches)

    def detectable(self, limit: float, power: float = POWER) -> Array:
        """Worsening (log scale) found beyond the limit with this probability, at this spread."""
        return np.maximum(limit + self.half_width(), self.sure_width()) + self._width(power)

    def _width(self, probability: float) -> Array:
        """A quantile of the error.

        What launches show has few degrees of freedom, what rounds show has many: each variance is
        taken with the quantile of its own, and the sum is the square of the width (as in the method
        of variance estimates recovery: Zou and Donner, Statistics in Medicine 27, 2008). One
        effective number of degrees of freedom would be raised where the launches' spread is small
        by chance, and just there runs without a change would fail.
        """
        by_launches = quantile(probability, self.df)
        if self.rounds is None or self.before is None:
            return by_launches * self.error
        by_rounds = quantile(probability, self.rounds.df)
        more = _of_rounds(self.rounds) / self.launches
        known = self.before + self.session**2
        shown = self.spread**2 - _of_rounds(self.rounds)
        least = np.maximum(self.rounds.variance * self.rounds.now, SPREAD_FLOOR**2)
        return np.sqrt(
            np.maximum(
                by_launches**2 * (shown / self.launches + known) + by_rounds**2 * more,
                by_rounds**2 * (least / self.launches + known),
            )
        )


def quantile(probability: float, df: float) -> float:
    """Quantile of Student's t."""
    return float(stdtrit(df, probability))


def plain_summary(values: Array) -> Summary:
    """Mean and variance, each launch as it is; of one: 0, with no degree of freedom."""
    count = values.shape[-1]
    mean = values.mean(axis=-1)
    squares = ((values - mean[..., None]) ** 2).sum(axis=-1)
    return Summary(mean, 1 / count, squares / max(count - 1, 1), count - 1)


def pulled_summary(values: Array) -> Summary:
    """Mean and variance with the launch farthest from the mean pulled in to its neighbour.

    One odd launch in a baseline then neither moves the mean much nor hides regressions behind a
    huge spread. It is done always, not after a test for outliers, and the variance is corrected for
    it: for normal launches it is right on average, with the fewer degrees of freedom that it costs.

    Raises:
        ValueError: for a number of launches other than 5 to 20.
    """
    count = values.shape[-1]
    if count not in _PULLED:
        raise ValueError(f"a baseline has 5 to {MAX_LAUNCHES} launches, not {count}")
    expected, df, of_mean = _PULLED[count]
    pulled = pull_farthest(values)
    mean = pulled.mean(axis=-1)
    squares = ((pulled - mean[..., None]) ** 2).sum(axis=-1)
    return Summary(mean, of_mean / count, squares / expected, df)


def pull_farthest(values: Array) -> Array:
    """Sorted launches, the one farthest from the mean replaced by its neighbour."""
    ordered = np.sort(values, axis=-1)
    mean = ordered.mean(axis=-1)
    high = ordered[..., -1] - mean > mean - ordered[..., 0]
    pulled = ordered.copy()
    pulled[..., -1] = np.where(high, ordered[..., -2], ordered[..., -1])
    pulled[..., 0] = np.where(high, ordered[..., 0], ordered[..., 1])
    return pulled


def against_baseline(
    baseline: Array,
    candidate: Array,
    *,
    earlier: Array | None = None,
    rounds: Rounds | None = None,
) -> Estimate:
    """Change from a baseline's launches to the launches of one run, as a prediction interval.

    Args:
        baseline: 5 to 20 launches; fewer only with ``earlier``.
        candidate: one or more launches.
        earlier: launches before the baseline's last accepted change, 5 to 20: for the spread, not
            the level.
        rounds: how far rounds on one launch are apart; None: not known, so the launches of both
            sides are taken as equally uncertain.

    Raises:
        ValueError: for a number of launches other than these.
    """
    old = (
        pulled_summary(baseline)
        if earlier is None or baseline.shape[-1] in _PULLED
        else plain_summary(baseline)
    )
    new = plain_summary(candidate)
    shown = new
    if rounds is not None:  # as it would be with the rounds of the old side
        shown = replace(new, variance=new.variance - _of_rounds(rounds))
    sides = [old, shown]
    if earlier is not None:
        sides.append(pulled_summary(earlier))
    spread, df = _pooled(sides)
    return _predicted(new.mean - old.mean, spread, df, old, candidate.shape[-1], rounds)


def foreseen(baseline: Array, launches: int, *, rounds: Rounds | None = None) -> Estimate:
    """What a run of so many launches, of ``rounds.now`` rounds each, would be compared by, before
    it has run: an estimate without change.

    Raises:
        ValueError: for a baseline of other than 5 to 20 launches.
    """
    old = pulled_summary(baseline)
    spread, df = _pooled([old])
    return _predicted(np.zeros_like(old.mean), spread, df, old, launches, rounds)


def _predicted(
    change: Array,
    spread: Array,
    df: float,
    old: Summary,
    launches: int,
    rounds: Rounds | None,
) -> Estimate:
    """The estimate for ``launches`` new launches, which may have more or fewer rounds than those
    that showed ``spread``: their variance is that of launches plus that of rounds by their
    number."""
    shown = spread**2
    now = shown
    if rounds is not None:
        shown = np.maximum(shown, rounds.variance * rounds.before)
        least = np.maximum(rounds.variance * rounds.now, SPREAD_FLOOR**2)
        now = np.maximum(shown + _of_rounds(rounds), least)
    before = shown * old.variance_of_mean
    error = np.sqrt(before + now / launches + SESSION**2)
    return Estimate(change, error, df, np.sqrt(now), launches, before, SESSION, rounds)


def _of_rounds(rounds: Rounds) -> Array:
    """Variance by which a new launch is less certain than an old one, for it has fewer rounds."""
    return rounds.variance * (rounds.now - rounds.before)


def paired(first: Array, second: Array) -> Estimate:
    """Change from the first engine to the second by pairs of neighbouring launches of one run
    (ABBA).

    What a pair shares (hour, temperature, a drift that is linear in time over a block) cancels, so
    there is no session term.

    Raises:
        ValueError: for fewer than two pairs, or sides of different length.
    """
    pairs = second.shape[-1]
    if pairs < 2 or first.shape[-1] != pairs:
        raise ValueError("a paired comparison needs two or more whole pairs")
    differences = plain_summary(second - first)
    spread = np.maximum(np.sqrt(differences.variance / 2), SPREAD_FLOOR)
    return Estimate(differences.mean, spread * np.sqrt(2 / pairs), differences.df, spread, pairs)


def _pooled(sides: list[Summary]) -> tuple[Array, float]:
    df = sum(side.df for side in sides)
    variance = sum((side.variance * side.df for side in sides), np.zeros(())) / df
    return np.sqrt(np.maximum(variance, SPREAD_FLOOR**2)), df


def worse(estimate: Estimate, limit: Any, looks: int = 1) -> NDArray[np.bool_]:
    """Whether the whole interval lies beyond the limit (log scale, positive is worse), and chance
    alone is ruled out.

    ``looks``: how often the run may be judged so.
    """
    chance = (np.asarray(limit) > 0) & (estimate.change <= estimate.sure_width(looks))
    return np.asarray(beyond(estimate, limit) & ~chance)


def inside(estimate: Estimate, limit: Any, looks: int = 1) -> NDArray[np.bool_]:
    """Whether the whole interval lies inside the limit, and twice the limit (no change, if it is an
    improvement) is ruled out.

    ``looks``: how often the run may be judged so.
    """
    surely = estimate.change + estimate.sure_width(looks) < np.maximum(2 * np.asarray(limit), 0.0)
    return np.asarray(within(estimate, limit) & surely)


def beyond(estimate: Estimate, limit: Any) -> NDArray[np.bool_]:
    """Whether the interval lies beyond the limit, whatever the spread."""
    return np.asarray(estimate.change - estimate.half_width() > limit)


def within(estimate: Estimate, limit: Any) -> NDArray[np.bool_]:
    """Whether the interval lies inside the limit, whatever the spread."""
    return np.asarray(estimate.change + estimate.half_width() < limit)
