"""The verdict on an evaluation: its limit, the baseline, the other engine of the run, the same
server without a draft. Pure.

The unit is the question. Greedy answers of one engine are nearly the same each time, so that a run
tells of the engine, and only the choice of questions is left to chance.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from scipy.special import ndtri

from pytest_gpubench.gate.baselines import Baseline
from pytest_gpubench.gate.decide import no_baseline, verdict_of
from pytest_gpubench.gate.evidence import LaunchEvidence, LaunchPlan
from pytest_gpubench.gate.waivers import Waive, nothing_waived
from pytest_gpubench.model.evaluation import ACCURACY
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.verdicts import Against, MetricVerdict, Status, Verdict

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


def paired_verdict(lost: int, won: int, asked: int, *, against: Against) -> MetricVerdict:
    """FAIL where the loss is beyond the tolerance without doubt, PASS where it is within."""
    low, high = paired_interval(lost, won, asked)
    loss = (lost - won) / asked
    words = (
        f"{lost} of {asked} questions were right before and are wrong now, {won} the other way "
        f"round: {loss:+.1%} lost (98% interval {low:+.1%} to {high:+.1%}), {TOLERANCE:.1%} allowed"
    )
    if low > TOLERANCE:
        status, code, remedy = Status.FAIL, "less-accurate", "look at the answers in the record"
    elif high <= TOLERANCE:
        status, code, remedy = Status.PASS, "as-accurate", ""
    else:
        status, code = Status.INCONCLUSIVE, "too-few-questions"
        remedy = "more questions would settle it (limit: in the eval)"
    return MetricVerdict(
        ACCURACY, status, code, words, remedy, against, tolerance=TOLERANCE, improved=high < 0
    )


def _against_limit(status: Status, code: str, words: str, remedy: str = "") -> MetricVerdict:
    return MetricVerdict(ACCURACY, status, code, words, remedy, against="limit")


@dataclass(frozen=True, slots=True)
class Undrafted:
    """The same questions, asked of the same server without its draft, in the same run."""

    case: str
    common: int
    differing: int
    lost: int
    won: int

    @property
    def note(self) -> str:
        """Greedy answers do not depend on a draft, but for near ties that batches decide."""
        share = self.differing / self.common
        return (
            f"{self.differing} of {self.common} greedy answers ({share:.1%}) differ from those of "
            f"{self.case}: {self.lost} right only there, {self.won} only here"
        )


@dataclass(frozen=True, slots=True)
class AccuracyEvidence:
    """What one launch says."""

    launch: LaunchEvidence
    """With the code of the answers (`decode_answers`)."""
    at_least: float | None = None
    undrafted: Undrafted | None = None
    notes: tuple[str, ...] = field(default=())


def judge_accuracy(
    own: AccuracyEvidence,
    baseline: Baseline | None = None,
    key: FrozenMap | None = None,
    *,
    require_baseline: bool = False,
    waive: Waive = nothing_waived,
) -> Verdict:
    """The verdict on one engine's answers."""
    launch = own.launch
    if launch.invalid:
        return _verdict([], own)
    results = _own_results(own)
    notes: tuple[str, ...] = ()
    before = _newest(baseline, key)
    if before:
        results.append(_paired(before, launch.answers, "baseline"))
    else:
        mismatch = baseline.mismatch(key) if baseline and key else ()
        missing = no_baseline(ACCURACY, mismatch, require_baseline)
        if results and not require_baseline:
            notes = (f"{ACCURACY}: {missing.reason}",)
        else:
            results.append(missing)
    return _verdict(waive(results, True), own, notes)


def judge_accuracy_pair(
    first: AccuracyEvidence | None,
    second: AccuracyEvidence | None,
    difference: str = "",
    *,
    waive: Waive = nothing_waived,
) -> Verdict:
    """The verdict on the second engine of a run (arm b) against the first (arm a)."""
    if first is None or second is None:
        words = f"{ACCURACY}: the other engine has not been asked yet"
        return Verdict(Status.INCONCLUSIVE, words, wants_launch=True)
    notes = (difference,) if difference else ()
    if first.launch.invalid or second.launch.invalid:
        bad = second if second.launch.invalid else first
        words = f"{bad.launch.label}: {'; '.join(bad.launch.invalid)}"
        return _verdict([], replace(second, launch=replace(second.launch, invalid=(words,))), notes)
    compared = _paired(first.launch.answers, second.launch.answers, "engine")
    return _verdict(waive([*_own_results(second), compared], True), second, notes)


def _own_results(own: AccuracyEvidence) -> list[MetricVerdict]:
    """What needs no other run: the limit, and the draft where it loses beyond doubt."""
    right = decode_answers(own.launch.answers)[1]
    results = []
    if own.at_least is not None:
        results.append(limit_verdict(sum(right), len(right), own.at_least))
    if own.undrafted is not None:
        beside = own.undrafted
        found = paired_verdict(beside.lost, beside.won, beside.common, against="engine")
        if found.status is Status.FAIL:
            words = f"with the draft, against {beside.case}: {found.reason}"
            remedy = "a draft must not change what the model answers: report it to the engine"
            results.append(
                replace(found, code="draft-changes-answers", reason=words, remedy=remedy)
            )
    return results


def _newest(baseline: Baseline | None, key: FrozenMap | None) -> str:
    """The answers of the newest launch that may be compared, empty where there is none."""
    entries = baseline.comparable(key) if baseline and key else ()
    return next((entry.answers for entry in reversed(entries) if entry.answers), "")


def _paired(before: str, now: str, against: Against) -> MetricVerdict:
    """Question by question."""
    digest, old = decode_answers(before)
    own, new = decode_answers(now)
    if digest != own or len(old) != len(new) or not new:
        words = f"{ACCURACY}: the questions are not those that were asked before"
        remedy = "they come from another data set, or another release of lm-eval"
        if against == "baseline":
            remedy += ": record a new one with --gpubench-update-baselines"
        return MetricVerdict(
            ACCURACY, Status.INCONCLUSIVE, "other-questions", words, remedy, against
        )
    pairs = list(zip(old, new, strict=True))
    lost, won = (sum(pair == way for pair in pairs) for way in ((True, False), (False, True)))
    found = paired_verdict(lost, won, len(pairs), against=against)
    if lost or found.status is not Status.INCONCLUSIVE:
        return found
    # A few hundred equal answers do not bound what other questions would tell; but nothing that
    # was asked speaks against this engine, and more of the same must not be demanded of it.
    words = f"of {len(pairs)} questions none that was right before is wrong now"
    return replace(found, status=Status.PASS, code="none-lost", reason=words, remedy="")


def decode_answers(code: str) -> tuple[str, tuple[bool, ...]]:
    """Digest of the questions and whether each was answered right, from `encode_answers` of the
    evaluation; without questions where the text is none of ours."""
    try:
        digest, count, text = code.split(":")
        raw, number = base64.b64decode(text, validate=True), int(count)
        if len(raw) != (number + 7) // 8:
            return "", ()
        return digest, tuple(bool(raw[index // 8] >> index % 8 & 1) for index in range(number))
    except (ValueError, binascii.Error):
        return "", ()


def _verdict(
    results: Sequence[MetricVerdict], own: AccuracyEvidence, notes: Sequence[str] = ()
) -> Verdict:
    told = [own.undrafted.note] if own.undrafted else []
    valid = 0 if own.launch.invalid else 1
    said = [*notes, *own.notes, *told]
    return verdict_of(list(results), [own.launch], valid, LaunchPlan(), said)
