"""Several GPUs: tensor, expert and data parallelism of the shrunken MiniMax-M3, and two servers
side by side under ``-n 2``."""

from __future__ import annotations

import json
import subprocess
import time
from typing import Any

from context import Context, cases_of, job_of
from fleet import Crowd, Job, Outcome, measure, say, stop, warm
from recipes import SEVERAL, several_bases

from pytest_gpubench.model.cases import Case, RecipeBook
from pytest_gpubench.model.failures import BenchmarkError
from pytest_gpubench.report.records import plain

_AHEAD_S = 30.0
"""By which the first run is ahead: it holds its leases then, and its servers start."""


def _cases(context: Context) -> tuple[RecipeBook, dict[str, list[Case]], str]:
    """What is measured, by server; and the server whose all-reduce chooses its own way, where there
    is one."""
    book = context.book()
    if context.hardware == "cpu":
        tiny = cases_of(book, "tiny-bf16-cpu-vllm")
        loads = [case for case in tiny if case.evaluation is None]
        return book, {tiny[0].server: loads}, ""
    gpus = max(count for count in SEVERAL if count <= len(context.gpus))
    cases: dict[str, list[Case]] = {}
    for base in several_bases(context.hardware, gpus):
        for case in cases_of(book, f"{base}-on{gpus}"):
            cases.setdefault(case.server, []).append(case)
    multicast = cases_of(book, f"m3mini-bf16-{context.hardware}-vllm-multicast")[0]
    return book, cases, multicast.server


def _enough(context: Context) -> bool:
    return context.hardware == "cpu" or len(context.gpus) >= min(SEVERAL)


def jobs(context: Context) -> list[Job]:
    """Every topology in both precisions; none where there is one GPU."""
    if not _enough(context):
        return []
    book, cases, multicast = _cases(context)
    everyone = {case.server: case for case in book.cases if case.server in (*cases, multicast)}
    return [job_of(book, case, context.gpus) for case in everyone.values()]


def run(context: Context, crowd: Crowd) -> None:
    """Write what came of the starts, then warm the ready ones up and measure them one by one."""
    if not _enough(context):
        return
    book, cases, multicast = _cases(context)
    doctor = context.doctor(book)
    outcomes = {name: crowd[name].result() for name in [*cases, multicast] if name in crowd}
    servers = {
        name: {"findings": plain(doctor.findings(name, here=True)), **outcome.told()}
        for name, outcome in outcomes.items()
    }
    measured: list[dict[str, Any]] = []
    # The short ones of every server first: what is cut off later has shown each topology at least.
    # The first case of each is measured once more at once: a rank that is cold would tell.
    firsts = [cases[name][0] for name in outcomes if name in cases]
    rest = [case for name in outcomes for case in cases.get(name, [])[1:]]
    for case in [*firsts, *sorted(rest, key=lambda case: case.workload.conc)]:
        outcome = outcomes[case.server]
        if case in firsts:
            servers[case.server]["warmup"] = _warm(context, outcome, cases[case.server])
        for label in ("launch-1", "again") if case in firsts else ("launch-1",):
            measured.append(_one(context, outcome, case, label))
            context.write("topologies", {"servers": servers, "measured": measured})
    context.write("topologies", {"servers": servers, "measured": measured})
    stop(outcomes.values())


def _warm(context: Context, outcome: Outcome, cases: list[Case]) -> dict[str, Any]:
    if outcome.engine is None:
        return {}
    folder = context.folder("warm") / outcome.job.name
    gpus = context.gpus[: cases[0].gpus]
    try:
        return warm(outcome.engine, outcome.job.spec, cases, gpus, folder)
    except BenchmarkError as error:
        return {"failure": plain(error.failure)}


def _one(context: Context, outcome: Outcome, case: Case, label: str) -> dict[str, Any]:
    row: dict[str, Any] = {"case": case.id, "label": label}
    if outcome.engine is None:
        return {**row, "failure": plain(outcome.failure)}
    try:
        measurement, _ = measure(
            outcome.engine, case, outcome.job.spec, gpus=context.gpus[: case.gpus], label=label
        )
    except BenchmarkError as error:
        return {**row, "failure": plain(error.failure)}
    tput = measurement.metrics.get("output_tput", 0)
    say(f"{case.id} {label}: {tput:,.0f} tok/s {measurement.problems}")
    return {**row, "measurement": measurement.to_json()}


def real(context: Context) -> None:
    """MiniMax-M3's own recipes on eight GPUs, the model alone replaced: through the plugin, one
    server after another."""
    if len(context.gpus) < 8:
        return
    selection = f"m3mini and fp8 and {context.hardware} and real"
    context.write("real", context.pytest("real", "-k", selection, limit=900.0))


def side_by_side(context: Context, limit: float) -> None:
    """Servers on disjoint GPUs by several workers, and a second run on the host that needs all GPUs
    and has to wait for theirs; which GPUs, from when to when, is read from the records.

    Of two GPUs two servers have one each; of four, two have one and one has two; of eight, another
    has four.
    """
    count = len(context.gpus)
    sizes = [size for size in SEVERAL if size < count]
    larger = "".join(f" or (mtp and tp{size})" for size in sizes)
    shortest = f"m3mini and bf16 and {context.hardware} and c1 and not (c16 or c128)"
    selection, all_gpus = f"{shortest} and (tp1{larger})", f"{shortest} and mtp and tp{count}"
    if context.hardware == "cpu":
        selection = all_gpus = "tiny and cpu and vllm and c1 and not ngram"
    # pytest-benchmark, where installed, warns of xdist, and warnings are errors here.
    plain_run = ("-p", "no:benchmark", "--gpubench-exclusive=no")
    began = time.monotonic()
    first = context.pytest_process(
        "parallel", *plain_run, "-n", str(2 + len(sizes)), "-k", selection
    )
    time.sleep(_AHEAD_S)
    second = context.pytest("parallel", *plain_run, "-k", all_gpus, limit=limit, name="waits")
    try:
        code: int | None = first.wait(max(1.0, limit - (time.monotonic() - began)))
    except subprocess.TimeoutExpired:
        first.terminate()
        code = None
    text = (context.folder("parallel") / "pytest.txt").read_text("utf-8", "replace")
    done = {"code": code, "tail": text.splitlines()[-40:], "second": second}
    seen = []
    for path in sorted((context.folder("parallel") / "records").rglob("*/init/launch-1.json")):
        record = json.loads(path.read_text())
        env = record.get("env") or {}
        seen.append(
            {
                "server": record["server"],
                "visible": env.get("CUDA_VISIBLE_DEVICES"),
                "co_tenancy": record.get("co_tenancy"),
                "times": record.get("times"),
                "finished": record["finished"],
                "failure": record["failure"],
            }
        )
    context.write("parallel", {"run": done, "servers": seen})
