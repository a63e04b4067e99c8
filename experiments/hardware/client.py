"""Is the client's time the server's? Ours, ``vllm bench serve`` and the engine's own clock, on one
server, one after the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import recipes
from context import Context, cases_of, job_of
from fleet import Crowd, Job, measure, say

from pytest_gpubench.dialects.metrics_page import Scrape
from pytest_gpubench.dialects.vllm.dialect import COUNTERS
from pytest_gpubench.engines.engine import Engine
from pytest_gpubench.engines.idleness import wait_idle
from pytest_gpubench.model.cases import Case, RecipeBook
from pytest_gpubench.report.records import plain

REQUESTS: Mapping[int, int] = {1: 20, 8: 160, 64: 640, 256: 1280}
_BENCH = """
import sys
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""
_HISTOGRAMS = {
    "ttft": "vllm:time_to_first_token_seconds",
    "tpot": "vllm:request_time_per_output_token_seconds",
    "queue": "vllm:request_queue_time_seconds",
    "e2e": "vllm:e2e_request_latency_seconds",
}


def _cases(context: Context) -> tuple[RecipeBook, list[Case]]:
    book = context.book()
    return book, cases_of(book, f"tiny-bf16-{context.hardware}-vllm-mtp-client")


def jobs(context: Context) -> list[Job]:
    """The one server."""
    book, cases = _cases(context)
    return [job_of(book, cases[0], context.gpus, "client")]


def run(context: Context, crowd: Crowd) -> None:
    """Every tool at every concurrency; ours first and last, so that a drift of the machine
    shows."""
    outcome = crowd["client"].result()
    engine, spec = outcome.engine, outcome.job.spec
    if engine is None:
        context.write("client", {"failure": plain(outcome.failure)})
        return
    rows: list[dict[str, Any]] = []
    for case in _cases(context)[1]:
        conc = case.workload.conc
        if context.concurrencies and conc not in context.concurrencies:
            continue
        number = 4 * conc if context.few else REQUESTS.get(conc, 10 * conc)
        workload = replace(case.workload, num_prompts=number, num_warmups=conc)
        for turn in ("ours", "vllm bench serve", "ours again"):
            before = wait_idle(engine.scrape, COUNTERS, 60.0)
            row: dict[str, Any] = {"tool": turn, "conc": conc, "requests": number}
            if turn.startswith("ours"):
                measurement, _ = measure(
                    engine,
                    case,
                    spec,
                    gpus=context.gpus[:1],
                    workload=workload,
                    label=turn.replace(" ", "-"),
                )
                row |= {
                    "metrics": dict(measurement.metrics),
                    "invalid": list(measurement.invalid),
                    "problems": list(measurement.problems),
                    "flags": [plain(flag) for flag in measurement.flags],
                    "validity": dict(measurement.validity),
                    "gpus": [dict(gpu) for gpu in measurement.gpus],
                }
            else:
                row |= _bench(context, engine, conc, number, case.workload.isl, case.workload.osl)
            row["engine"] = _own_clock(before, wait_idle(engine.scrape, COUNTERS, 60.0))
            rows.append(row)
            context.write("client", rows)
            shown = row.get("metrics") or {}
            say(
                f"{turn} c={conc}: ttft {shown.get('ttft_mean', 0) * 1e3:.2f} ms, "
                f"engine {row['engine'].get('ttft', 0) * 1e3:.2f}"
            )


def _own_clock(before: Scrape, after: Scrape) -> dict[str, float]:
    """Means of the engine's own histograms between two scrapes, warm-up included, in seconds."""
    counted = after.since(before)
    means = {}
    for name, metric in _HISTOGRAMS.items():
        total, count = counted.total(f"{metric}_sum"), counted.total(f"{metric}_count")
        if total is not None and count:
            means[name] = total / count
            means[f"{name}_count"] = count
    return means


def _bench(
    context: Context, engine: Engine, conc: int, requests: int, isl: int, osl: int
) -> dict[str, Any]:
    folder = context.folder("client")
    chosen: dict[str, Any] = {
        "--backend": "openai-chat",
        "--base-url": engine.url,
        "--endpoint": "/v1/chat/completions",
        "--model": engine.served_name,
        "--tokenizer": recipes.tokenizer_folder(context.cache),
        "--dataset-name": "random",
        "--random-input-len": isl - 6,
        "--random-output-len": osl,
        "--num-prompts": requests,
        "--num-warmups": conc,
        "--max-concurrency": conc,
        "--temperature": 0,
        "--percentile-metrics": "ttft,tpot,itl,e2el",
        "--result-dir": folder,
        "--result-filename": f"bench-{conc}.json",
    }
    words = [str(word) for pair in chosen.items() for word in pair]
    environment = {
        **os.environ,
        "OPENAI_API_KEY": engine.api_key,
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    output = folder / f"bench-{conc}.txt"
    with output.open("wb") as file:
        code = subprocess.run(
            [
                sys.executable,
                "-c",
                _BENCH,
                *words,
                "--ignore-eos",
                "--save-result",
                "--disable-tqdm",
            ],
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            timeout=240,
            check=False,
        ).returncode
    path = folder / f"bench-{conc}.json"
    if code or not path.is_file():
        return {"failure": output.read_text("utf-8", "replace")[-800:]}
    return {"metrics": _seconds(json.loads(path.read_text()))}


def _seconds(found: Mapping[str, Any]) -> dict[str, float]:
    """The tool's numbers under our names, in seconds and tokens per second."""
    told = {"output_tput": float(found["output_throughput"]), "duration": float(found["duration"])}
    for name in ("ttft", "tpot", "itl"):
        for stat, ours in (("mean", "mean"), ("median", "p50"), ("p99", "p99")):
            value = found.get(f"{stat}_{name}_ms")
            if value is not None:
                told[f"{name}_{ours}"] = float(value) / 1e3
    return told


def log_of(folder: Path) -> str:
    """What the tool printed last."""
    return "\n".join(
        path.read_text("utf-8", "replace")[-400:] for path in sorted(folder.glob("bench-*.txt"))
    )
