"""The warm-up of a launch, before the first case on it: once, told in the record of its start."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pytest_gpubench.dialects.registry import dialect_of
from pytest_gpubench.engines.engine import Engine
from pytest_gpubench.engines.idleness import SILENCE_TIMEOUT_S, SILENT, HangWatch
from pytest_gpubench.engines.process import LaunchProgress
from pytest_gpubench.host.gpus.drivers import GpuSampler
from pytest_gpubench.host.gpus.inventory import Gpu
from pytest_gpubench.load.load_run import run_load, waves_of
from pytest_gpubench.load.protocol import LoadPlan, Progress, RequestRecord
from pytest_gpubench.load.workers import WorkerPool
from pytest_gpubench.measure.energy import Warmth, has_settled, warmth_of
from pytest_gpubench.model.cases import Case
from pytest_gpubench.model.failures import BenchmarkError, Failure
from pytest_gpubench.model.specs import Launch, ServerSpec
from pytest_gpubench.model.workload import Workload
from pytest_gpubench.report.records import RunFolder, try_to_write
from pytest_gpubench.runs.live_line import ShowsLaunch, launch_unseen

_MOST_TURNS = 3
"""Of each wave, while the engine still compiles kernels in it."""
_SETTLING_S = 30.0
"""Most that is waited for temperature and clock of the GPUs."""
_TURN_S = 2.0
"""Least that a look at the GPUs lasts: a load of a tenth of a second warms nothing, and is over
before the first sample."""
_EVERY_S = 1.0
"""Between words about it: the names of processes cost a look at each."""
_COMPILING_S = 900.0
"""Of one wave, while a compiler runs among the engine's processes: kernels that are compiled for
the first time on a host take minutes, in which nothing else tells a hung engine from a busy one."""


@dataclass(frozen=True, slots=True)
class _Server:
    """A launch that is warmed up."""

    launch: Launch
    spec: ServerSpec
    engine: Engine


class Warming:
    """Warms each launch up once."""

    def __init__(
        self, folder: RunFolder, load_workers: WorkerPool, shown: ShowsLaunch = launch_unseen
    ) -> None:
        self._folder = folder
        self._load_workers = load_workers
        self._warm: set[Launch] = set()
        self._shown = shown
        self._note: Callable[[LaunchProgress], None] | None = None
        self._began = self._next_note = 0.0

    def warm(
        self,
        launch: Launch,
        spec: ServerSpec,
        engine: Engine,
        cases: Iterable[Case],
        gpus: Sequence[Gpu] = (),
    ) -> None:
        """Send what warms the launch up, unless that was done, and go on until its GPUs have
        settled.

        What fails here is not judged: the case that needs it will fail, and say why.

        Raises:
            BenchmarkError: if the engine died or hangs, or the client cannot send.
        """
        if launch in self._warm:
            return
        self._warm.add(launch)
        loads = [case.workload for case in cases if case.evaluation is None]
        if not loads:
            return
        self._began = time.monotonic()
        with self._shown(launch.server) as self._note:
            self._tell(launch, self._warmed(_Server(launch, spec, engine), loads, gpus))

    def _warmed(
        self, server: _Server, loads: Sequence[Workload], gpus: Sequence[Gpu]
    ) -> dict[str, Any]:
        engine, ranks = server.engine, server.spec.topology.dp
        sent: list[RequestRecord] = []
        compiled: dict[str, None] = {}
        refused: dict[str, None] = {}
        last: Workload | None = None
        for number, wave in enumerate(waves_of(loads, ranks)):
            for turn in range(_MOST_TURNS):
                since = time.monotonic_ns()
                try:
                    sent += self._send(server, wave, f"{number}-{turn}")
                except BenchmarkError as error:
                    # What happens to the client or the host would spoil the case as well.
                    ours = error.failure.failure_class in ("client", "infrastructure")
                    if ours or error.failure.cause == SILENT or engine.alive() is not None:
                        raise
                    refused[error.failure.summary] = None
                    break
                last = wave
                found = engine.compiled_between(since, time.monotonic_ns())
                compiled |= dict.fromkeys(found)
                if not found:
                    break
        settling = self._settle(server, last, gpus) if gpus and last else {}
        said = {
            "seconds": round(time.monotonic() - self._began, 3),
            "requests": len(sent),
            "failed": sum(not record.ok for record in sent),
            "ranks": ranks,
            "compiled": list(compiled),
            "refused": list(refused),
        }
        return said | settling

    def _settle(self, server: _Server, wave: Workload, gpus: Sequence[Gpu]) -> dict[str, Any]:
        """Load the GPUs until temperature and clock stay, or the time for that is over."""
        began = time.monotonic()
        before: dict[str, Warmth] | None = None
        turns, settled = 0, False
        temperatures: list[int | None] = []
        with GpuSampler(gpus) as sampler:
            while not settled and time.monotonic() - began < _SETTLING_S:
                turns += 1
                seen = len(sampler.samples)
                self._load_for(_TURN_S, server, wave, f"settling-{turns}")
                now = warmth_of(sampler.samples[seen:])
                temperatures.append(max((it.temperature or 0 for it in now.values()), default=None))
                settled = before is not None and has_settled(before, now)
                before = now
        return {"settled": settled, "settling_turns": turns, "temperatures": temperatures}

    def _load_for(self, seconds: float, server: _Server, wave: Workload, number: str) -> None:
        """Send a load again and again, for so long at least."""
        until = time.monotonic() + seconds
        for turn in itertools.count():
            self._send(server, wave, f"{number}-{turn}")
            if time.monotonic() >= until:
                return

    def _send(self, server: _Server, wave: Workload, number: str) -> tuple[RequestRecord, ...]:
        engine, framework = server.engine, server.spec.framework
        plan = LoadPlan(
            engine.url,
            engine.served_name,
            replace(wave, seed=wave.seed + 1),
            framework,
            launch=f"{replace(server.launch, arm='').label}-warmup-{number}",
            salt=server.launch.server,
        )
        watch = HangWatch(engine.scrape, SILENCE_TIMEOUT_S, dialect_of(framework).counters)

        def on_progress(progress: Progress) -> None:
            watch.note(None if progress.stage == "prompts" else progress.done)

        began = time.monotonic()

        def check() -> Failure | None:
            self._show(engine)
            dead = engine.alive()
            silent = None if dead else watch.check()
            compiling = (
                silent is not None
                and engine.process is not None
                and time.monotonic() - began < _COMPILING_S
                and bool(engine.process.compilers())
            )
            return None if compiling else dead or silent

        result = run_load(
            plan,
            api_key=engine.api_key,
            check_server=check,
            on_progress=on_progress,
            pool=self._load_workers,
        )
        return result.records

    def _show(self, engine: Engine) -> None:
        now = time.monotonic()
        if self._note is None or now < self._next_note:
            return
        self._next_note = now + _EVERY_S
        if engine.process is not None:
            self._note(engine.process.progress("warming up", self._began))
        else:
            self._note(LaunchProgress("warming up", now - self._began))

    def _tell(self, launch: Launch, said: dict[str, Any]) -> None:
        path = self._folder.init_record(launch)
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return  # the record of the start says itself why it is not there
        try_to_write(path, record | {"warmup": said})
