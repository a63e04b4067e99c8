"""Measures a case by our own client: idle, load, idle, and what the requests measure."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from pytest_gpubench.dialects.registry import dialect_of
from pytest_gpubench.engines.engine import Engine
from pytest_gpubench.engines.idleness import IDLE_TIMEOUT_S, HangWatch, wait_idle
from pytest_gpubench.load.client_calibration import stored
from pytest_gpubench.load.load_run import run_load
from pytest_gpubench.load.protocol import LoadPlan, Progress
from pytest_gpubench.load.workers import WorkerPool
from pytest_gpubench.measure.compute import compute, window_of
from pytest_gpubench.measure.measurement import Measurement
from pytest_gpubench.model.cases import Case
from pytest_gpubench.model.failures import BenchmarkError, Failure
from pytest_gpubench.model.specs import Launch, ServerSpec
from pytest_gpubench.model.workload import SESSIONS, Workload
from pytest_gpubench.report.records import RunFolder, write_requests
from pytest_gpubench.runs.gpu_watch import GpuWatch
from pytest_gpubench.runs.live_line import Shows
from pytest_gpubench.runs.servers import ServerPool
from pytest_gpubench.runs.settings import Settings
from pytest_gpubench.runs.spans import Spans, stages


@dataclass(frozen=True, slots=True)
class Turn:
    """One measurement of a case on a launch that is due."""

    launch: Launch
    case: Case
    spec: ServerSpec
    engine: Engine
    number: int
    """Of the round, from 1."""
    attempt: int
    """At this round, from 1."""

    @property
    def prompts(self) -> str:
        """What the prompts are drawn by, beside the case: both launches of a pair get the same, so
        that what prompts do to the numbers cancels."""
        label = replace(self.launch, arm="").label
        label += f"-round-{self.number}" if self.number > 1 else ""
        return label + (f"-again-{self.attempt}" if self.attempt > 1 else "")


class ClientRuns:
    """Runs our client for the cases of a run."""

    def __init__(
        self,
        settings: Settings,
        folder: RunFolder,
        servers: ServerPool,
        shows: Shows,
        load_workers: WorkerPool,
        silence_s: float,
    ) -> None:
        """``silence_s`` is how long an engine may be silent before it counts as hung, beside the
        pauses of its load."""
        self._settings = settings
        self._folder = folder
        self._servers = servers
        self._shows = shows
        self._load_workers = load_workers
        self._silence_s = silence_s
        self._sent = SentTraces()

    def measured(self, turn: Turn, spans: Spans) -> tuple[Measurement, bool]:
        """One measurement, and whether the engine compiled kernels meanwhile.

        Raises:
            BenchmarkError: if the server, or the client, failed.
        """
        case, spec, engine = turn.case, turn.spec, turn.engine
        workload, dialect = case.workload, dialect_of(spec.framework)
        plan = LoadPlan(
            engine.url,
            engine.served_name,
            workload,
            spec.framework,
            launch=turn.prompts,
            salt=case.id,
            context=engine.facts.max_model_len or case.max_model_len,
        )
        calibrations = stored(self._settings.results, workload.workers)
        sent_before = self._sent.note(turn.launch, engine, workload)
        with spans.of("idle"):
            before = wait_idle(engine.scrape, dialect.counters, IDLE_TIMEOUT_S)
        watch = HangWatch(
            engine.scrape,
            self._silence_s + workload.think_time,
            dialect.counters,
            # Sessions pause: an engine may rightly be idle.
            open_loop=workload.open_loop or workload.dataset == SESSIONS,
        )
        with GpuWatch(self._servers.gpus, engine) as gpus, self._shows(case) as showing:

            def on_progress(progress: Progress) -> None:
                watch.note(None if progress.stage == "prompts" else progress.done)
                showing.note(progress)

            begun = time.monotonic()
            try:
                result = run_load(
                    plan,
                    api_key=engine.api_key,
                    check_server=lambda: engine.alive() or watch.check(),
                    on_progress=on_progress,
                    fetch_metrics=lambda: showing.page(engine.scrape()),
                    pool=self._load_workers,
                )
            except BaseException:
                spans.split(begun, {"load": time.monotonic()})
                raise
            spans.split(begun, stages(result.records))
        with spans.of("results"):
            requests = (record.to_json() for record in result.records)
            write_requests(self._folder.requests_file(turn.launch, case, turn.number), requests)
        with spans.of("idle"):
            after = wait_idle(engine.scrape, dialect.counters, IDLE_TIMEOUT_S)
        compiled = engine.compiled_between(*window_of(result.records))
        try:
            measurement = compute(
                result.records,
                before,
                after,
                workload,
                case.topology,
                result.client,
                counters=dialect.counters,
                speculative=spec.speculative is not None,
                prefix_caching=dialect.prefix_caching(spec),
                pages=result.pages,
                calibrations=calibrations,
                compiled=compiled,
                attempts=turn.attempt,
                made_up_weights=dialect.made_up_weights(spec),
                served_name=engine.served_name,
                cache_block=engine.facts.block_size,
                injected=spec.speculative.injected_length if spec.speculative else None,
                sent_before=sent_before,
            )
        except ValueError as error:
            raise BenchmarkError(Failure("counters-reset", "engine", str(error))) from error
        return gpus.complete(measurement, result.records), bool(compiled)


class SentTraces:
    """Which servers were sent which traces of sessions: their prefix caches may still hold what a
    trace gives by text, since that is the same each time."""

    def __init__(self) -> None:
        self._sent: set[tuple[Launch | str, str]] = set()

    def note(self, launch: Launch, engine: Engine, workload: Workload) -> bool:
        """Whether this server was sent the workload's trace before; from now on it was."""
        if workload.dataset != SESSIONS:
            return False
        # One that we attached to is the same in every launch.
        sent = (engine.url if engine.attached else launch, workload.dataset_file)
        known = sent in self._sent
        self._sent.add(sent)
        return known
