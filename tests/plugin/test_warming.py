"""The warm-up of a launch."""

from __future__ import annotations

import contextlib
import itertools
import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_gpubench.engines.idleness import HangWatch
from pytest_gpubench.host.gpus.inventory import GpuSample
from pytest_gpubench.load.protocol import Progress
from pytest_gpubench.load.workers import WorkerPool
from pytest_gpubench.model.failures import BenchmarkError, Failure
from pytest_gpubench.model.specs import Launch
from pytest_gpubench.model.workload import Workload
from pytest_gpubench.report.records import RunFolder
from pytest_gpubench.runs import warming
from tests.plugin.conftest import Project

ONE = ("benchmarks", "-m", "cpu and not mtp and (c1 or c2)")


def test_a_launch_is_warmed_up_once_and_its_record_says_so(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUBENCH_STUB_WARM", "1")
    assert project.run(*ONE).ret == 0
    (path,) = project.pytester.path.rglob("init/launch-1.json")
    said = json.loads(path.read_text())["warmup"]
    assert said["requests"] == 4  # one rank: two one by one, then two at once
    assert said["failed"] == 0
    assert said["ranks"] == 1
    assert said["compiled"] == []
    assert said["seconds"] > 0
    for record in project.cases():
        totals = record["measurement"]["totals"]
        assert totals["output_tokens_with_warmup"] == totals["engine_output_tokens"]


@pytest.mark.parametrize(
    ("compilers", "seconds", "caught"),
    [((), 400, True), (("ptxas",), 800, False), (("ptxas",), 2000, True)],
)
def test_a_warm_up_tells_an_engine_that_hangs_from_one_that_compiles(
    compilers: tuple[str, ...],
    seconds: int,
    caught: bool,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    now = [0.0]
    seen: list[Any] = []

    def load(plan: Any, *, check_server: Any, on_progress: Any, **_: Any) -> Any:
        on_progress(Progress("measured", 0, 2))
        while now[0] < seconds and not any(seen):
            now[0] += 10
            seen.append(check_server())
        return SimpleNamespace(records=())

    monkeypatch.setattr(warming, "run_load", load)
    monkeypatch.setattr("pytest_gpubench.runs.warming.time.monotonic", lambda: now[0])
    monkeypatch.setattr(warming, "HangWatch", partial(HangWatch, clock=lambda: now[0]))
    engine = SimpleNamespace(
        url="http://x",
        served_name="x",
        api_key="",
        alive=lambda: None,
        scrape=lambda: "",
        process=SimpleNamespace(compilers=lambda: compilers),
    )
    workload = Workload(isl=8, osl=8, conc=2, num_prompts=4, num_warmups=2)
    server: Any = SimpleNamespace(
        launch=Launch("server"), spec=SimpleNamespace(framework="vllm"), engine=engine
    )
    warmer = warming.Warming(RunFolder(tmp_path), WorkerPool())
    warmer._send(server, workload, "0-0")
    assert [failure.cause for failure in seen if failure] == ["silent-engine"] * caught


@pytest.mark.parametrize(
    ("dead", "cause"), [(False, "tokenize-failed"), (True, "engine-died"), (False, "silent-engine")]
)
def test_only_an_engine_that_is_lost_ends_the_case_that_warms_it_up(
    dead: bool, cause: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    failure = Failure(cause, "engine", "no chat template")

    def load(plan: Any, **_: Any) -> Any:
        if plan.workload.isl == 8:
            raise BenchmarkError(failure)
        return SimpleNamespace(records=(SimpleNamespace(ok=True),))

    monkeypatch.setattr(warming, "run_load", load)
    folder, launch = RunFolder(tmp_path), Launch("server")
    folder.init_record(launch).parent.mkdir(parents=True)
    folder.init_record(launch).write_text("{}")
    engine = SimpleNamespace(
        url="http://x",
        served_name="x",
        api_key="",
        alive=lambda: failure if dead else None,
        scrape=lambda: "",
        compiled_between=lambda *_: (),
    )
    cases = [
        SimpleNamespace(workload=Workload(isl, 8, 2, 4, 2), evaluation=None) for isl in (8, 16)
    ]
    spec = SimpleNamespace(topology=SimpleNamespace(dp=1), framework="vllm")
    warmer = warming.Warming(folder, WorkerPool())
    if cause != "tokenize-failed":
        with pytest.raises(BenchmarkError):
            warmer.warm(launch, spec, engine, cases)  # type: ignore[arg-type]
        return
    warmer.warm(launch, spec, engine, cases)  # type: ignore[arg-type]
    said = json.loads(folder.init_record(launch).read_text())["warmup"]
    assert said["refused"] == ["no chat template"]
    assert said["requests"] == 2


def settled_after(temperatures: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """What a launch's record says of a GPU that has these temperatures, load after load."""
    seen: list[GpuSample] = []
    left = iter(temperatures)
    sampler = SimpleNamespace(samples=seen)
    sent = SimpleNamespace(records=(SimpleNamespace(ok=True),))
    clock = itertools.count(0.0, 1.6)  # so that one load is one look at the GPUs

    def load(plan: Any, **_: Any) -> Any:
        if "settling" in plan.launch:
            seen.append(GpuSample("a", 0, temperature=next(left), sm_clock=1980, utilization=9))
        return sent

    monkeypatch.setattr(warming, "run_load", load)
    monkeypatch.setattr(warming, "GpuSampler", lambda _: contextlib.nullcontext(sampler))
    monkeypatch.setattr("pytest_gpubench.runs.warming.time.monotonic", lambda: next(clock))
    folder, launch = RunFolder(tmp_path), Launch("server")
    path = folder.init_record(launch)
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    engine = SimpleNamespace(
        url="http://x",
        served_name="x",
        api_key="",
        alive=lambda: None,
        scrape=lambda: "",
        compiled_between=lambda *_: (),
    )
    workload = Workload(isl=8, osl=8, conc=2, num_prompts=4, num_warmups=2)
    case = SimpleNamespace(workload=workload, evaluation=None)
    spec = SimpleNamespace(topology=SimpleNamespace(dp=1), framework="vllm")
    warming.Warming(folder, WorkerPool()).warm(launch, spec, engine, [case], [object()])  # type: ignore[arg-type, list-item]
    return json.loads(path.read_text())["warmup"]


def test_gpus_are_kept_busy_until_they_are_warm(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said = settled_after([35, 40, 43, 44, 50], monkeypatch, tmp_path)
    assert said["temperatures"] == [35, 40, 43, 44]
    assert said["settled"]
    assert said["settling_turns"] == 4


def test_a_look_at_the_gpus_lasts_seconds_however_short_the_load(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(warming, "_TURN_S", 10.0)
    said = settled_after([30, 31, 32, 40, *[43] * 20], monkeypatch, tmp_path)
    assert said["temperatures"][0] == 40


def test_gpus_that_never_settle_hold_nobody_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said = settled_after(list(range(30, 2000, 5)), monkeypatch, tmp_path)
    assert not said["settled"]
    assert said["settling_turns"] < 40
