"""Many servers at once, started side by side and measured one at a time.

A start is nearly all imports and compilation on CPU cores; a server that waits for requests does
next to nothing. So starts overlap, and while one server is measured all others are idle.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from pytest_gpubench.dialects.vllm import DIALECT as VLLM
from pytest_gpubench.dialects.vllm.dialect import COUNTERS
from pytest_gpubench.engines.engine import Engine, check_engine
from pytest_gpubench.engines.idleness import wait_idle
from pytest_gpubench.engines.interpreter import default_command
from pytest_gpubench.engines.lifecycle import EngineSettings, start_engine
from pytest_gpubench.host.gpus.drivers import read_inventory
from pytest_gpubench.host.gpus.inventory import Gpu
from pytest_gpubench.load.load_run import run_load
from pytest_gpubench.load.protocol import LoadPlan, LoadResult
from pytest_gpubench.load.workers import WorkerPool
from pytest_gpubench.measure.compute import compute, window_of
from pytest_gpubench.measure.measurement import Measurement
from pytest_gpubench.model.cases import Case
from pytest_gpubench.model.failures import BenchmarkError, Failure, GpubenchError
from pytest_gpubench.model.specs import Launch, ServerSpec
from pytest_gpubench.model.workload import Workload
from pytest_gpubench.report.records import RunFolder, plain
from pytest_gpubench.runs.gpu_watch import GpuWatch
from pytest_gpubench.runs.warming import Warming

START_LIMIT = float(os.environ.get("HARDWARE_START_LIMIT", "360"))
"""Seconds that a server of a crowd may take."""


@dataclass(frozen=True, slots=True)
class Job:
    """A server to start."""

    name: str
    spec: ServerSpec
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Outcome:
    """What came of it."""

    job: Job
    seconds: float
    engine: Engine | None
    failure: Failure | None
    log: Path

    def told(self) -> dict[str, Any]:
        """For the results: outcome, what the engine says of itself, and whether that is what was
        asked for."""
        told: dict[str, Any] = {
            "name": self.job.name,
            "outcome": "starts" if self.engine else "dies",
            "seconds": self.seconds,
        }
        if self.failure is not None:
            told["failure"] = plain(self.failure)
        if self.engine is not None:
            told["facts"] = plain(self.engine.facts)
            told["phases"] = dict(self.engine.phases)
            told["argv"] = list(self.engine.argv)
            told["env"] = dict(self.engine.env)
            told["checks"] = plain(
                check_engine(self.job.spec, self.engine.facts, served_name=self.engine.served_name)
            )
        return told


Crowd: TypeAlias = Mapping[str, Future[Outcome]]
"""Servers that start side by side, by the names of their jobs."""


@contextmanager
def fleet(jobs: Sequence[Job], folder: Path, cache: Path) -> Iterator[Crowd]:
    """Start servers side by side. All are stopped at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(max(1, len(jobs))) as pool:
        crowd = {job.name: pool.submit(_start, job, folder, cache) for job in jobs}
        try:
            yield crowd
        finally:
            stop(
                outcome for outcome in (future.result() for future in as_completed(crowd.values()))
            )


def stop(outcomes: Iterable[Outcome]) -> None:
    """Stop servers, all at once; those that never started or are stopped already count as
    stopped."""
    engines = [outcome.engine for outcome in outcomes if outcome.engine is not None]
    with ThreadPoolExecutor(max(1, len(engines))) as pool:
        for done in [pool.submit(engine.stop) for engine in engines]:
            done.result()


def _start(job: Job, folder: Path, cache: Path) -> Outcome:
    log = folder / f"{job.name}.log"
    settings = EngineSettings(
        command=job.spec.command or default_command(VLLM),
        log_path=log,
        label=job.name,
        cache_dir=str(cache),
        extra_env=dict(job.env),
        start_timeout=START_LIMIT,
    )
    started = time.monotonic()
    engine, failure = None, None
    try:
        engine = start_engine(job.spec, settings)
    except BenchmarkError as error:
        failure = error.failure
    except GpubenchError as error:
        failure = Failure("recipe-error", "recipe", str(error))
    seconds = round(time.monotonic() - started, 1)
    say(f"{job.name}: {'ready' if engine else failure.cause if failure else '?'} after {seconds} s")
    return Outcome(job, seconds, engine, failure, log)


def say(text: str) -> None:
    """A line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def measure(
    engine: Engine,
    case: Case,
    spec: ServerSpec,
    *,
    gpus: Sequence[Gpu] = (),
    workload: Workload | None = None,
    label: str = "launch-1",
    pages: float | None = None,
) -> tuple[Measurement, LoadResult]:
    """One measurement of a case, as the plugin makes it.

    Raises:
        BenchmarkError: as the load run does.
    """
    load = workload or case.workload
    before = wait_idle(engine.scrape, COUNTERS, 60.0)
    with GpuWatch(gpus, engine) as watch:
        result = run_load(
            LoadPlan(engine.url, engine.served_name, load, launch=label, salt=case.id),
            api_key=engine.api_key,
            check_server=engine.alive,
            fetch_metrics=engine.scrape if pages else None,
            metrics_interval=pages or 1.0,
        )
    after = wait_idle(engine.scrape, COUNTERS, 60.0)
    measurement = compute(
        result.records,
        before,
        after,
        load,
        case.topology,
        result.client,
        speculative=spec.speculative is not None,
        prefix_caching=spec.serve.get("enable-prefix-caching") is not False,
        compiled=engine.compiled_between(*window_of(result.records)),
        counters=COUNTERS,
    )
    # Idle neighbours hold memory, and that is all they do.
    complete = watch.complete(measurement, result.records)
    kept = tuple(flag for flag in complete.flags if flag.code != "foreign-process")
    return replace(complete, flags=kept), result


def warm(
    engine: Engine, spec: ServerSpec, cases: Sequence[Case], gpus: Sequence[Gpu], folder: Path
) -> dict[str, Any]:
    """The plugin's warm-up of a launch, and what it says of it.

    Raises:
        BenchmarkError: if the engine dies or hangs meanwhile.
    """
    launch, records = Launch(cases[0].server), RunFolder(folder)
    record = records.init_record(launch)
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text("{}", "utf-8")
    pool = WorkerPool()
    try:
        Warming(records, pool).warm(launch, spec, engine, cases, gpus)
    finally:
        pool.close()
    said: dict[str, Any] = json.loads(record.read_text("utf-8")).get("warmup", {})
    return said


def gpus_now() -> tuple[Gpu, ...]:
    """The GPUs of this host."""
    return read_inventory().gpus
