"""From launches and a policy to the verdict of a case: against its baseline, against the other
engine of the same run, and on the bounds that a recipe declares (limits, golden acceptance
lengths), which need no baseline. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from pytest_gpubench.gate import metric_tests, wording
from pytest_gpubench.gate.baseline_key import differences
from pytest_gpubench.gate.baselines import Baseline, History
from pytest_gpubench.gate.evidence import LaunchEvidence, LaunchPlan
from pytest_gpubench.gate.policy import GOLDEN_DATASET, MetricPolicy
from pytest_gpubench.gate.waivers import Waive, nothing_waived
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.verdicts import MetricVerdict, Status, Verdict

_CHANGES_SHOWN = 6
_MORE_LAUNCHES_HELP = frozenset({"straddles", "too-noisy", "unconfirmed", "few-launches"})


def judge(
    policies: Sequence[MetricPolicy],
    launches: Sequence[LaunchEvidence],
    baseline: Baseline | None = None,
    key: FrozenMap | None = None,
    plan: LaunchPlan | None = None,
    *,
    axis: FrozenMap | None = None,
    require_baseline: bool = False,
    waive: Waive = nothing_waived,
) -> Verdict:
    """The verdict of a case on all its launches so far.

    Args:
        launches: in the order in which they ran.
        baseline: as read from its file; None where there is none.
        key: of this run; what the baseline must have to be comparable.
        plan: the launches of this case; one certain launch if not given.
        axis: of this run, to name what changed since the baseline.
        require_baseline: whether the lack of a comparable baseline fails.
        waive: what known bugs make of the verdicts on metrics.
    """
    plan = plan or LaunchPlan()
    valid = [launch for launch in launches if not launch.invalid]
    notes = _invalid(launches)
    if not valid:
        return verdict_of([], launches, 0, plan, notes)
    declared = limit_results(policies, valid) + golden_results(policies, valid)
    mismatch = baseline.mismatch(key) if baseline and key else ()
    compared: list[MetricVerdict] = []
    missing: list[tuple[MetricPolicy, MetricVerdict]] = []
    for policy in policies:
        if policy.tolerance is None:
            continue
        refused = refusal(policy, valid)
        if refused is not None:
            compared += [refused] if policy.declared else []
            continue
        history = baseline.history(key, policy.metric) if baseline and key else History()
        if not history.window:
            missing.append((policy, no_baseline(policy.metric, mismatch, require_baseline)))
            continue
        result = metric_tests.with_baseline(
            policy,
            [launch.metrics[policy.metric] for launch in valid],
            history,
            plan,
            [(max(1, len(launch.rounds)), launch.noise(policy.metric)) for launch in valid],
        )
        compared.append(result)
        notes += _baseline_notes(policy.metric, history)
        if result.status is not Status.PASS or result.improved:
            notes += _changes(history, axis)
    # A default that lacks its baseline does not take a PASS away from bounds that the recipe
    # declares; a declared comparison does.
    silent = bool(declared or compared) and not require_baseline
    notes += [
        f"{one.metric}: {one.reason}" for policy, one in missing if silent and not policy.declared
    ]
    compared += [one for policy, one in missing if not silent or policy.declared]
    results = waive(declared + compared, len(launches) >= plan.certain)
    return verdict_of(results, launches, len(valid), plan, list(dict.fromkeys(notes)))


def judge_pair(
    policies: Sequence[MetricPolicy],
    first: Sequence[LaunchEvidence],
    second: Sequence[LaunchEvidence],
    plan: LaunchPlan,
    *,
    difference: str = "",
    waive: Waive = nothing_waived,
) -> Verdict:
    """The verdict on the second engine (arm b) against the first (arm a), by pairs of launches with
    the same index.

    Args:
        first: launches of arm a so far, by index.
        second: launches of arm b so far, by index. The shorter side decides how many pairs there
        are.
        plan: in pairs; two pairs make one ABBA block.
        difference: what the second engine is, in a line; becomes a note.
        waive: what known bugs make of the verdicts on metrics.
    """
    whole = list(zip(first, second, strict=False))
    pairs = [(a, b) for a, b in whole if not a.invalid and not b.invalid]
    notes = ([difference] if difference else []) + _invalid([*first, *second])
    results = limit_results(policies, [b for _, b in pairs]) + golden_results(
        policies, [b for _, b in pairs]
    )
    for policy in policies:
        if policy.tolerance is None:
            continue
        refused = refusal(policy, [launch for pair in pairs for launch in pair])
        if refused is not None and pairs:
            results += [refused] if policy.declared else []
        elif len(pairs) >= 2:
            values = [(a.metrics[policy.metric], b.metrics[policy.metric]) for a, b in pairs]
            results.append(metric_tests.with_engine(policy, values, plan))
        else:
            done = f"{wording.count(len(pairs), 'pair')} of launches so far"
            reason = f"{policy.metric}: {done}, a comparison takes two"
            few = (Status.INCONCLUSIVE, "few-launches", reason)
            results.append(MetricVerdict(policy.metric, *few, against="engine"))
    launches = [launch for pair in whole for launch in pair]
    return verdict_of(
        waive(results, len(whole) >= plan.certain) if pairs or not whole else [],
        launches,
        len(pairs),
        plan,
        notes,
        done=len(whole),
        unit="pair",
    )


def verdict_of(
    results: list[MetricVerdict],
    launches: Sequence[LaunchEvidence],
    valid: int,
    plan: LaunchPlan,
    notes: list[str],
    done: int | None = None,
    unit: str = "launch",
) -> Verdict:
    """The verdict from those on single metrics: the worst of them.

    Args:
        results: on metrics; none of them where no launch is valid.
        valid: how many of them, or of their pairs, count.
        notes: without effect on the status.
        done: how many of the plan are over; as many as there are launches if not given.
    """
    done = len(launches) if done is None else done
    left = max(plan.total - done, 0)
    if not results and launches and not valid:
        reasons = dict.fromkeys(reason for launch in launches for reason in launch.invalid)
        return Verdict(
            Status.INVALID,
            "; ".join(reasons),
            "remove the cause and measure again",
            wants_launch=left > 0,
        )
    if not results:
        return Verdict(Status.UNGATED, "nothing is gated in this case", notes=tuple(notes))
    status = _worst(results)
    leading = [one for one in results if one.status is status]
    improved = [one for one in results if one.improved]
    reasons = dict.fromkeys(one.reason for one in leading)
    reason = _held(results, improved) if status is Status.PASS else "; ".join(reasons)
    remedy = next((one.remedy for one in (*leading, *improved) if one.remedy), "")
    undecided = any(one.code in _MORE_LAUNCHES_HELP for one in results)
    wants = left > 0 and status is not Status.FAIL and (undecided or done < plan.certain)
    planned = f", {left} more planned" if wants else ""
    headline = f"{status.value} on {wording.count(valid, unit)}{planned}"
    text = wording.section(headline, results, notes)
    return Verdict(status, reason, remedy, tuple(results), tuple(notes), wants, text)


def _worst(results: Sequence[MetricVerdict]) -> Status:
    statuses = {one.status for one in results}
    if statuses == {Status.PASS, Status.UNGATED} and not any(one.change for one in results):
        return Status.UNGATED
    return min(statuses, key=list(Status).index)


def _held(results: Sequence[MetricVerdict], improved: Sequence[MetricVerdict]) -> str:
    compared = [one.metric for one in results if one.change and not one.improved]
    limits = sum(one.against == "limit" for one in results)
    parts = [one.reason for one in improved]
    parts += [f"{', '.join(compared)} within tolerance"] if compared else []
    if limits:
        parts.append(f"{wording.count(limits, 'limit')} held")
    return "; ".join(parts)


def _invalid(launches: Sequence[LaunchEvidence]) -> list[str]:
    return [
        f"{launch.label} does not count: {reason}"
        for launch in launches
        for reason in launch.invalid
    ]


def no_baseline(metric: str, mismatch: tuple[str, ...], required: bool) -> MetricVerdict:
    """The verdict without a baseline; ``mismatch``: why one that is there cannot be compared."""
    status, option = Status.FAIL if required else Status.UNGATED, "--gpubench-update-baselines"
    if mismatch:
        reason = f"NOT COMPARABLE with the baseline: {'; '.join(mismatch)}"
        remedy = f"record a new one with {option}"
        return MetricVerdict(metric, status, "not-comparable", reason, remedy)
    reason = "no baseline" + (", and --gpubench-require-baseline demands one" if required else "")
    return MetricVerdict(metric, status, "no-baseline", reason, f"record one with {option}")


def _baseline_notes(metric: str, history: History) -> list[str]:
    if len(history.window) > 1 and history.days < 2:
        return [
            "the baseline's launches are all of one day, so its spread may look smaller than it is"
        ]
    drift = metric_tests.drift_of_window(metric, history)
    return [drift] if drift else []


def _changes(history: History, axis: FrozenMap | None) -> list[str]:
    changed = differences(history.axis, axis) if axis is not None and history.axis else ()
    if not changed:
        return []
    more = f"; and {len(changed) - _CHANGES_SHOWN} more" if len(changed) > _CHANGES_SHOWN else ""
    shown = "; ".join(changed[:_CHANGES_SHOWN])
    return [f"changed since the newest launch of the baseline: {shown}{more}"]


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
    """Verdicts on declared bounds. They hold for every launch: one that breaks them fails."""
    return [
        _limit(policy, launches)
        for policy in policies
        if policy.limit is not None
        and launches
        and not (policy.refused and policy.tolerance is not None)  # the comparison says so
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
    """Verdicts on acceptance lengths that others measured for the draft, by the launches' mean."""
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
    absent = [launch for launch in launches if not launch.has(metric, zero=zero)]
    if not absent:
        return None
    labels = ", ".join(launch.label for launch in absent)
    words = f"{metric} could not be measured on {labels}"
    remedies = (needed for start, needed in _NEEDED.items() if metric.startswith(start))
    remedy = next(remedies, "see the record's flags")
    if all(launch.has(metric, zero=True) for launch in absent):
        words, remedy = f"{metric} is 0 on {labels}", "give it a limit, which judges 0"
    return _inconclusive(metric, "not-measured", words, remedy)


def _inconclusive(metric: str, code: str, reason: str, remedy: str) -> MetricVerdict:
    return MetricVerdict(metric, Status.INCONCLUSIVE, code, reason, remedy)
