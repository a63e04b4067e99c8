"""Verdicts on accuracy: so many of so many questions answered right, against a declared limit or,
question by question, against other answers to the same questions. Pure.

The unit is the question. Greedy answers of one engine are nearly the same each time, so that a run
tells of the engine, and only the choice of questions is left to chance.
"""

from __future__ import annotations

import math

from scipy.special import ndtri

from pytest_gpubench.model.evaluation import ACCURACY
from pytest_gpubench.model.verdicts import Against, MetricVerdict, Status

CHANCE = 0.01
"""Of a verdict on the wrong side of its bound by the choice of questions alone: each end of an
interval is passed so often, so that it holds the truth in 98 of 100 runs."""
_INTERVAL = 1 - 2 * CHANCE
TOLERANCE = 0.01
"""By which accuracy may be below a baseline or another engine, as a share of the questions."""


def interval(right: int, asked: int) -> tuple[float, float]:
    """The exact (Clopper-Pearson) 98% interval of a share.

    Exact, because its promise holds for every number of questions: Wilson's is shorter and passes a
    one-sided bound more often than it says where the share is near one, which is where limits lie.
    """
    from scipy.stats import binomtest  # takes longer than all else that a run imports

    found = binomtest(right, asked).proportion_ci(_INTERVAL, method="exact")
    return float(found.low), float(found.high)


def limit_verdict(right: int, asked: int, at_least: float) -> MetricVerdict:
    """FAIL where the whole interval is below the limit, PASS where it is at or above it."""
    low, high = interval(right, asked)
    words = (
        f"{right} of {asked} questions right, {right / asked:.1%} (98% interval {low:.1%} to "
        f"{high:.1%}), at least {at_least:.1%} demanded"
    )
    if high < at_least:
        return _against_limit(Status.FAIL, "below-limit", words)
    if low >= at_least:
        return _against_limit(Status.PASS, "limit-held", words)
    needed = questions_needed(right / asked, at_least)
    remedy = "no number of questions settles it: the share is the limit itself"
    if needed is not None:
        remedy = f"about {max(needed, asked + 1):,} questions would settle it (limit: in the eval)"
    return _against_limit(Status.INCONCLUSIVE, "too-few-questions", words, remedy)


def questions_needed(share: float, at_least: float) -> int | None:
    """Questions from which the interval about this share would exclude the limit; None where it
    never does.

    The smallest number at which the exact interval does, with the share rounded to whole answers
    against us.
    """
    if math.isclose(share, at_least):
        return None
    few, many = 1, 2
    while not _settled(share, many, at_least):
        if many > 10**9:
            return None
        few, many = many, many * 2
    while many - few > 1:
        middle = (few + many) // 2
        if _settled(share, middle, at_least):
            many = middle
        else:
            few = middle
    return many


def _settled(share: float, asked: int, at_least: float) -> bool:
    from scipy.stats import binom

    if share > at_least:
        right = math.floor(share * asked)
        return bool(binom.sf(right - 1, asked, at_least) <= CHANCE)
    return bool(binom.cdf(math.ceil(share * asked), asked, at_least) <= CHANCE)


def paired_interval(lost: int, won: int, asked: int) -> tuple[float, float]:
    """The 98% interval of how much larger the share of right answers was before.

    Tango's score interval for paired shares (Statistics in Medicine 17, 1998, 891-908): it keeps
    its promise where few answers differ, down to none.

    Args:
        lost: questions that were right before and are wrong now.
        won: the other way round.
        asked: all questions.
    """
    from scipy.optimize import brentq

    z = float(ndtri(1 - CHANCE))

    def beyond(loss: float) -> float:
        return _score(lost, won, asked, loss)

    low = -1.0 if beyond(-1 + 1e-9) < z else brentq(lambda at: beyond(at) - z, -1 + 1e-9, 1 - 1e-9)
    high = 1.0 if beyond(1 - 1e-9) > -z else brentq(lambda at: beyond(at) + z, -1 + 1e-9, 1 - 1e-9)
    return float(low), float(high)


def _score(lost: int, won: int, asked: int, loss: float) -> float:
    """Standardised distance of the observed loss from this one; falls as ``loss`` rises."""
    linear = -lost - won + (2 * asked - lost + won) * loss
    root = math.sqrt(max(0.0, linear**2 - 8 * asked * -won * loss * (1 - loss)))
    differing = (root - linear) / (4 * asked)
    variance = asked * (2 * differing + loss * (1 - loss))
    distance = lost - won - asked * loss
    return distance / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, distance)


def paired_verdict(
    lost: int, won: int, asked: int, *, against: Against, tolerance: float = TOLERANCE
) -> MetricVerdict:
    """FAIL where the loss is beyond the tolerance without doubt, PASS where it is within."""
    low, high = paired_interval(lost, won, asked)
    loss = (lost - won) / asked
    words = (
        f"{lost} of {asked} questions were right before and are wrong now, {won} the other way "
        f"round: {loss:+.1%} lost (98% interval {low:+.1%} to {high:+.1%}), {tolerance:.1%} allowed"
    )
    if low > tolerance:
        status, code, remedy = Status.FAIL, "less-accurate", "look at the answers in the record"
    elif high <= tolerance:
        status, code, remedy = Status.PASS, "as-accurate", ""
    else:
        status, code = Status.INCONCLUSIVE, "too-few-questions"
        remedy = "more questions would settle it (limit: in the eval)"
    return MetricVerdict(
        ACCURACY, status, code, words, remedy, against, tolerance=tolerance, improved=high < 0
    )


def _against_limit(status: Status, code: str, words: str, remedy: str = "") -> MetricVerdict:
    return MetricVerdict(ACCURACY, status, code, words, remedy, against="limit")
