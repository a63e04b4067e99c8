"""The warm-up of a launch, before the first case on it: once, told in the record of its start."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from pytest_gpubench.engines.engine import Engine
from pytest_gpubench.load.load_run import run_load
from pytest_gpubench.load.protocol import LoadPlan
from pytest_gpubench.load.warmup_waves import waves_of
from pytest_gpubench.load.workers import WorkerPool
from pytest_gpubench.model.cases import Case
from pytest_gpubench.model.specs import Launch, ServerSpec
from pytest_gpubench.report.records import RunFolder, try_to_write

_MOST_TURNS = 3
"""Of each wave, while the engine still compiles kernels in it."""
_LIMIT_S = 900.0
"""Of one wave: kernels that are compiled for the first time on a host take minutes."""


class Warming:
    """Warms each launch up once."""

    def __init__(self, folder: RunFolder, load_workers: WorkerPool) -> None:
        self._folder = folder
        self._load_workers = load_workers
        self._warm: set[Launch] = set()

    def warm(self, launch: Launch, spec: ServerSpec, engine: Engine, cases: Iterable[Case]) -> None:
        """Send what warms the launch up, unless that was done.

        What fails here is not judged: the case that needs it will fail, and say why.

        Raises:
            BenchmarkError: if the engine died.
        """
        if launch in self._warm:
            return
        self._warm.add(launch)
        loads = [case.workload for case in cases if case.evaluation is None]
        if not loads:
            return
        began, requests, failed = time.monotonic(), 0, 0
        compiled: dict[str, None] = {}
        ranks = spec.topology.dp
        for number, wave in enumerate(waves_of(loads, ranks)):
            for turn in range(_MOST_TURNS):
                since = time.monotonic_ns()
                plan = LoadPlan(
                    engine.url,
                    engine.served_name,
                    replace(wave, seed=wave.seed + 1),
                    spec.framework,
                    launch=f"{replace(launch, arm='').label}-warmup-{number}-{turn}",
                    salt=launch.server,
                    deadline=_LIMIT_S,
                )
                result = run_load(
                    plan,
                    api_key=engine.api_key,
                    check_server=engine.alive,
                    pool=self._load_workers,
                )
                requests += len(result.records)
                failed += sum(not record.ok for record in result.records)
                found = engine.compiled_between(since, time.monotonic_ns())
                compiled |= dict.fromkeys(found)
                if not found:
                    break
        self._tell(
            launch,
            {
                "seconds": round(time.monotonic() - began, 3),
                "requests": requests,
                "failed": failed,
                "ranks": ranks,
                "compiled": list(compiled),
            },
        )

    def _tell(self, launch: Launch, said: dict[str, Any]) -> None:
        path = self._folder.init_record(launch)
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return  # the record of the start says itself why it is not there
        try_to_write(path, record | {"warmup": said})
