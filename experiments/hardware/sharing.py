"""What sharing a server costs and buys: the same points, one server per point, per shape, or for
all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

from context import Context, cases_of, job_of
from fleet import Crowd, Job, Outcome, measure, say
from scipy import special

from pytest_gpubench.host.gpus.inventory import Gpu
from pytest_gpubench.model.cases import Case
from pytest_gpubench.model.failures import BenchmarkError
from pytest_gpubench.model.policies import SharingPolicy
from pytest_gpubench.report.records import plain

POLICIES: tuple[SharingPolicy, ...] = ("point", "shape", "parallelism")
ROUNDS = 3
ALL = "all points"
_METRICS = ("output_tput", "ttft_p50", "tpot_p50", "e2e_p50")


def _places(
    context: Context,
) -> tuple[list[Job], dict[tuple[SharingPolicy, str], tuple[Case, str]]]:
    """The servers of all policies, and where each point is measured: (policy, point) to (case,
    job's name)."""
    recipe = (
        "tiny-bf16-cpu-vllm-sharing"
        if context.hardware == "cpu"
        else f"m3mini-bf16-{context.hardware}-vllm-sharing"
    )
    made: dict[str, Job] = {}
    places: dict[tuple[SharingPolicy, str], tuple[Case, str]] = {}
    for policy in POLICIES:
        book = context.book(policy)
        for case in cases_of(book, recipe):
            name = f"{policy}-{case.server}"
            made.setdefault(name, job_of(book, case, context.gpus, name, first=1))
            places[policy, case.workload.label] = (case, name)
    return list(made.values()), places


def jobs(context: Context) -> list[Job]:
    """The servers of all policies."""
    return _places(context)[0]


def run(context: Context, crowd: Crowd) -> None:
    """Measure every point under every policy, round by round in changing order."""
    todo, places = _places(context)
    outcomes = {job.name: crowd[job.name].result() for job in todo}
    starts = {name: outcome.told() for name, outcome in outcomes.items()}
    result: dict[str, Any] = {"starts": starts, "measurements": []}
    points = sorted({point for _, point in places})
    for turn in range(2 if context.few else ROUNDS):
        for point in points:
            for policy in (*POLICIES[turn % 3 :], *POLICIES[: turn % 3]):
                case, name = places[policy, point]
                result["measurements"].append(
                    _one(context, outcomes[name], case, policy, point, turn)
                )
        result["differences"] = differences(result["measurements"])
        result["wall"] = walls(
            result["measurements"],
            {p: sum(name.startswith(f"{p}-") for name in starts) for p in POLICIES},
        )
        context.write("sharing", result)


def _one(
    context: Context, outcome: Outcome, case: Case, policy: str, point: str, turn: int
) -> dict[str, Any]:
    row: dict[str, Any] = {"policy": policy, "point": point, "round": turn}
    if outcome.engine is None:
        return {**row, "failure": plain(outcome.failure)}
    started = time.monotonic()
    try:
        # The same prompts under every policy.
        measurement, _ = measure(
            outcome.engine,
            case,
            outcome.job.spec,
            gpus=_gpu_of(context, outcome),
            label=f"round-{turn}",
        )
    except BenchmarkError as error:
        return {**row, "failure": plain(error.failure)}
    seconds = time.monotonic() - started
    say(
        f"{policy} {point} round {turn}: "
        f"{measurement.metrics.get('output_tput', 0):,.0f} tok/s in {seconds:.1f} s"
    )
    return {
        **row,
        "seconds": seconds,
        "metrics": dict(measurement.metrics),
        "problems": list(measurement.problems),
    }


def _gpu_of(context: Context, outcome: Outcome) -> list[Gpu]:
    return [
        gpu for gpu in context.gpus if gpu.uuid in outcome.job.env.get("CUDA_VISIBLE_DEVICES", "")
    ]


def differences(measurements: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Shared against one server per point: difference as a part of the latter, with a 95% interval
    over the paired rounds; last of each policy the mean over all points.

    One launch per policy: the interval speaks of repeats, not of launches.
    """
    values = {
        (m["policy"], m["point"], m["round"]): m["metrics"]
        for m in measurements
        if m.get("metrics")
    }
    rows = []
    for policy in POLICIES[1:]:
        for point in [*sorted({point for _, point, _ in values}), ALL]:
            for metric in _METRICS:
                pairs = [
                    (values["point", q, turn][metric], found[metric])
                    for (p, q, turn), found in values.items()
                    if p == policy
                    and point in (q, ALL)
                    and ("point", q, turn) in values
                    and metric in found
                ]
                ratios = [shared / own - 1 for own, shared in pairs if own]
                if len(ratios) > 1:
                    half = _student(len(ratios) - 1) * statistics.stdev(ratios) / len(ratios) ** 0.5
                    mean = statistics.fmean(ratios)
                    rows.append(
                        {
                            "policy": policy,
                            "point": point,
                            "metric": metric,
                            "difference": mean,
                            "half_width": half,
                        }
                    )
    return rows


def _student(freedom: int) -> float:
    """97.5th percentile of Student's t."""
    return float(special.stdtrit(freedom, 0.975))


def walls(
    measurements: Sequence[Mapping[str, Any]], servers: Mapping[str, int]
) -> dict[str, dict[str, float]]:
    """Per policy: servers, and seconds of measuring its points once; a start's seconds are to be
    multiplied by the former."""
    table: dict[str, dict[str, float]] = {}
    for policy in POLICIES:
        mine = [m for m in measurements if m["policy"] == policy and "seconds" in m]
        rounds = max((m["round"] for m in mine), default=0) + 1
        table[policy] = {
            "servers": servers[policy],
            "measuring_s": sum(m["seconds"] for m in mine) / rounds,
        }
    return table
