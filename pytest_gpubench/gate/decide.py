"""From launches and a policy to the verdict of a case: against its baseline, or against the other
engine of the same run. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_gpubench.gate import metric_tests, wording
from pytest_gpubench.gate.baseline_key import differences
from pytest_gpubench.gate.baselines import Baseline, History
from pytest_gpubench.gate.bounds import golden_results, limit_results, refusal
from pytest_gpubench.gate.evidence import LaunchEvidence, LaunchPlan
from pytest_gpubench.gate.policy import MetricPolicy
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
        policies: from ``policy.policies``.
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
        launches: all of them.
        valid: how many of them, or of their pairs, count.
        plan: of launches, or pairs.
        notes: without effect on the status.
        done: how many of the plan are over; as many as there are launches if not given.
        unit: of the plan.
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
    """The verdict on a metric that nothing can be compared with; ``mismatch``: why a baseline that
    is there cannot be."""
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
