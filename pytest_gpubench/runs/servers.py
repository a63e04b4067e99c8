"""The servers of a run: started once per launch, remembered when they fail, stopped for certain."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from pytest_gpubench.dialects.registry import dialect_of
from pytest_gpubench.engines.engine import Engine, EngineCheck, check_engine
from pytest_gpubench.engines.interpreter import EngineDistribution, check_requires
from pytest_gpubench.engines.lifecycle import EngineSettings, attach, start_engine
from pytest_gpubench.host.git import git_state
from pytest_gpubench.host.gpus.drivers import gpu_facts, read_inventory
from pytest_gpubench.host.gpus.inventory import Gpu, Inventory, missing_hardware, visible_inventory
from pytest_gpubench.host.host_facts import client_versions, host_facts
from pytest_gpubench.host.hub.fetch import Progress
from pytest_gpubench.host.hub.local import reading_ahead, server_cache_dir
from pytest_gpubench.model.cases import RecipeBook
from pytest_gpubench.model.failures import BenchmarkError, Failure, GpubenchError
from pytest_gpubench.model.specs import Launch, ServerSpec
from pytest_gpubench.report.records import SCHEMA_VERSION, RunFolder, try_to_write
from pytest_gpubench.runs.doctoring import Doctor
from pytest_gpubench.runs.endings import Failed, Harness, Interrupted, Skipped, failure_of
from pytest_gpubench.runs.engines_under_test import Arms
from pytest_gpubench.runs.leasing import Leasing
from pytest_gpubench.runs.live_line import ShowsLaunch
from pytest_gpubench.runs.model_files import fetch_weights, files_of_weights, weights_files
from pytest_gpubench.runs.settings import Settings
from pytest_gpubench.runs.spans import Spans

_PROGRESS_SECONDS = 30.0


class ServerPool:
    """Starts, remembers and stops engines; the only place that knows which server failed and
    why."""

    def __init__(
        self,
        settings: Settings,
        book: RecipeBook,
        folder: RunFolder,
        leasing: Leasing,
        before_start: Callable[[Launch], None],
        shown: ShowsLaunch,
        harness: Harness,
    ) -> None:
        """``before_start`` is called when a server of ours is about to start, its lease taken;
        ``shown`` tells the person at the terminal how far it is."""
        self._settings = settings
        self._before_start = before_start
        self._shown = shown
        self._harness = harness
        self._leasing = leasing
        self._folder = folder
        self.arms = Arms(settings, book, self.inventory)
        self._running: Engine | None = None
        self._failed: dict[Launch, Failure] = {}
        self._dead_starts: set[Launch] = set()
        self._next_word = 0.0
        self._commits: dict[Launch, dict[str, str | None]] = {}
        self._checks: dict[Launch, EngineCheck] = {}
        self._times: dict[Launch, Spans] = {}
        self._inventory: Inventory | None = None
        self._provenance: dict[str, Any] | None = None

    @contextmanager
    def running(self, launch: Launch) -> Iterator[Engine]:
        """The engine of a launch, for as long as somebody uses it.

        Raises:
            Skipped: where the host lacks the hardware.
            Failed: where the engine did not start as the recipe asks.
        """
        spec = self.arms.spec(launch)
        self.require_hardware(launch, spec)
        if why_not := self.arms.never_runs(launch):
            raise Skipped(f"not runnable: {why_not}")
        doomed = self.arms.no_counterpart(launch.server)
        if doomed is None and not self._settings.base_url:
            doomed = self.arms.doctor(launch).death(launch.server)
        if doomed is not None:
            self._give_up(launch, spec, None, doomed)
        engine = self._started(launch, spec)
        if isinstance(engine, Failure):
            self._give_up(launch, spec, None, engine)
        self._running = engine
        try:
            failure = self._deviation(launch, spec, engine) or self._write_init(
                launch, spec, engine, None
            )
            if failure is not None:
                self._give_up(launch, spec, engine, failure)
            yield engine
        finally:
            self._stop(launch, engine)

    def require_hardware(self, launch: Launch, spec: ServerSpec) -> None:
        """Skip the test where this host cannot run the server; fail it where ``--gpubench-runner``
        says that this host can."""
        if self._settings.base_url:
            return
        engine = self._engine_at_hand(spec)
        missing = missing_hardware(
            self.arms.hardware(spec),
            spec.topology.gpus,
            self.inventory(),
            engine.platform if engine else None,
            f"{engine.distribution} {engine.version}" if engine else "",
        )
        if missing is None:
            return
        if self._settings.runner:
            summary = (
                f"{missing}, although --gpubench-runner={self._settings.runner} names this host"
            )
            remedy = (
                "Look at nvidia-smi (AMD: amd-smi) and the driver there, or run it where the "
                "hardware is."
            )
            lost = Failure("hardware-missing", "infrastructure", summary, remedy=remedy)
            self._give_up(launch, spec, None, lost)
        raise Skipped(missing)

    @property
    def doctor(self) -> Doctor:
        """Findings for the servers as the recipes declare them."""
        return self.arms.doctor(Launch(""))

    def mark_failed(self, launch: Launch, failure: Failure) -> None:
        """Remember a server's death: its other cases fail at once."""
        self._failed.setdefault(launch, failure)

    def failed_before(self, launch: Launch) -> Failure | None:
        """Why a case on this launch is not run: the launch is known to be dead, and is not started
        again; None where it is not."""
        failure = self._failed.get(launch)
        if failure is None:
            return None
        why = f"({failure.cause}): {failure.summary.rstrip('.')}; its first failure shows why"
        summary = f"not run: {launch.server} failed before {why}"
        return Failure(failure.cause, failure.failure_class, summary)

    def did_start(self, launch: Launch) -> bool:
        """Whether a launch has no failed start: its record speaks for every case of it."""
        return launch not in self._dead_starts

    def inventory(self) -> Inventory:
        """The GPUs that this run may use, read once."""
        if self._inventory is None:
            self._inventory = visible_inventory(read_inventory(), os.environ)
        return self._inventory

    def provenance(self) -> dict[str, Any]:
        """Runner label, host, versions and commit, the same for every record of a run."""
        if self._provenance is None:
            self._provenance = {
                "runner": self._settings.runner,
                "host": host_facts(self.inventory()),
                "versions": client_versions(),
                "git": git_state(self._settings.root),
            }
        return self._provenance

    def engine_part(self, launch: Launch, engine: Engine | None) -> dict[str, Any]:
        """What ran: argv and environment without secrets, facts read from the engine, start-up
        phases, commits of the weights."""
        return {
            "argv": engine.argv if engine else None,
            "env": engine.env if engine else None,
            "engine": engine.facts if engine else None,
            "phases": engine.phases if engine else None,
            "served_name": engine.served_name if engine else None,
            "attached": engine.attached if engine else False,
            "against": self.arms.against(launch),
            "gpus": gpu_facts(self.gpus),
            "co_tenancy": self.co_tenancy(),
            "checks": self._checks.get(launch),
            "memory": self.arms.doctor(launch).memory(launch.server, engine.facts)
            if engine and not engine.attached
            else None,
            "commits": self._commits.get(launch, {}),
        }

    def co_tenancy(self) -> dict[str, Any] | None:
        """What else of ours was on this host since the server started, as of now; None where
        nothing was leased."""
        return self._leasing.co_tenancy()

    def engine_version(self, spec: ServerSpec, engine: Engine | None = None) -> str:
        """As the distribution behind the command says, known before a start; else as the running
        engine says; else empty."""
        distribution = None if engine and engine.attached else self._distribution(spec)
        if distribution is not None:
            return distribution.version
        return (engine.facts.version or "") if engine else ""

    def say(self, text: str) -> None:
        """A line for the person at the terminal, now."""
        self._leasing.say(text)

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """The GPUs of the running server, as far as we gave them to it."""
        return self._leasing.gpus

    def commits(self, launch: Launch) -> dict[str, str | None]:
        """Commits of the repositories that a launch was started with."""
        return self._commits.get(launch, {})

    def check(self, launch: Launch) -> EngineCheck:
        """What the comparison of the recipe with the engine of a launch gave."""
        return self._checks[launch]

    def close(self) -> None:
        """Stop whatever still runs; the last line of defence when fixtures were not torn down."""
        if self._running is not None:
            self._running.stop()
            self._running = None
        self._leasing.end()

    def _started(self, launch: Launch, spec: ServerSpec) -> Engine | Failure:
        try:
            return self._start(launch, spec)
        except GpubenchError as error:
            return failure_of(error)
        except self._harness.limit as error:
            return self._harness.failure(error, f"{launch.server} was starting")
        except BaseException as error:
            failure = self._harness.failure(error, f"{launch.server} was starting")
            self._write_init(launch, spec, None, failure)
            raise

    def _start(self, launch: Launch, spec: ServerSpec) -> Engine:
        if self._settings.base_url:
            api_key = os.environ.get("OPENAI_API_KEY", "")
            return attach(
                self._settings.base_url,
                dialect_of(spec.framework),
                api_key=api_key,
                model=self._settings.model,
            )
        dialect = dialect_of(spec.framework)
        unmet = check_requires(spec.requires, self._distribution(spec), dialect.distributions)
        if unmet:
            remedy = "Use an engine that satisfies `requires`, or correct the recipe."
            raise BenchmarkError(
                Failure("engine-version", "recipe", "; ".join(unmet), remedy=remedy)
            )
        with self._spans(launch).of("fetch"):
            self._commits[launch] = self._fetched(spec)
        # Their config.json files may say more than was known before.
        doomed = self.arms.doctor(launch).death(launch.server)
        if doomed is not None:
            raise BenchmarkError(doomed)
        return self._launched(launch, spec)

    def _fetched(self, spec: ServerSpec) -> dict[str, str | None]:
        try:
            return fetch_weights(spec, self._settings.cache_dir, self._say_progress)
        except BenchmarkError:
            raise
        except GpubenchError as error:  # of the embedded pair: it is written, not fetched
            raise BenchmarkError(
                Failure("weights-missing", "infrastructure", str(error))
            ) from error

    def _say_progress(self, progress: Progress) -> None:
        """A line now and then: a download can take hours, and silence looks like a hang."""
        now = time.monotonic()
        if now >= self._next_word:
            self._next_word = now + _PROGRESS_SECONDS
            done, total = progress.done_bytes / 2**30, progress.total_bytes / 2**30
            what = (
                "another process is fetching it"
                if progress.waiting
                else f"{done:.1f} of {total:.1f} GiB"
            )
            self._leasing.say(f"weights of {progress.model}: {what}")

    def _launched(self, launch: Launch, spec: ServerSpec) -> Engine:
        engine = self._distribution(spec)
        with self._spans(launch).of("lease"):
            lease = self._leasing.take(launch.server, spec, self.arms.hardware(spec))
        cache = server_cache_dir(self._settings.cache_dir)
        settings = EngineSettings(
            command=self.arms.command(spec),
            log_path=self._folder.server_log(launch),
            label=launch.server,
            start_timeout=self._settings.start_timeout_s,
            cache_dir=str(cache) if cache else None,
            extra_env=self._leasing.env(spec, engine.version if engine else None),
            inherit_fds=lease.fds,
            weights=weights_files(spec, self._settings.cache_dir),
            folder=self.arms.folder(launch),
        )
        try:
            in_use = self.arms.doctor(launch).memory_in_use(launch.server, lease.grant.gpus)
            if in_use is not None:
                raise BenchmarkError(in_use)
            self._before_start(launch)
            with (
                lease.naming(),
                self._spans(launch).of("start"),
                reading_ahead(self._soon_read(spec)),
                self._shown(launch.server) as note,
            ):
                return start_engine(spec, settings, note)
        except BaseException:
            self._leasing.end()
            raise

    def _soon_read(self, spec: ServerSpec) -> tuple[Path, ...]:
        """What may be read ahead: on a host of our own nothing is measured while a server starts;
        on a shared one somebody may be measuring now."""
        if not self._settings.exclusive:
            return ()
        return files_of_weights(spec, self._settings.cache_dir)

    def _deviation(self, launch: Launch, spec: ServerSpec, engine: Engine) -> Failure | None:
        check = check_engine(spec, engine.facts, served_name=engine.served_name)
        self._checks[launch] = check
        if not check.deviations:
            return None
        return Failure(
            "not-as-asked",
            "recipe",
            "the engine that runs is not the one that the recipe asks for",
            check.deviations,
            remedy=(
                "Correct the recipe, or see why the engine decided otherwise in "
                f"{engine.log_path or 'its log'}."
            ),
        )

    def _give_up(
        self, launch: Launch, spec: ServerSpec, engine: Engine | None, failure: Failure
    ) -> NoReturn:
        self.mark_failed(launch, failure)
        self._dead_starts.add(launch)
        unwritten = self._write_init(launch, spec, engine, failure)
        text = f"{launch.server}: {failure}"
        raise Failed(f"{text}\n{unwritten.summary}" if unwritten else text)

    def _stop(self, launch: Launch, engine: Engine) -> None:
        self._running = None
        try:
            with self._spans(launch).of("stop"):
                stopped = engine.stop()
        except KeyboardInterrupt:
            # Not as such: at the session's end pytest has nobody left to catch it.
            raise Interrupted(
                "interrupted while the server was being stopped; it is gone"
            ) from None
        finally:
            self._leasing.end()
        if stopped is not None and stopped.remaining:
            self._leasing.say(f"{launch.server}: {', '.join(stopped.remaining)} outlived SIGKILL")
        self._keep_times(launch)

    def _keep_times(self, launch: Launch) -> None:
        """Into the record of the start, which was written before the server was stopped."""
        path = self._folder.init_record(launch)
        with contextlib.suppress(OSError, ValueError):  # somebody took it away: no times, then
            record = json.loads(path.read_text(encoding="utf-8"))
            try_to_write(path, record | {"times": self._spans(launch).seconds})

    def _spans(self, launch: Launch) -> Spans:
        return self._times.setdefault(launch, Spans())

    def _distribution(self, spec: ServerSpec) -> EngineDistribution | None:
        return self.arms.distribution(spec)

    def _engine_at_hand(self, spec: ServerSpec) -> EngineDistribution | None:
        # Where GPUs are missing anyway there is nothing to ask the engine about: the question costs
        # a process.
        return self._distribution(spec) if spec.hardware == "cpu" or self.inventory().gpus else None

    def _write_init(
        self, launch: Launch, spec: ServerSpec, engine: Engine | None, failure: Failure | None
    ) -> Failure | None:
        """Write the record of a start; returns why it could not be written."""
        record: dict[str, Any] = {
            "schema": SCHEMA_VERSION,
            "kind": "engine-init",
            "server": launch.server,
            "launch": launch,
            "finished": datetime.now(UTC).isoformat(),
            "spec": spec,
            "failure": failure,
            "times": self._spans(launch).seconds,
            **self.provenance(),
            **self.engine_part(launch, engine),
        }
        return try_to_write(self._folder.init_record(launch), record)
