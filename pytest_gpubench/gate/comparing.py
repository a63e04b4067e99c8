"""One metric: its launches against a baseline's, an anchor's, or another engine's."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pytest_gpubench.domain.metrics import METRICS
from pytest_gpubench.domain.verdicts import Against, Change, MetricVerdict, Status
from pytest_gpubench.gate import prose, statistics
from pytest_gpubench.gate.baselines import MIN_LAUNCHES, History
from pytest_gpubench.gate.policy import MetricPolicy
from pytest_gpubench.gate.statistics import MAX_LAUNCHES, Array, Estimate

_VERSUS: dict[Against, str] = {"baseline": "the baseline", "anchor": "the baseline's anchor", "engine": "the first engine"}
_DRIFT_NOTE = 0.5
"""Share of the tolerance from which a window's distance from its anchor is worth a note."""


def with_baseline(policy: MetricPolicy, values: Sequence[float], history: History, planned: int) -> MetricVerdict:
    """The verdict on a metric's launches against a baseline: its window decides, its anchor can only fail it (drift)."""
    if not history.enough:
        have = len(history.window)
        reason = f"{policy.metric}: the baseline has {prose.count(have, 'launch')}, a spread takes {MIN_LAUNCHES}"
        remedy = f"record {MIN_LAUNCHES - have} more with --gpubench-launches={MIN_LAUNCHES - have} --gpubench-update-baselines"
        return MetricVerdict(policy.metric, Status.INCONCLUSIVE, "short-baseline", reason, remedy, tolerance=policy.tolerance)
    recent = _judged(
        policy, _estimate(policy.metric, history.window, values, history.earlier), values, planned, "baseline", history
    )
    if recent.status is Status.FAIL or not history.anchor:
        return recent
    old = _judged(policy, _estimate(policy.metric, history.anchor, values), values, planned, "anchor", history)
    return old if old.status is Status.FAIL else recent


def with_engine(policy: MetricPolicy, pairs: Sequence[tuple[float, float]], planned: int) -> MetricVerdict:
    """The verdict on the second engine by two or more pairs (first, second) of launches."""
    first, second = (_logs(policy.metric, [pair[side] for pair in pairs]) for side in (0, 1))
    values = [pair[1] for pair in pairs]
    return _judged(policy, statistics.paired(first, second), values, planned, "engine", None, [pair[0] for pair in pairs])


def drift_of_window(metric: str, history: History) -> str:
    """A note where the recent half of the window has moved away from the anchor by more than half a percent, worse; empty otherwise."""
    if not history.anchor or len(history.window) < 2 * MIN_LAUNCHES:
        return ""
    recent = _logs(metric, history.window[len(history.window) // 2 :])
    estimate = statistics.against_baseline(_logs(metric, history.anchor), recent)
    if not statistics.worse(estimate, 0.0):
        return ""
    share = _share(metric, float(estimate.change))
    return f"drift: the newest {len(recent)} launches of the baseline are {prose.size(share)} worse in {metric} than its anchor"


def _estimate(metric: str, before: Sequence[float], values: Sequence[float], earlier: Sequence[float] = ()) -> Estimate:
    past = _logs(metric, earlier[-MAX_LAUNCHES:]) if earlier else None
    return statistics.against_baseline(_logs(metric, before[-MAX_LAUNCHES:]), _logs(metric, values), earlier=past)


def _judged(
    policy: MetricPolicy,
    estimate: Estimate,
    values: Sequence[float],
    planned: int,
    against: Against,
    history: History | None,
    others: Sequence[float] = (),
) -> MetricVerdict:
    metric, sign = policy.metric, _sign(policy.metric)
    now = math.exp(float(np.mean(np.log(np.asarray(values)))))
    before = math.exp(math.log(now) - sign * float(estimate.change))
    limit = policy.log_limit(before)
    half = float(estimate.half_width())
    final = estimate.with_launches(max(planned, estimate.launches))
    ends = sorted(_share(metric, float(estimate.change) + side * half) for side in (-1, 1))
    launches_before = len(others) if history is None else len(history.anchor if against == "anchor" else history.window)
    change = Change(
        before, now, _share(metric, float(estimate.change)), ends[0], ends[1], float(estimate.spread), launches_before, len(values),
        abs(_share(metric, final.detectable(limit))),
    )  # fmt: skip
    tolerance = abs(_share(metric, limit)) if math.isfinite(limit) else 1.0
    moved = prose.moved(metric, change, _VERSUS[against])
    allowed = f"{prose.size(tolerance)} allowed"
    if statistics.inside(estimate, limit):
        improved = bool(statistics.inside(estimate, -limit))
        words = f"{moved}, an improvement; {allowed}" if improved else f"{moved}, {allowed}"
        remedy = (
            "check that the workload is unchanged, then refresh the baseline with --gpubench-update-baselines" if improved else ""
        )
        code = "improved" if improved else "held"
        return MetricVerdict(
            metric, Status.PASS, code, words, remedy if against == "baseline" else "", against, change, tolerance, improved
        )
    if statistics.worse(estimate, limit):
        if statistics.confirmed(len(values), planned):
            code = "drifted" if against == "anchor" else "regressed"
            remedy = _remedy_of_fail(against)
            return MetricVerdict(metric, Status.FAIL, code, f"{moved}, {allowed}", remedy, against, change, tolerance)
        remedy = "the next planned launch confirms or refutes it"
        words = f"{moved}, {allowed}: a single launch that is not yet confirmed"
        return MetricVerdict(metric, Status.INCONCLUSIVE, "unconfirmed", words, remedy, against, change, tolerance)
    words = f"{moved}: the interval contains the {prose.size(tolerance)} that are allowed"
    return MetricVerdict(
        metric, Status.INCONCLUSIVE, "straddles", words, _settle(estimate, limit, against), against, change, tolerance
    )


def _remedy_of_fail(against: Against) -> str:
    if against == "engine":
        return "keep the first engine, or find what the second does differently"
    drift = "each step was inside the tolerance, their sum is not; " if against == "anchor" else ""
    return f"{drift}find the cause, or accept it as the new baseline with --gpubench-update-baselines --gpubench-accept-regression"


def _settle(estimate: Estimate, limit: float, against: Against) -> str:
    """What would settle it: the fewest launches whose interval would leave the limit outside, if the estimate stays."""
    distance = abs(float(estimate.change) - limit)
    step = 2 if against == "engine" else 1
    for launches in range(estimate.launches + 1, MAX_LAUNCHES + 1):
        if launches % step == 0 and distance > float(estimate.with_launches(launches).half_width()):
            option = f"--gpubench-launches={launches // step}"
            what = f"{launches} pairs of launches" if against == "engine" else prose.count(launches, "launch")
            return f"a new run of {what} would settle it if the change stays as it is ({option})"
    if against == "engine":
        return "the change lies too near the tolerance for any sensible number of launches; quieten the host, or choose another tolerance"
    return "no number of launches settles this against a baseline; compare the two engines in one run with --gpubench-against"


def _logs(metric: str, values: Sequence[float]) -> Array:
    return _sign(metric) * np.log(np.asarray(values, dtype=np.float64))


def _sign(metric: str) -> int:
    return -1 if METRICS[metric].direction == "higher" else 1


def _share(metric: str, worsening: float) -> float:
    """A worsening on the log scale as the share by which the metric moved."""
    return math.expm1(_sign(metric) * worsening)
