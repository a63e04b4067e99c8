"""Measures a case by another tool than our client: idle, the tool beside the engine, idle, and what
it wrote as a measurement."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

from pytest_gpubench.dialects.dialect import Dialect
from pytest_gpubench.dialects.metrics_page import parse_metrics
from pytest_gpubench.dialects.registry import dialect_of
from pytest_gpubench.engines.engine import Engine
from pytest_gpubench.engines.idleness import IDLE_TIMEOUT_S, SILENCE_TIMEOUT_S, HangWatch, wait_idle
from pytest_gpubench.engines.interpreter import interpreter_of, version_in
from pytest_gpubench.engines.log_sink import LogSink
from pytest_gpubench.host.tool_environments import environment_of
from pytest_gpubench.load.aiperf.output import KEPT, AiperfOutput, read_output
from pytest_gpubench.load.aiperf.running import AiperfPlan, AiperfRun, aiperf_words, run_aiperf
from pytest_gpubench.load.asking import gives_a_token
from pytest_gpubench.load.load_run import MetricsSampler, ask_again
from pytest_gpubench.load.protocol import Progress
from pytest_gpubench.measure.aiperf_numbers import BLOCK, TABLE, left_out, measured_by_aiperf
from pytest_gpubench.measure.compute import window_of
from pytest_gpubench.measure.measurement import Measurement
from pytest_gpubench.model.cases import Case
from pytest_gpubench.model.client_tools import SERIES
from pytest_gpubench.model.failures import BenchmarkError, Failure
from pytest_gpubench.model.secrets import Secrets
from pytest_gpubench.model.specs import Launch
from pytest_gpubench.report.records import RunFolder, write_requests
from pytest_gpubench.runs.client_runs import Turn
from pytest_gpubench.runs.gpu_watch import GpuWatch
from pytest_gpubench.runs.live_line import Shows
from pytest_gpubench.runs.servers import ServerPool
from pytest_gpubench.runs.settings import Settings
from pytest_gpubench.runs.spans import Spans, stages

_INSTALL = "Install it with `gpubench tools install aiperf`, or name it: --gpubench-aiperf-command."


def _lives(engine: Engine, case: Case) -> bool:
    """Whether the engine is proven to live; of one with several ranks of data a token of one proves
    nothing."""
    return case.topology.dp == 1 and gives_a_token(engine.url, engine.api_key, engine.served_name)


class ToolRuns:
    """Runs AIPerf for the cases of a run whose client says so."""

    def __init__(
        self, settings: Settings, folder: RunFolder, servers: ServerPool, shows: Shows
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._servers = servers
        self._shows = shows
        self._parts: dict[tuple[Launch, str], dict[str, Any]] = {}

    def missing(self, case: Case) -> Failure | None:
        """Why the tool of a case cannot run, before any server is asked; None: it can, or our own
        client measures."""
        if case.workload.tool is None:
            return None
        interpreter = self._interpreter()
        return interpreter if isinstance(interpreter, Failure) else None

    def part(self, launch: Launch, case: Case) -> dict[str, Any]:
        """What the record of a case says of the tool; empty: our own client measured."""
        part = self._parts.get((launch, case.id))
        return {} if part is None else {"tool": part}

    def measured(self, turn: Turn, spans: Spans) -> tuple[Measurement, bool]:
        """One measurement, and whether the engine compiled kernels meanwhile.

        Raises:
            BenchmarkError: if the server, or the tool, failed; what it wrote stays beside the
                record.
        """
        launch, case, spec, engine = turn.launch, turn.case, turn.spec, turn.engine
        interpreter = self._interpreter()
        if isinstance(interpreter, Failure):
            raise BenchmarkError(interpreter)
        dialect = dialect_of(spec.framework)
        folder = self._folder.tool_files(launch, case, turn.number).absolute()
        shutil.rmtree(folder, ignore_errors=True)  # of an attempt that was spoilt
        plan = self._plan(turn, folder)
        with spans.of("idle"):
            before = wait_idle(engine.scrape, dialect.counters, IDLE_TIMEOUT_S)
        argv = ["aiperf", *aiperf_words(plan)]
        kept = self._parts.get((launch, case.id), {}).get("files", [])
        earlier = [file for file in kept if not file.startswith(f"{folder.name}/")]
        self._parts[launch, case.id] = {"name": "aiperf", "argv": argv, "files": earlier}
        begun = time.monotonic()
        with GpuWatch(self._servers.gpus, engine) as gpus:
            try:
                run, pages = self._run(case, plan, interpreter, engine, dialect)
                offset = time.time_ns() - time.monotonic_ns()
                output = read_output(folder, run.log, offset, case.workload.osl)
                if output.records and not output.records[-1].ok:  # as all do after a death
                    ask_again(engine.alive, well=lambda: _lives(engine, case))
            except BaseException:
                spans.split(begun, {"load": time.monotonic()})
                _without_key(folder, engine.api_key)
                raise
        spans.split(begun, stages(output.records))
        with spans.of("results"):
            self._keep(turn, folder, output)
        with spans.of("idle"):
            after = wait_idle(engine.scrape, dialect.counters, IDLE_TIMEOUT_S)
        window = window_of(output.records)
        compiled = engine.compiled_between(*window)
        try:
            measurement = measured_by_aiperf(
                output,
                run.cpu,
                before,
                after,
                case.workload,
                case.topology,
                counters=dialect.counters,
                speculative=spec.speculative is not None,
                prefix_caching=dialect.prefix_caching(spec),
                pages=pages,
                compiled=compiled,
                attempts=turn.attempt,
                started_unix=(window[0] + offset) / 1e9,
                block=engine.facts.block_size or BLOCK,
                injected=spec.speculative.injected_length if spec.speculative else None,
            )
        except ValueError as error:
            raise BenchmarkError(Failure("counters-reset", "engine", str(error))) from error
        self._parts[launch, case.id] |= _part(output)
        self._parts[launch, case.id]["files"] = [*earlier, *_files(folder)]
        return gpus.complete(measurement, output.records), bool(compiled)

    def _plan(self, turn: Turn, folder: Path) -> AiperfPlan:
        spec, workload = turn.spec, turn.case.workload
        salt = f"{workload.seed} {turn.prompts} {turn.case.id}".encode()
        return AiperfPlan(
            url=turn.engine.url,
            model=turn.engine.served_name,
            workload=workload,
            tokenizer=spec.model,
            folder=str(folder),
            seed=int.from_bytes(hashlib.sha256(salt).digest()[:4]) % 2**31,
            revision=self._servers.commits(turn.launch).get(spec.model) or "",
            trust_remote_code=spec.serve.get("trust-remote-code") is True,
        )

    def _run(
        self, case: Case, plan: AiperfPlan, interpreter: str, engine: Engine, dialect: Dialect
    ) -> tuple[AiperfRun, tuple[tuple[int, str], ...]]:
        counters = dialect.counters
        watch = HangWatch(
            engine.scrape,
            SILENCE_TIMEOUT_S,
            counters,
            open_loop=case.workload.open_loop or case.workload.traced,
        )
        hidden = [engine.api_key, *Secrets.of(os.environ).values]
        log = LogSink(Path(plan.folder, "aiperf.out"), dialect.log, hidden)
        cache = self._settings.cache_dir

        def counts() -> object:
            try:
                page = parse_metrics(engine.scrape())
            except (BenchmarkError, ValueError):
                return None
            return tuple(map(page.total, counters.progress))

        with self._shows(case) as showing:
            sampler = MetricsSampler(lambda: showing.page(engine.scrape()), 1.0, counters.watched)

            def on_progress(progress: Progress) -> None:
                watch.note(None if progress.stage == "prompts" else progress.done)
                if progress.stage != "prompts":
                    sampler.start()
                showing.note(progress)

            try:
                run = run_aiperf(
                    plan,
                    interpreter,
                    log,
                    api_key=engine.api_key,
                    cache_dir="" if cache is None else str(cache),
                    check=lambda: engine.alive() or watch.check(),
                    well=lambda: _lives(engine, case),
                    engine_counts=counts,
                    on_progress=on_progress,
                )
            finally:
                pages = sampler.stop()
        return run, pages

    def _keep(self, turn: Turn, folder: Path, output: AiperfOutput) -> None:
        """Our own form of its requests, and of its files those that hold no prompts."""
        requests = (record.to_json() for record in output.records)
        write_requests(self._folder.requests_file(turn.launch, turn.case, turn.number), requests)
        for path in sorted(folder.rglob("*"), reverse=True):
            if path.is_dir() and not path.is_symlink():
                if not any(path.iterdir()):
                    path.rmdir()
            elif path.relative_to(folder).as_posix() not in KEPT or _holds(
                path, turn.engine.api_key
            ):
                path.unlink()

    def _interpreter(self) -> str | Failure:
        """The Python that has an AIPerf whose output is known here."""
        found = next(self._candidates(), None)
        if isinstance(found, Failure):
            return found
        if found is None:
            summary = "this case is measured by AIPerf, which is not installed here"
            return Failure("aiperf-missing", "client", summary, remedy=_INSTALL)
        version = version_in(found, "aiperf")
        if version is None:
            summary = f"{found} has no AIPerf, or does not say of which version it is"
            return Failure("aiperf-missing", "client", summary, remedy=_INSTALL)
        if not _known(version):
            summary = (
                f"AIPerf {version} of {found} is not known here: output is read as {SERIES} "
                "writes it"
            )
            return Failure("aiperf-version", "client", summary, remedy=_INSTALL)
        return found

    def _candidates(self) -> Iterator[str | Failure]:
        """What may run AIPerf: what the user named, what was installed for us, what is on PATH."""
        command = self._settings.aiperf_command
        if command:
            named = interpreter_of(command)
            summary = (
                f"--gpubench-aiperf-command {' '.join(command)!r} is no command of a Python "
                "environment on this host, so the server's key could not be handed to it unseen"
            )
            yield named or Failure("aiperf-missing", "client", summary, remedy=_INSTALL)
        installed = environment_of("aiperf")
        if installed.installed:
            yield str(installed.python)
        on_path = interpreter_of(("aiperf",))
        if on_path is not None:
            yield on_path


def _known(version: str) -> bool:
    try:
        return ".".join(map(str, Version(version).release[:2])) == SERIES
    except InvalidVersion:
        return False


def _without_key(folder: Path, api_key: str) -> None:
    """What a run that failed leaves, but for files with the server's key in them."""
    for path in folder.rglob("*"):
        with suppress(OSError):  # it is gone, or cannot be read by anybody
            if path.is_file() and _holds(path, api_key):
                path.unlink()


def _holds(path: Path, secret: str) -> bool:
    """Whether a file has the server's key in it; AIPerf hides it, and is not trusted to."""
    if not secret:
        return False
    word, before = secret.encode(), b""
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            if word in before + chunk:
                return True
            before = chunk[-len(word) :]
    return False


def _files(folder: Path) -> list[str]:
    return sorted(
        f"{folder.name}/{path.relative_to(folder).as_posix()}"
        for path in folder.rglob("*")
        if path.is_file()
    )


def _part(output: AiperfOutput) -> dict[str, Any]:
    return {
        "version": output.version,
        "left_out": list(left_out()),
        "mapping": {
            it.ours: f"{it.theirs}.{it.stat} ({it.unit}) x {it.factor:g}"
            + (" / GPUs" if it.per_gpu else "")
            for it in TABLE
        },
    }
