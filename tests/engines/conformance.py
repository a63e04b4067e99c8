"""What an engine must do to be one, whichever it is: run against stubs and against real engines.

`Subject` says how to start it; each function here is one promise, and takes a running engine or
starts its own. ``docs/adding-an-engine.md`` tells how to use it for an engine of one's own.
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from pytest_gpubench.dialects.dialect import Dialect
from pytest_gpubench.dialects.registry import dialect_of
from pytest_gpubench.engines.engine import Engine, check_engine
from pytest_gpubench.engines.idleness import wait_idle
from pytest_gpubench.engines.lifecycle import EngineSettings, attach, start_engine
from pytest_gpubench.load.load_run import run_load
from pytest_gpubench.load.protocol import LoadPlan
from pytest_gpubench.measure.compute import compute
from pytest_gpubench.measure.measurement import Measurement
from pytest_gpubench.model.failures import BenchmarkError, Failure
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.specs import ServerSpec
from pytest_gpubench.model.workload import Workload

NOTICED_WITHIN_S = 15.0
"""From the death of a process of the engine to its name."""


@dataclass(frozen=True)
class Subject:
    """One engine under the promises."""

    spec: ServerSpec
    command: tuple[str, ...]
    weights: dict[str, str] = field(default_factory=dict)
    cache_dir: str | None = None
    lies: tuple[tuple[str, object], ...] = ()
    """Flags, with values that the engine is not started with, that its facts must refute."""
    osl: int = 16
    """Output tokens of a request: with a draft enough for it to be used."""
    limit: float = 300.0

    @property
    def dialect(self) -> Dialect:
        return dialect_of(self.spec.framework)

    def settings(self, log: Path, fault: str = "", port: int | None = None) -> EngineSettings:
        env = {"GPUBENCH_STUB_FAULT": fault} if fault else {}
        return EngineSettings(
            self.command,
            log,
            weights=self.weights,
            cache_dir=self.cache_dir,
            extra_env=env,
            start_timeout=self.limit,
            port=port,
        )


@contextmanager
def running(subject: Subject, log: Path, fault: str = "") -> Iterator[Engine]:
    """The engine, started and stopped."""
    engine = start_engine(subject.spec, subject.settings(log, fault))
    try:
        yield engine
    finally:
        engine.stop()


def death_of(subject: Subject, log: Path, fault: str = "", port: int | None = None) -> Failure:
    """Why a start failed."""
    try:
        engine = start_engine(subject.spec, subject.settings(log, fault, port))
    except BenchmarkError as error:
        return error.failure
    engine.stop()
    raise AssertionError("it started")


def tells_what_it_is(subject: Subject, engine: Engine) -> None:
    """Its facts agree with the spec that it was started with, and refute another."""
    check = check_engine(subject.spec, engine.facts, served_name=engine.served_name)
    assert check.deviations == ()
    assert {"served name", "engine"} <= set(check.checked)
    for flag, value in subject.lies:
        other = dataclasses.replace(
            subject.spec, serve=FrozenMap({**subject.spec.serve, flag: value})
        )
        told = check_engine(other, engine.facts, served_name=engine.served_name)
        assert told.deviations, f"--{flag} {value} is not refuted"
    strange = check_engine(subject.spec, engine.facts, served_name="another")
    assert strange.deviations
    for framework in ("vllm", "sglang", "llamacpp"):
        if framework != subject.spec.framework:
            as_other = dataclasses.replace(engine.facts, owned_by=subject.dialect.owners[0])
            spec = dataclasses.replace(subject.spec, framework=framework, speculative=None)
            deviations = check_engine(spec, as_other, served_name=engine.served_name).deviations
            assert any(text.startswith("engine: ") for text in deviations)


def keeps_its_key(engine: Engine, log: Path) -> None:
    """The key is asked for, and nobody else can read it: no argument list, log, fact or record."""
    key = engine.api_key
    for wrong in ("", "wrong"):
        request = urllib.request.Request(f"{engine.base_url}/models")
        if wrong:
            request.add_header("Authorization", f"Bearer {wrong}")
        assert _status(request) in (401, 403)
    assert engine.process is not None
    first = psutil.Process(engine.process.pid)
    for process in (first, *first.children(recursive=True)):
        line = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        assert key.encode() not in line
    assert key not in log.read_text(encoding="utf-8", errors="replace")
    plain = json.dumps(dataclasses.asdict(engine.facts), default=str)
    assert key not in plain
    assert key not in json.dumps([engine.argv, dict(engine.env)])
    left = [
        path
        for path in Path("/tmp").glob("gpubench-*.yaml")
        if os.access(path, os.R_OK) and key in path.read_text(encoding="utf-8", errors="replace")
    ]
    assert left == []


def measures(subject: Subject, engine: Engine, **changes: object) -> Measurement:
    """A load run from idle to idle gives a measurement without a problem, whose tokens are those
    that the engine has counted."""
    workload = Workload(
        isl=24,
        osl=subject.osl,
        conc=4,
        num_prompts=24,
        num_warmups=4,
        **changes,  # type: ignore[arg-type]
    )
    counters = subject.dialect.counters
    before = wait_idle(engine.scrape, counters, 30)
    plan = LoadPlan(engine.url, engine.served_name, workload, subject.spec.framework)
    result = run_load(
        plan,
        api_key=engine.api_key,
        check_server=engine.alive,
        fetch_metrics=engine.scrape,
        metrics_interval=0.05,
    )
    after = wait_idle(engine.scrape, counters, 30)
    found = compute(
        result.records,
        before,
        after,
        workload,
        subject.spec.topology,
        result.client,
        counters=counters,
        speculative=subject.spec.speculative is not None,
        prefix_caching=subject.dialect.prefix_caching(subject.spec),
        pages=result.pages,
        served_name=engine.served_name,
    )
    assert found.problems == ()
    totals = found.totals
    assert totals.failed == 0
    assert totals.engine_output_tokens == totals.output_tokens_with_warmup
    assert found.metrics["output_tput"] > 0
    assert found.metrics["ttft_p50"] > 0
    assert found.recount["answers"] > 0, found.recount["unchecked"]
    assert found.invalid == () or found.recount["counted"] == found.recount["claimed"]
    return found


def can_be_attached_to(subject: Subject, engine: Engine) -> None:
    """Somebody else's server of this kind is measured as it is, and one of another kind refused."""
    theirs = attach(engine.base_url, subject.dialect, api_key=engine.api_key)
    assert theirs.served_name == engine.served_name
    check = check_engine(subject.spec, theirs.facts, served_name=theirs.served_name)
    assert check.deviations == ()


