"""Bounds that a recipe declares (limits, golden acceptance lengths), and metrics that cannot be
judged. No baseline needed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from pytest_gpubench.gate import wording
from pytest_gpubench.gate.evidence import LaunchEvidence
from pytest_gpubench.gate.policy import GOLDEN_DATASET, MetricPolicy
from pytest_gpubench.model.metrics import METRICS
from pytest_gpubench.model.verdicts import MetricVerdict, Status

_NEEDED = {
    "prefix_hit_rate": "turn prefix caching on (and let the engine count its hits), or remove the "
    "gate",
    "session_goodput": "it is of sessions within `slo`: give that in `client`, with a trace of "
    "sessions that come to their end, or remove the gate",
    "session_": "it is of sessions that came to their end: measure a trace of sessions "
    "(`dataset: sessions`), give it more time, or remove the gate",
}
"""What metrics (or those that begin so) are not measured without, where no flag says it."""


def limit_results(
    policies: Sequence[MetricPolicy], launches: Sequence[LaunchEvidence]
) -> list[MetricVerdict]:
    """Verdicts on declared bounds. They hold for every launch: one that breaks them fails, for its
    own reason."""
    return [
        _limit(policy, launches)
        for policy in policies
        if policy.limit is not None and launches and not _refused_twice(policy)
    ]


def _limit(policy: MetricPolicy, launches: Sequence[LaunchEvidence]) -> MetricVerdict:
    metric = policy.metric
    refused = refusal(policy, launches, zero=True)
    if refused is not None:
        return refused
    values = [launch.metrics[metric] for launch in launches]
    broken = [
        words
        for value in values
        if policy.limit is not None and (words := policy.limit.violation(value))
    ]
    if not broken:
        reason = f"{metric} is {wording.quantity(metric, values[-1])}, within its limits"
        return MetricVerdict(metric, Status.PASS, "limit-held", reason, against="limit")
    more = f" ({len(broken)} of {len(launches)} launches)" if len(launches) > 1 else ""
    return MetricVerdict(metric, Status.FAIL, "limit-broken", broken[0] + more, against="limit")


def golden_results(
    policies: Sequence[MetricPolicy], launches: Sequence[LaunchEvidence]
) -> list[MetricVerdict]:
    """Verdicts on acceptance lengths that others measured for the same draft; the mean over
    launches counts."""
    return [
        _golden(policy, policy.golden, launches)
        for policy in policies
        if policy.golden is not None and launches and refusal(policy, launches) is None
    ]


def _golden(
    policy: MetricPolicy, golden: float, launches: Sequence[LaunchEvidence]
) -> MetricVerdict:
    mean = statistics.fmean(launch.metrics[policy.metric] for launch in launches)
    share = policy.golden_tolerance
    words = (
        f"{policy.metric} is {mean:.2f}, golden is {golden:g} ({GOLDEN_DATASET}), "
        f"{wording.size(share)} less allowed"
    )
    if mean < golden * (1 - share):
        remedy = (
            "check draft, revision, chat template and thinking switch: the draft is "
            "accepted less than it should be"
        )
        return MetricVerdict(policy.metric, Status.FAIL, "below-golden", words, remedy, "limit")
    if mean > golden * (1 + share):
        words += "; it is above, so the text may be easier to predict than it should be"
    return MetricVerdict(policy.metric, Status.PASS, "golden-held", words, against="limit")


def refusal(
    policy: MetricPolicy, launches: Sequence[LaunchEvidence], *, zero: bool = False
) -> MetricVerdict | None:
    """Why a metric of these launches cannot be judged, None if it can.

    Args:
        zero: whether 0 is a value where a metric can be that; there is no ratio to it.
    """
    metric = policy.metric
    if policy.refused:
        return _inconclusive(
            metric, "not-gateable", f"{metric}: {policy.refused}", policy.refused_remedy
        )
    few = min((launch.requests for launch in launches), default=0)
    if launches and policy.min_requests > 1 and few < policy.min_requests:
        reason = f"{metric} rests on {few} requests and is gated from {policy.min_requests}"
        return _inconclusive(
            metric, "few-requests", reason, "raise prompts-per-conc in `client`, or remove the gate"
        )
    absent = [launch for launch in launches if not usable(launch, metric, zero=zero)]
    if not absent:
        return None
    labels = ", ".join(launch.label for launch in absent)
    words = f"{metric} could not be measured on {labels}"
    remedies = (needed for start, needed in _NEEDED.items() if metric.startswith(start))
    remedy = next(remedies, "see the record's flags")
    if all(usable(launch, metric, zero=True) for launch in absent):
        words, remedy = f"{metric} is 0 on {labels}", "give it a limit, which judges 0"
    return _inconclusive(metric, "not-measured", words, remedy)


def usable(launch: LaunchEvidence, metric: str, *, zero: bool = False) -> bool:
    """Whether a launch has a value of the metric that may be compared: measured, positive in every
    round, on enough requests.

    Args:
        zero: whether 0 is one, where nothing but a count of nothing makes it.
    """
    zero = zero and METRICS[metric].may_be_zero
    values = [one.get(metric) for one in (launch.metrics, *launch.rounds)]
    known = all(
        value is not None and math.isfinite(value) and (value > 0 or (zero and value == 0))
        for value in values
    )
    return known and metric not in launch.not_gated


def _refused_twice(policy: MetricPolicy) -> bool:
    return bool(policy.refused) and policy.tolerance is not None


def _inconclusive(metric: str, code: str, reason: str, remedy: str) -> MetricVerdict:
    return MetricVerdict(metric, Status.INCONCLUSIVE, code, reason, remedy)
