"""Several GPUs: tensor, expert and data parallelism of the shrunken MiniMax-M3, and two servers
side by side under ``-n 2``."""

from __future__ import annotations

import json
from typing import Any

from context import Context, cases_of, job_of
from fleet import Crowd, Job, Outcome, measure, say, stop

from pytest_gpubench.model.cases import Case, RecipeBook
from pytest_gpubench.model.failures import BenchmarkError
from pytest_gpubench.report.records import plain


def _cases(context: Context) -> tuple[RecipeBook, dict[str, list[Case]], Case]:
    """What is measured, by server; and the server whose all-reduce chooses its own way."""
    book = context.book()
    cases: dict[str, list[Case]] = {}
    for precision in ("bf16", "fp8"):
        for case in cases_of(book, f"m3mini-{precision}-{context.hardware}-vllm-mtp-two"):
            cases.setdefault(case.server, []).append(case)
    return book, cases, cases_of(book, f"m3mini-bf16-{context.hardware}-vllm-multicast")[0]


def jobs(context: Context) -> list[Job]:
    """Every topology in both precisions; none where there is one GPU."""
    if len(context.gpus) < 2:
        return []
    book, cases, multicast = _cases(context)
    return [
        job_of(book, case, context.gpus)
        for case in [*(mine[0] for mine in cases.values()), multicast]
    ]


def run(context: Context, crowd: Crowd) -> None:
    """Write what came of the starts, then measure the ready ones one by one."""
    if len(context.gpus) < 2:
        return
    book, cases, multicast = _cases(context)
    doctor = context.doctor(book)
    outcomes = {name: crowd[name].result() for name in [*cases, multicast.server] if name in crowd}
    servers = {
        name: {"findings": plain(doctor.findings(name, here=True)), **outcome.told()}
        for name, outcome in outcomes.items()
    }
    measured: list[dict[str, Any]] = []
    # The short ones of every server first: what is cut off later has shown each topology at least.
    for case in sorted(
        (case for name in outcomes for case in cases.get(name, [])),
        key=lambda case: case.workload.conc,
    ):
        measured.append(_one(context, outcomes[case.server], case))
        context.write("topologies", {"servers": servers, "measured": measured})
    context.write("topologies", {"servers": servers, "measured": measured})
    stop(outcomes.values())


def _one(context: Context, outcome: Outcome, case: Case) -> dict[str, Any]:
    row: dict[str, Any] = {"case": case.id}
    if outcome.engine is None:
        return {**row, "failure": plain(outcome.failure)}
    try:
        measurement, _ = measure(
            outcome.engine, case, outcome.job.spec, gpus=context.gpus[: case.gpus]
        )
    except BenchmarkError as error:
        return {**row, "failure": plain(error.failure)}
    say(f"{case.id}: {measurement.metrics.get('output_tput', 0):,.0f} tok/s {measurement.problems}")
    return {**row, "measurement": measurement.to_json()}


def side_by_side(context: Context, limit: float) -> None:
    """Two servers on disjoint GPUs under ``-n 2``; which GPUs is read from their records."""
    recipe = f"tiny-bf16-{context.hardware}-vllm"
    selection = ("-m", f"tiny and {context.hardware} and bf16", "-k", recipe)
    # pytest-benchmark, where installed, warns of xdist, and warnings are errors here.
    options = ("-p", "no:benchmark", "-n", "2", "--gpubench-exclusive=no")
    done = context.pytest("parallel", *options, *selection, limit=limit)
    seen = []
    for path in sorted((context.folder("parallel") / "records").rglob("*/init/launch-1.json")):
        record = json.loads(path.read_text())
        env = record.get("env") or {}
        seen.append(
            {
                "server": record["server"],
                "visible": env.get("CUDA_VISIBLE_DEVICES"),
                "co_tenancy": record.get("co_tenancy"),
                "finished": record["finished"],
                "failure": record["failure"],
            }
        )
    context.write("parallel", {"run": done, "servers": seen})
