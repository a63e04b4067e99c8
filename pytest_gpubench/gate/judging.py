"""From launches and a policy to the verdict of a case: against its baseline, or against the other engine of the same run. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_gpubench.domain.frozen import FrozenMap
from pytest_gpubench.domain.verdicts import MetricVerdict, Status, Verdict
from pytest_gpubench.gate import comparing, prose
from pytest_gpubench.gate.baseline_key import differences
from pytest_gpubench.gate.baselines import Baseline, History
from pytest_gpubench.gate.evidence import LaunchEvidence
from pytest_gpubench.gate.golden import GOLDEN_DATASET
from pytest_gpubench.gate.policy import MetricPolicy

_CHANGES_SHOWN = 6


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """Launches (in an ABBA run: pairs of launches) that were planned before the first one ran."""

    certain: int = 1
    reserve: int = 0

    @property
    def total(self) -> int:
        return self.certain + self.reserve


def judge(
    policies: Sequence[MetricPolicy],
    launches: Sequence[LaunchEvidence],
    baseline: Baseline | None = None,
    key: FrozenMap | None = None,
    plan: LaunchPlan | None = None,
    *,
    axis: FrozenMap | None = None,
    require_baseline: bool = False,
) -> Verdict:
    """The verdict of a case on all its launches so far.

    Args:
        policies: from ``policy.policies``.
        launches: in the order in which they ran.
        baseline: as read from its file; None where there is none.
        key: of this run; what the baseline must have to be comparable.
        plan: the launches of this case; one certain launch if not given.
        axis: of this run, to name what changed since the baseline.
        require_baseline: whether the lack of a comparable baseline fails.
    """
    plan = plan or LaunchPlan()
    valid = [launch for launch in launches if not launch.invalid]
    notes = [f"{launch.label} does not count: {reason}" for launch in launches for reason in launch.invalid]
    results = _limits(policies, valid)
    mismatch = baseline.mismatch(key) if baseline and key else ()
    compared = [policy for policy in policies if policy.tolerance is not None]
    missing: list[MetricVerdict] = []
    for policy in compared:
        refusal = _not_gateable(policy, valid)
        if refusal is not None:
            results += [refusal] if policy.declared else []
            notes += [] if policy.declared else [refusal.reason] if refusal.code != "not-measured" else []
            continue
        history = baseline.history(key, policy.metric) if baseline and key else History()
        if not history.window:
            missing.append(_no_baseline(policy.metric, mismatch, require_baseline))
            continue
        values = [launch.metrics[policy.metric] for launch in valid]
        results.append(comparing.with_baseline(policy, values, history, plan.total))
        notes += _baseline_notes(policy.metric, history)
        if results[-1].status is not Status.PASS or results[-1].improved:
            notes += _changes(history, axis)
    golden, golden_notes = _golden(policies, valid)
    undeclared = not any(policy.declared for policy in compared)
    if undeclared and (results or golden) and not require_baseline:
        notes += list(dict.fromkeys(one.reason for one in missing))
        missing = []
    return _verdict([*results, *golden, *missing], launches, len(valid), plan, list(dict.fromkeys([*golden_notes, *notes])))


def judge_pair(
    policies: Sequence[MetricPolicy],
    first: Sequence[LaunchEvidence],
    second: Sequence[LaunchEvidence],
    plan: LaunchPlan | None = None,
) -> Verdict:
    """The verdict on the second engine (arm b) against the first (arm a), by pairs of launches with the same index.

    Args:
        first: launches of arm a so far, by index.
        second: launches of arm b so far, by index. The shorter side decides how many pairs there are.
        plan: in pairs; two pairs make one ABBA block.
    """
    plan = plan or LaunchPlan(2)
    whole = list(zip(first, second, strict=False))
    pairs = [(a, b) for a, b in whole if not a.invalid and not b.invalid]
    notes = [f"{launch.label} does not count: {reason}" for launch in (*first, *second) for reason in launch.invalid]
    results = _limits(policies, [launch for launch in second if not launch.invalid])
    for policy in policies:
        if policy.tolerance is None:
            continue
        refusal = _not_gateable(policy, [launch for pair in pairs for launch in pair])
        if refusal is not None:
            results += [refusal] if policy.declared else []
            continue
        if len(pairs) >= 2:
            values = [(a.metrics[policy.metric], b.metrics[policy.metric]) for a, b in pairs]
            results.append(comparing.with_engine(policy, values, plan.total))
        elif pairs:
            reason = f"{policy.metric}: one pair of launches does not show its own spread"
            results.append(MetricVerdict(policy.metric, Status.INCONCLUSIVE, "few-launches", reason, against="engine"))
    return _verdict(results, [*first, *second], len(pairs), plan, notes, done=len(whole))


def _verdict(
    results: list[MetricVerdict],
    launches: Sequence[LaunchEvidence],
    valid: int,
    plan: LaunchPlan,
    notes: list[str],
    done: int | None = None,
) -> Verdict:
    done = len(launches) if done is None else done
    left = plan.total - done
    if launches and not valid and not results:
        reason = launches[-1].invalid[0] if launches[-1].invalid else "no launch counts"
        return Verdict(
            Status.INVALID, reason, "remove the cause and measure again", notes=tuple(notes), wants_launch=left > 0, section=reason
        )
    if not results:
        return Verdict(Status.UNGATED, "nothing is gated in this case", notes=tuple(notes))
    status = min((one.status for one in results), key=list(Status).index)
    leading = [one for one in results if one.status is status]
    improved = [one for one in results if one.improved]
    if status is Status.PASS:
        reason = "; ".join(one.reason for one in improved) if improved else _held(results)
    else:
        reason = "; ".join(dict.fromkeys(one.reason for one in leading))
    remedy = next((one.remedy for one in (*leading, *improved) if one.remedy), "")
    open_ = any(one.status is Status.INCONCLUSIVE and one.code in _MORE_LAUNCHES_HELP for one in results)
    wants = left > 0 and status is not Status.FAIL and (open_ or done < plan.certain)
    headline = f"{status.value}: {prose.count(valid, 'launch')} judged" + (f", {left} more in the plan" if wants else "")
    return Verdict(status, reason, remedy, tuple(results), tuple(notes), wants, prose.section(headline, results, notes))


_MORE_LAUNCHES_HELP = frozenset({"straddles", "unconfirmed", "few-launches"})


def _held(results: list[MetricVerdict]) -> str:
    limits = sum(one.against in ("limit",) for one in results)
    compared = [one for one in results if one.against != "limit"]
    parts = []
    if compared:
        parts.append(f"{', '.join(one.metric for one in compared)} within tolerance")
    if limits:
        parts.append(f"{limits} limit{'s' if limits > 1 else ''} held")
    return "; ".join(parts)


def _limits(policies: Sequence[MetricPolicy], launches: Sequence[LaunchEvidence]) -> list[MetricVerdict]:
    """Declared bounds hold for every launch: one that breaks them fails, for its own reason."""
    found = []
    for policy in policies:
        if policy.limit is None or not launches:
            continue
        metric = policy.metric
        refusal = _not_gateable(policy, launches)
        if refusal is not None:
            found.append(refusal)
            continue
        broken = [(launch, words) for launch in launches if (words := policy.limit.violation(launch.metrics[metric]))]
        if broken:
            launch, words = broken[0]
            more = f" ({len(broken)} of {len(launches)} launches)" if len(launches) > 1 else ""
            found.append(MetricVerdict(metric, Status.FAIL, "limit-broken", words + more, against="limit"))
        else:
            value = prose.quantity(metric, launches[-1].metrics[metric])
            found.append(
                MetricVerdict(metric, Status.PASS, "limit-held", f"{metric} is {value}, within its limits", against="limit")
            )
    return found


def _golden(policies: Sequence[MetricPolicy], launches: Sequence[LaunchEvidence]) -> tuple[list[MetricVerdict], list[str]]:
    found, notes = [], []
    for policy in policies:
        if policy.golden is None or not launches or _not_gateable(policy, launches) is not None:
            continue
        values = [launch.metrics[policy.metric] for launch in launches]
        mean, share = sum(values) / len(values), policy.golden_tolerance
        words = f"{policy.metric} is {mean:.2f}, golden is {policy.golden:g} ({GOLDEN_DATASET}), tolerance {prose.size(share)}"
        broken = mean < policy.golden * (1 - share)
        code, status = ("below-golden", Status.FAIL) if broken else ("golden-held", Status.PASS)
        remedy = (
            "check draft, revision, chat template and thinking switch: the draft is accepted less than it should be"
            if broken
            else ""
        )
        found.append(MetricVerdict(policy.metric, status, code, words, remedy, "limit"))
        if mean > policy.golden * (1 + share):
            notes.append(f"{words}: it is above, so the text may be easier to predict than it should be")
    return found, notes


def _not_gateable(policy: MetricPolicy, launches: Sequence[LaunchEvidence]) -> MetricVerdict | None:
    """Why a metric of these launches cannot be judged, None if it can."""
    metric = policy.metric
    if policy.refused:
        remedy = "name a text dataset in `client`, or remove the gate" if "random" in policy.refused else "see docs/gates.md"
        return MetricVerdict(metric, Status.INCONCLUSIVE, "not-gateable", f"{metric}: {policy.refused}", remedy)
    few = min((launch.requests for launch in launches), default=0)
    if launches and policy.min_requests > 1 and few < policy.min_requests:
        reason = f"{metric} rests on {few} requests and is gated from {policy.min_requests}"
        return MetricVerdict(metric, Status.INCONCLUSIVE, "few-requests", reason, "raise prompts-per-conc in `client`")
    absent = [launch.label for launch in launches if not _usable(launch, metric)]
    if absent or not launches:
        reason = f"{metric} could not be measured" + (f" on {', '.join(absent)}" if absent else "")
        return MetricVerdict(metric, Status.INCONCLUSIVE, "not-measured", reason, "see the flags of the record")
    return None


def _usable(launch: LaunchEvidence, metric: str) -> bool:
    value = launch.metrics.get(metric)
    return value is not None and math.isfinite(value) and value > 0 and metric not in launch.not_gated


def _no_baseline(metric: str, mismatch: tuple[str, ...], required: bool) -> MetricVerdict:
    status = Status.FAIL if required else Status.UNGATED
    if mismatch:
        reason = f"NOT COMPARABLE with the baseline: {'; '.join(mismatch)}"
        return MetricVerdict(
            metric, status, "not-comparable", reason, "record a baseline of this key with --gpubench-update-baselines"
        )
    reason = "no baseline" if not required else "no baseline, and --gpubench-require-baseline demands one"
    return MetricVerdict(metric, status, "no-baseline", reason, "record one with --gpubench-update-baselines")


def _baseline_notes(metric: str, history: History) -> list[str]:
    if len(history.window) > 1 and history.days < 2:
        return ["the baseline's launches are all of one day, so its spread may look smaller than it is"]
    drift = comparing.drift_of_window(metric, history)
    return [drift] if drift else []


def _changes(history: History, axis: FrozenMap | None) -> list[str]:
    changed = differences(history.axis, axis) if axis is not None and history.axis else ()
    if not changed:
        return []
    more = f"; and {len(changed) - _CHANGES_SHOWN} more" if len(changed) > _CHANGES_SHOWN else ""
    return [f"changed since the newest launch of the baseline: {'; '.join(changed[:_CHANGES_SHOWN])}{more}"]
