"""Several GPUs: tensor, expert and data parallelism of the shrunken MiniMax-M3, and two servers side by side under ``-n 2``."""

from __future__ import annotations

import json
from concurrent.futures import as_completed
from typing import Any

from context import Context, cases_of, job_of
from fleet import Job, fleet, measure, say
from outcomes import chosen, words

from pytest_gpubench.domain.cases import Case
from pytest_gpubench.domain.failures import BenchmarkError
from pytest_gpubench.report.records import plain


def step(context: Context) -> None:
    """Every topology in both precisions beside the servers that should die; then the ready ones are measured one by one."""
    book = context.book()
    cases: dict[str, list[Case]] = {}
    for precision in ("bf16", "fp8"):
        for case in cases_of(book, f"m3mini-{precision}-{context.hardware}-vllm-mtp-two"):
            cases.setdefault(case.server, []).append(case)
    multicast = cases_of(book, f"m3mini-bf16-{context.hardware}-vllm-multicast")[0]
    doomed = chosen(context, gpus=2)
    rows: dict[str, dict[str, Any]] = {each.name: words(context, book, each) for each in doomed}
    rows[multicast.server] = {"what": "FlashInfer's fused all-reduce left to choose (mnnvl)"}
    gpus = context.gpus
    jobs: list[Job] = [job_of(book, mine[0], gpus) for mine in cases.values()]
    jobs += [job_of(book, multicast, gpus), *(job_of(book, cases_of(book, each.name)[0], gpus, each.name) for each in doomed)]
    say(f"{len(jobs)} servers on {len(gpus)} GPUs start")
    with fleet(jobs, context.folder("topologies"), context.cache) as futures:
        for future in as_completed(futures):
            outcome = future.result()
            rows.setdefault(outcome.job.name, {})
            rows[outcome.job.name] |= outcome.told()
            context.write("topologies", {"servers": rows})
            if outcome.engine is not None and outcome.job.name not in cases:
                outcome.engine.stop()
        measured = []
        for future in futures[: len(cases)]:
            outcome = future.result()
            for case in cases[outcome.job.name] if outcome.engine is not None else []:
                assert outcome.engine is not None  # it is ready
                row: dict[str, Any] = {"case": case.id}
                try:
                    measurement, _ = measure(outcome.engine, case, outcome.job.spec, gpus=gpus[: case.gpus])
                    row |= {"measurement": measurement.to_json()}
                    say(f"{case.id}: {measurement.metrics.get('output_tput', 0):,.0f} tok/s {measurement.problems}")
                except BenchmarkError as error:
                    row["failure"] = plain(error.failure)
                measured.append(row)
                context.write("topologies", {"servers": rows, "measured": measured})


def side_by_side(context: Context, limit: float) -> None:
    """Two servers on disjoint GPUs under ``-n 2``; which GPUs is read from their records."""
    recipe = f"tiny-bf16-{context.hardware}-vllm"
    done = context.pytest(
        "parallel", "-n", "2", "--gpubench-exclusive=no", "-m", f"tiny and {context.hardware} and bf16", "-k", recipe, limit=limit
    )
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