def leaves_nothing(engine: Engine) -> None:
    """Stopped, it is gone: processes and port."""
    assert engine.process is not None
    first = psutil.Process(engine.process.pid)
    tree = [first, *first.children(recursive=True)]
    report = engine.stop()
    assert report is not None
    assert report.remaining == ()
    assert [process for process in tree if _lives(process)] == []
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(engine.url.rpartition(":")[2]))) != 0


def names_a_killed_process(engine: Engine) -> Failure:
    """The process that holds the model is killed: that it is lost is known within 15 s."""
    assert engine.process is not None
    first = psutil.Process(engine.process.pid)
    max(first.children(recursive=True) or [first], key=_memory).kill()
    began = time.monotonic()
    while (failure := engine.alive()) is None:
        assert time.monotonic() - began < NOTICED_WITHIN_S, "nobody noticed"
        time.sleep(0.05)
    return failure


def names_a_taken_port(subject: Subject, log: Path) -> None:
    """A port that somebody else has is named as such."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        failure = death_of(subject, log, port=int(taken.getsockname()[1]))
    assert failure.cause == "port-in-use"
    assert failure.failure_class == "infrastructure"


def refuses_a_wrong_flag(subject: Subject, log: Path) -> None:
    """A flag that it does not have is the recipe's fault."""
    spec = dataclasses.replace(subject.spec, extra_args=("--no-such-flag-at-all",))
    failure = death_of(dataclasses.replace(subject, spec=spec), log)
    assert failure.cause == "wrong-argument"
    assert failure.failure_class == "recipe"


def _memory(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def _status(request: urllib.request.Request) -> int:
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
