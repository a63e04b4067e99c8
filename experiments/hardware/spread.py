"""A/A launches: how far apart are launches of the same server, measurements of the same launch, and
moments of one measurement?"""

from __future__ import annotations

import gzip
import json
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from context import Context, cases_of, job_of
from faults import kill_engines
from fleet import Crowd, Job, Outcome, gpus_now, measure, say

from pytest_gpubench.dialects.metrics_page import parse_metrics
from pytest_gpubench.load.protocol import LoadResult, RequestRecord
from pytest_gpubench.measure import definitions
from pytest_gpubench.model.cases import Case, RecipeBook
from pytest_gpubench.model.failures import BenchmarkError
from pytest_gpubench.report.records import plain

LAUNCHES, ROUNDS = 10, 2
_BINS = 50


def _case(context: Context) -> tuple[RecipeBook, Case]:
    book = context.book()
    (case,) = cases_of(book, f"tiny-bf16-{context.hardware}-vllm-mtp-aa")
    return book, case


def jobs(context: Context) -> list[Job]:
    """Launches of the same server on the same GPU."""
    book, case = _case(context)
    return [
        job_of(book, case, context.gpus, f"aa-{number}")
        for number in range(1, (2 if context.few else LAUNCHES) + 1)
    ]


def run(context: Context, crowd: Crowd) -> None:
    """Measure them one by one, all of them forwards, then all of them backwards; in the end two of
    them are killed."""
    _, case = _case(context)
    outcomes = [future.result() for name, future in crowd.items() if name.startswith("aa-")]
    result: dict[str, Any] = {
        "case": case.id,
        "starts": [outcome.told() for outcome in outcomes],
        "measurements": [],
    }
    ready = [outcome for outcome in outcomes if outcome.engine is not None]
    for turn in range(ROUNDS):
        for outcome in ready if turn % 2 == 0 else ready[::-1]:
            try:
                result["measurements"].append(_one(context, outcome, case, turn))
            except BenchmarkError as error:
                result["measurements"].append(
                    {"launch": outcome.job.name, "round": turn, "failure": plain(error.failure)}
                )
            context.write("aa", result)
    result["spread"] = spreads(result["measurements"])
    context.write("aa", result)
    result["killed"] = kill_engines(ready[:2])
    context.write("aa", result)


def _one(context: Context, outcome: Outcome, case: Case, turn: int) -> dict[str, Any]:
    assert outcome.engine is not None  # only ready ones are measured
    uuids = outcome.job.env.get("CUDA_VISIBLE_DEVICES", "").split(",")
    gpus = [gpu for gpu in gpus_now() if gpu.uuid in uuids]
    measurement, result = measure(
        outcome.engine,
        case,
        outcome.job.spec,
        gpus=gpus,
        label=f"{outcome.job.name}-{turn}",
        pages=0.1,
    )
    with gzip.open(context.folder("aa") / f"{outcome.job.name}-{turn}.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(record.to_json()) + "\n" for record in result.records)
    say(f"{outcome.job.name} round {turn}: {measurement.metrics.get('output_tput', 0):,.0f} tok/s")
    return {
        "launch": outcome.job.name,
        "round": turn,
        "metrics": dict(measurement.metrics),
        "problems": list(measurement.problems),
        "invalid": list(measurement.invalid),
        "flags": [flag.code for flag in measurement.flags],
        "validity": dict(measurement.validity),
        "gpus": [dict(gpu) for gpu in measurement.gpus],
        "autocorrelation": autocorrelations(result),
    }


def autocorrelations(result: LoadResult) -> dict[str, float | None]:
    """Correlation of neighbours within a run: of requests in the order of their ends, and of equal
    parts of the time."""
    measured = sorted(result.of_phase("measured"), key=lambda record: record.last_token_ns or 0)
    found: dict[str, float | None] = {}
    for name, definition in (
        ("ttft", definitions.ttft),
        ("tpot", definitions.tpot),
        ("e2e", definitions.e2e),
    ):
        values = [value for record in measured if (value := definition(record)) is not None]
        found[name] = neighbours(values)
    found["output_tput"] = neighbours(_token_counts(measured))
    found["acceptance_length"] = neighbours(_acceptance(result))
    return found


def neighbours(values: Sequence[float]) -> float | None:
    """Lag-one autocorrelation; None where nothing varies."""
    numbers = np.asarray(values, dtype=np.float64)
    if len(numbers) < 8 or not np.ptp(numbers):
        return None
    centred = numbers - numbers.mean()
    return float((centred[1:] * centred[:-1]).sum() / (centred**2).sum())


def _token_counts(records: Sequence[RequestRecord]) -> list[float]:
    start, end = (
        min(record.due_ns for record in records),
        max(record.last_token_ns or 0 for record in records),
    )
    counts = np.zeros(_BINS)
    for record in records:
        before = 0
        for at, total in zip(record.chunk_ns, record.chunk_tokens, strict=False):
            counts[min(_BINS - 1, int((at - start) / max(1, end - start) * _BINS))] += (
                total - before
            )
            before = total
    # Filling and emptying are no noise.
    return [float(count) for count in counts[2:-3]]


def _acceptance(result: LoadResult) -> list[float]:
    lengths: list[float] = []
    before: tuple[float, float] | None = None
    for _, page in result.pages:
        scrape = parse_metrics(page)
        drafts = scrape.total("vllm:spec_decode_num_drafts_total")
        accepted = scrape.total("vllm:spec_decode_num_accepted_tokens_total")
        if drafts is None or accepted is None:
            continue
        if before is not None and drafts > before[0]:
            lengths.append(1 + (accepted - before[1]) / (drafts - before[0]))
        before = (drafts, accepted)
    return lengths


def spreads(measurements: Sequence[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Per metric: mean; standard deviation between launches and between repeats, as parts of the
    mean (one-way analysis of variance); mean autocorrelation."""
    good = [each for each in measurements if each.get("metrics")]
    names = sorted(set.intersection(*(set(each["metrics"]) for each in good))) if good else []
    table: dict[str, dict[str, float | None]] = {}
    for name in names:
        groups: dict[str, list[float]] = {}
        for each in good:
            groups.setdefault(each["launch"], []).append(each["metrics"][name])
        table[name] = _components([values for values in groups.values() if len(values) == ROUNDS])
    for kind in ("ttft", "tpot", "e2e", "output_tput", "acceptance_length"):
        values = [
            value
            for each in good
            if (value := each.get("autocorrelation", {}).get(kind)) is not None
        ]
        for name in names:
            if name.startswith(kind) and values:
                table[name]["autocorrelation"] = statistics.fmean(values)
    return table


def _components(groups: Sequence[Sequence[float]]) -> dict[str, float | None]:
    if len(groups) < 2:
        return {}
    everything = [value for group in groups for value in group]
    mean = statistics.fmean(everything)
    if not mean:
        return {"mean": mean}
    size = len(groups[0])
    within = statistics.fmean(statistics.variance(group) for group in groups)
    between = statistics.variance([statistics.fmean(group) for group in groups]) - within / size
    return {
        "mean": mean,
        "launch_sd": max(0.0, between) ** 0.5 / abs(mean),
        "repeat_sd": within**0.5 / abs(mean),
        "total_sd": statistics.stdev(everything) / abs(mean),
        "range": (max(everything) - min(everything)) / abs(mean),
    }
