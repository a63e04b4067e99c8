"""One metric: its launches against a baseline's, an anchor's, or another engine's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TypeAlias

import numpy as np

from pytest_gpubench.gate import statistics, wording
from pytest_gpubench.gate.baselines import ANCHOR, MIN_LAUNCHES, History
from pytest_gpubench.gate.evidence import LaunchPlan
from pytest_gpubench.gate.policy import MetricPolicy
from pytest_gpubench.gate.statistics import MAX_LAUNCHES, Array, Estimate, Rounds
from pytest_gpubench.model.metrics import METRICS
from pytest_gpubench.model.verdicts import Against, Change, MetricVerdict, Status

RoundsOfLaunches: TypeAlias = Sequence[tuple[int, float | None]]
"""Of each launch the number of rounds, and the standard deviation of the logarithm between them."""

_VERSUS: dict[Against, str] = {
    "baseline": "the baseline",
    "anchor": "the baseline's anchor",
    "engine": "the first engine",
}


@dataclass(frozen=True, slots=True)
class _Comparison:
    against: Against
    estimate: Estimate
    before: Sequence[float]
    now: Sequence[float]
    plan: LaunchPlan


def with_baseline(
    policy: MetricPolicy,
    values: Sequence[float],
    history: History,
    plan: LaunchPlan,
    rounds: RoundsOfLaunches = (),
) -> MetricVerdict:
    """The verdict on a metric's launches against a baseline: its window decides, its anchor can
    only fail it (drift).

    ``rounds``: of each launch of the run.
    """
    if not history.enough:
        have = len(history.window)
        more = MIN_LAUNCHES - have
        reason = (
            f"{policy.metric}: the baseline has {wording.count(have, 'launch')}, a spread "
            f"takes {MIN_LAUNCHES}"
        )
        remedy = f"record {more} more with --gpubench-launches={more} --gpubench-update-baselines"
        status, code = Status.INCONCLUSIVE, "short-baseline"
        return MetricVerdict(
            policy.metric, status, code, reason, remedy, tolerance=policy.tolerance
        )
    metric, between = policy.metric, rounds_between(history.rounds, rounds)
    estimate = _estimate(metric, history.window, values, history.earlier, between)
    window = _Comparison("baseline", estimate, history.window, values, plan)
    recent = _judged(policy, window)
    if recent.status is Status.FAIL or not history.anchor:
        return recent
    between = rounds_between(history.anchor_rounds, rounds)
    estimate = _estimate(metric, history.anchor, values, rounds=between)
    old = _judged(policy, _Comparison("anchor", estimate, history.anchor, values, plan))
    return old if old.status is Status.FAIL else recent


def with_engine(
    policy: MetricPolicy, pairs: Sequence[tuple[float, float]], plan: LaunchPlan
) -> MetricVerdict:
    """The verdict on the second engine by two or more pairs (first, second) of launches."""
    first, second = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    estimate = statistics.paired(logs(policy.metric, first), logs(policy.metric, second))
    return _judged(policy, _Comparison("engine", estimate, first, second, plan))


def drift_of_window(metric: str, history: History) -> str:
    """A note where the newest launches are worse than the anchor, if only by little; else empty."""
    if not history.anchor or len(history.window) < 2 * ANCHOR:
        return ""
    estimate = _estimate(metric, history.anchor, history.window[-ANCHOR:])
    if not statistics.worse(estimate, 0.0):
        return ""
    share = wording.size(share_of(metric, float(estimate.change)))
    return (
        f"drift: the newest {ANCHOR} launches of the baseline are {share} worse in {metric} "
        "than its anchor"
    )


def rounds_between(before: RoundsOfLaunches, now: RoundsOfLaunches) -> Rounds | None:
    """The spread of rounds, of both sides together; None where no launch had two."""
    known = [(count, noise) for count, noise in (*before, *now) if count > 1 and noise is not None]
    df = sum(count - 1 for count, _ in known)
    if not df or not before:
        return None
    variance = sum((count - 1) * noise**2 for count, noise in known) / df
    old = fmean(1 / count for count, _ in before)
    new = fmean(1 / count for count, _ in now) if now else old
    return Rounds(np.asarray(variance), df, old, new)


def _estimate(
    metric: str,
    before: Sequence[float],
    values: Sequence[float],
    earlier: Sequence[float] = (),
    rounds: Rounds | None = None,
) -> Estimate:
    past = logs(metric, earlier) if len(earlier) >= MIN_LAUNCHES else None
    return statistics.against_baseline(
        logs(metric, before), logs(metric, values), earlier=past, rounds=rounds
    )


def _judged(policy: MetricPolicy, comparison: _Comparison) -> MetricVerdict:
    estimate, against, plan = comparison.estimate, comparison.against, comparison.plan
    change, limit = _change(policy, comparison)
    tolerance = abs(share_of(policy.metric, limit)) if math.isfinite(limit) else 1.0
    moved = wording.moved(policy.metric, change, _VERSUS[against])
    improved = False
    looks = plan.pass_looks(estimate.launches)
    if statistics.inside(estimate, limit, looks):
        improved = bool(statistics.inside(estimate, -limit, looks))
        status, code, words = Status.PASS, "held", f"{moved}, {wording.size(tolerance)} allowed"
        remedy = ""
        if improved:
            code, words = "improved", f"{moved}, an improvement"
            refresh = "then refresh the baseline with --gpubench-update-baselines"
            remedy = f"check the workload, {refresh}" if against == "baseline" else ""
    elif statistics.worse(estimate, limit, plan.looks) and estimate.launches >= plan.first_fail:
        status, code = Status.FAIL, "drifted" if against == "anchor" else "regressed"
        words, remedy = f"{moved}, {wording.size(tolerance)} allowed", _remedy_of_fail(against)
    elif statistics.worse(estimate, limit, plan.looks):
        status, code = Status.INCONCLUSIVE, "unconfirmed"
        words = f"{moved}, {wording.size(tolerance)} allowed: not yet confirmed by another launch"
        remedy = "another launch confirms or refutes it"
    elif statistics.beyond(estimate, limit) or statistics.within(estimate, limit):
        status, code = Status.INCONCLUSIVE, "too-noisy"
        inside = bool(statistics.within(estimate, limit))
        what = "twice the tolerance is not ruled out" if inside else "chance alone is not ruled out"
        words = (
            f"{moved}, {wording.size(tolerance)} allowed, but launches spread by "
            f"{wording.size(float(estimate.spread))}: {what}"
        )
        remedy = _settle(estimate, limit, against)
    else:
        status, code = Status.INCONCLUSIVE, "straddles"
        words = f"{moved}: the interval contains the {wording.size(tolerance)} that are allowed"
        remedy = _settle(estimate, limit, against)
    return MetricVerdict(
        policy.metric, status, code, words, remedy, against, change, tolerance, improved
    )


def _change(policy: MetricPolicy, comparison: _Comparison) -> tuple[Change, float]:
    """The change, and the limit on the log scale."""
    metric, estimate = policy.metric, comparison.estimate
    now = math.exp(float(np.mean(np.log(np.asarray(comparison.now)))))
    worsening, half = float(estimate.change), float(estimate.half_width())
    before = now * math.exp(-_sign(metric) * worsening)
    limit = policy.log_limit(before)
    low, high = sorted(share_of(metric, end) for end in (worsening - half, worsening + half))
    final = estimate.with_launches(max(comparison.plan.total, estimate.launches))
    change = Change(
        before=before,
        now=now,
        estimate=share_of(metric, worsening),
        low=low,
        high=high,
        spread=float(estimate.spread),
        launches_before=len(comparison.before),
        launches_now=len(comparison.now),
        detectable=abs(share_of(metric, float(final.detectable(limit))))
        if math.isfinite(limit)
        else 1.0,
    )
    return change, limit


def _remedy_of_fail(against: Against) -> str:
    if against == "engine":
        return "keep the first engine, or find what the second does differently"
    drift = "each step was inside the tolerance, their sum is not; " if against == "anchor" else ""
    return (
        f"{drift}find the cause, or accept it as the new baseline with "
        "--gpubench-update-baselines --gpubench-accept-regression"
    )


def _settle(estimate: Estimate, limit: float, against: Against) -> str:
    """What would settle it: the fewest launches whose interval would leave the limit outside, if
    the change stays as it is."""
    step = 2 if against == "engine" else 1
    for launches in range(estimate.launches + 1, MAX_LAUNCHES + 1):
        then = estimate.with_launches(launches)
        if launches % step == 0 and (
            statistics.worse(then, limit) or statistics.inside(then, limit)
        ):
            what = (
                f"{launches} pairs of launches"
                if against == "engine"
                else wording.count(launches, "launch")
            )
            return (
                f"a new run of {what} would settle it if the change stays as it is "
                f"(--gpubench-launches={launches // step})"
            )
    if against == "engine":
        return (
            "the change lies too near the tolerance for any sensible number of launches; "
            "quieten the host"
        )
    return (
        "no number of launches settles this against a baseline; compare the engines in one "
        "run with --gpubench-against"
    )


def logs(metric: str, values: Sequence[float]) -> Array:
    """Logarithms, signed so that more is worse."""
    return _sign(metric) * np.log(np.asarray(values, dtype=np.float64))


def _sign(metric: str) -> int:
    return -1 if METRICS[metric].direction == "higher" else 1


def share_of(metric: str, worsening: float) -> float:
    """A worsening on the log scale as the share by which the metric moves, with its sign."""
    return math.expm1(_sign(metric) * worsening)
