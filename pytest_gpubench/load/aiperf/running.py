"""AIPerf's command line, made of a workload, and its process: in an environment of its own,
offline, watched, and never left behind."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from pytest_gpubench.engines.log_sink import LogSink
from pytest_gpubench.engines.process import ServerProcess
from pytest_gpubench.host.hub.local import default_cache_dir
from pytest_gpubench.load.aiperf import launcher
from pytest_gpubench.load.load_run import ask_again
from pytest_gpubench.load.protocol import Progress
from pytest_gpubench.model.client_tools import Tool
from pytest_gpubench.model.failures import BenchmarkError, Failure
from pytest_gpubench.model.frozen import Frozen, FrozenMap, spelled, thaw
from pytest_gpubench.model.workload import Workload

_GOODPUT = {"ttft": "time_to_first_token", "tpot": "inter_token_latency", "e2e": "request_latency"}
"""Limits of goodput, by AIPerf's names; in milliseconds there."""
_DEFAULTS: dict[str, Frozen] = {"gpu-telemetry": False, "server-metrics": False}
"""Said unless the recipe says otherwise: GPUs and counters are watched here."""


@dataclass(frozen=True, slots=True)
class AiperfPlan:
    """One run of AIPerf against a server."""

    url: str
    """Root of the server."""
    model: str
    """Served model name."""
    workload: Workload
    tokenizer: str
    """Repository whose tokenizer makes prompts of a length; it must be in the cache."""
    folder: str
    """Where it writes its files."""
    seed: int = 0
    """Of its random numbers, unless the recipe gives one."""
    revision: str = ""
    """Commit of the tokenizer's repository; empty: its main branch."""
    trust_remote_code: bool = False
    """Whether the tokenizer may bring code, as the server was allowed."""

    @property
    def tool(self) -> Tool:
        """What is run.

        Raises:
            ValueError: if the workload is our own client's.
        """
        if self.workload.tool is None:
            raise ValueError("the workload names no tool")
        return self.workload.tool


def aiperf_words(plan: AiperfPlan) -> tuple[str, ...]:
    """The words behind ``aiperf``, without the server's key."""
    told = {**_DEFAULTS, **_own(plan), **plan.tool.arguments}
    inputs, more = _inputs(plan.workload), plan.tool.arguments.get("extra-inputs")
    told["extra-inputs"] = FrozenMap(inputs | (dict(more) if isinstance(more, FrozenMap) else {}))
    words = [word for name, value in told.items() for word in _flag(name, value)]
    return ("profile", *words)


def _own(plan: AiperfPlan) -> dict[str, Frozen]:
    """What the recipe's rows and keys decide; arguments never name it, but for defaults."""
    load = plan.workload
    told: dict[str, Frozen] = {
        "url": plan.url,
        "model": plan.model,
        "endpoint-type": load.api,
        "streaming": True,
        "use-server-token-count": True,
        "output-artifact-dir": plan.folder,
        "ui-type": "none",
        "random-seed": plan.seed,
        "tokenizer": plan.tokenizer,
    }
    if plan.revision and "tokenizer" not in plan.tool.arguments:
        told["tokenizer-revision"] = plan.revision
    if plan.trust_remote_code:
        told["tokenizer-trust-remote-code"] = True
    if plan.tool.scenario:
        told["scenario"] = plan.tool.scenario
    if load.open_loop:
        told |= {"request-rate": load.request_rate, "arrival-pattern": load.arrival}
        if load.arrival == "gamma":
            told["arrival-smoothness"] = load.burstiness
    else:
        told["concurrency"] = load.conc
    if load.duration is not None:
        told["benchmark-duration"] = load.duration
    if load.osl:
        told["osl"] = load.osl
    if not load.traced:
        told |= {"isl": load.isl, "request-count": load.num_prompts}
        if load.num_warmups:
            told["warmup-request-count"] = load.num_warmups
    if load.slo:
        limits = thaw(load.slo).items()
        told["goodput"] = " ".join(f"{_GOODPUT[name]}:{at * 1e3:g}" for name, at in limits)
    return told


def _inputs(load: Workload) -> dict[str, Any]:
    """What our client would send with every request as well."""
    inputs: dict[str, Any] = {"ignore_eos": load.ignore_eos, "temperature": load.temperature}
    if load.chat_template_kwargs and load.api == "chat":
        inputs["chat_template_kwargs"] = thaw(load.chat_template_kwargs)
    return inputs


def _flag(name: str, value: Frozen) -> Iterator[str]:
    """A switch, ``--name=value`` (so that no value passes for a flag), or several of them."""
    if isinstance(value, bool):
        yield f"--{name}" if value else f"--no-{name}"
    elif isinstance(value, tuple):
        yield from (f"--{name}={spelled(item)}" for item in value)
    elif isinstance(value, FrozenMap):
        yield f"--{name}={json.dumps(thaw(value))}"
    else:
        yield f"--{name}={spelled(value)}"


RECORDS = "profile_export.jsonl"
"""One line a request, as they end."""
PREPARING_S = 1800.0
"""Without a sign of life before the first request: making prompts of a large trace takes long."""
STALL_S = 600.0
"""Without one after it: no request ends, and the engine counts nothing."""
UNLIMITED_S = 6 * 3600.0
"""Of a run that counts its requests."""
_AFTER_S = 1200.0
"""For the warm-up and the answers that are still under way when the duration is over."""
WORKER = re.compile(r"worker_[0-9a-f]+")
"""Names of those of its processes that send requests and stamp answers. The one that keeps the
schedule spins while it waits, so that its processor time says nothing."""
LOOP_WARNING_S = 0.005
"""AIPerf is told to warn of every event loop that is later than this."""
_IN_FOLDER = "gpubench/model-in-a-folder"
"""Stands for the repository of a model that is a folder."""
_POLL_S = 0.2
_LOOK_S = 1.0
_NOT_PASSED = re.compile(
    r"(https?_proxy|all_proxy|openai_.*|pytest_.*|python(path|home|startup)|virtual_env|aiperf_.*)",
    re.IGNORECASE,
)
"""Variables that would lead requests elsewhere, or belong to another environment than AIPerf's."""
_BOX = " \t│╭╮╰╯─•"


@dataclass(slots=True)
class AiperfRun:
    """A run that ended well; what it wrote is in the plan's folder."""

    argv: tuple[str, ...]
    """Without the key, which is in none."""
    log: tuple[str, ...]
    cpu: list[tuple[int, dict[int, float]]] = field(default_factory=list)
    """CPU seconds of each of its workers so far, by ``monotonic_ns`` of the look."""


def run_aiperf(
    plan: AiperfPlan,
    interpreter: str,
    log: LogSink,
    *,
    api_key: str,
    cache_dir: str = "",
    check: Callable[[], Failure | None] = lambda: None,
    well: Callable[[], bool] = lambda: False,
    engine_counts: Callable[[], object] = lambda: None,
    on_progress: Callable[[Progress], None] = lambda _progress: None,
    stall: float = STALL_S,
    preparing: float = PREPARING_S,
    limit: float | None = None,
) -> AiperfRun:
    """Run AIPerf to its end.

    Args:
        plan: what it is to do.
        interpreter: the Python that it is installed in.
        log: takes the process's output.
        api_key: of the server; handed over in the environment, never in a command line.
        cache_dir: cache of Hugging Face where it is not the usual one.
        check: what is wrong with the server.
        well: whether the server is proven to live; asked where AIPerf has failed.
        engine_counts: what the engine has counted; asked when AIPerf shows no sign of life.
        on_progress: is told of every second.
        stall: seconds without a sign of life that are too many once requests are sent.
        preparing: likewise before the first request has ended.
        limit: seconds for all of it; None: by the workload's duration.

    Raises:
        BenchmarkError: if the server is not well, or AIPerf failed, stalled or took too long. Its
            processes have ended then.
    """
    folder = Path(plan.folder)
    folder.mkdir(parents=True, exist_ok=True)
    # Short, since the sockets between its processes have paths in it, and taken away afterwards.
    scratch = tempfile.mkdtemp(prefix="gpubench-")
    if Path(plan.tokenizer).is_dir():
        cache_dir = str(tokenizer_cache(plan.tokenizer, cache_dir, Path(scratch, "hub")))
        plan = replace(plan, tokenizer=_IN_FOLDER, revision="")
    words = aiperf_words(plan)
    environment = _environment(api_key, cache_dir, scratch)
    run = AiperfRun(("aiperf", *words), ())
    watch = _Watch(plan, engine_counts, stall, preparing)
    until = time.monotonic() + (limit or _limit(plan))
    process: ServerProcess | None = None
    try:
        process = ServerProcess.start(
            (interpreter, launcher.__file__, *words), environment, log, cwd=folder
        )
        looked = -math.inf
        while process.poll() is None:
            now = time.monotonic()
            if now - looked >= _LOOK_S:
                looked = now
                run.cpu.append((time.monotonic_ns(), _cpu_seconds(process)))
                on_progress(watch.progress(log.bytes_seen))
            failure = check() or watch.check()
            if failure is None and now > until:
                failure = _too_long(plan, watch, now - (until - (limit or _limit(plan))))
            if failure is not None:
                raise BenchmarkError(failure)
            time.sleep(_POLL_S)
        process.wait_drained(2.0)
    finally:
        if process is not None:
            process.stop()
        shutil.rmtree(scratch, ignore_errors=True)
    run.log = tuple(log.lines())
    if process.poll() != 0:
        failure = _failed(process.poll(), log)
        if failure.failure_class == "client":
            # Of a server that died it says no more than that requests failed.
            ask_again(check, well=well)
        raise BenchmarkError(failure)
    return run


def tokenizer_cache(model: str, cache_dir: str, hub: Path) -> Path:
    """A cache of Hugging Face with the tokenizer of a folder in it, and all that the usual one
    holds: offline AIPerf takes no path for a tokenizer.

    Args:
        model: the folder.
        cache_dir: the usual cache; empty: as the environment says.
        hub: where the new one is made, of links.
    """
    usual = Path(cache_dir) if cache_dir else default_cache_dir()
    hub.mkdir(parents=True)
    if usual.is_dir():
        for entry in usual.iterdir():
            (hub / entry.name).symlink_to(entry.absolute())
    repository = hub / f"models--{_IN_FOLDER.replace('/', '--')}"
    commit = "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "snapshots").mkdir()
    (repository / "refs" / "main").write_text(commit, encoding="utf-8")
    (repository / "snapshots" / commit).symlink_to(Path(model).absolute())
    return hub


def _limit(plan: AiperfPlan) -> float:
    duration = plan.workload.duration
    return UNLIMITED_S if duration is None else PREPARING_S + 1.5 * duration + _AFTER_S


def _environment(api_key: str, cache_dir: str, scratch: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not _NOT_PASSED.fullmatch(name)}
    ours = {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TMPDIR": scratch,
        "NO_COLOR": "1",
        "COLUMNS": "160",
        "AIPERF_DATASET_CONFIGURATION_TIMEOUT": f"{PREPARING_S:.0f}",
        "AIPERF_SERVICE_PROFILE_CONFIGURE_TIMEOUT": f"{PREPARING_S:.0f}",
        "AIPERF_SERVICE_EVENT_LOOP_HEALTH_WARN_THRESHOLD_MS": f"{LOOP_WARNING_S * 1e3:g}",
    }
    if api_key:
        ours[launcher.KEY] = api_key
    if cache_dir:
        ours["HF_HUB_CACHE"] = cache_dir
    return kept | ours


def _cpu_seconds(process: ServerProcess) -> dict[int, float]:
    seconds: dict[int, float] = {}
    for one in process.tree():
        try:
            titles = one.cmdline()
            if titles and WORKER.search(titles[0]):
                times = one.cpu_times()
                seconds[one.pid] = times.user + times.system
        except psutil.Error:
            continue
    return seconds


class _Watch:
    """How far AIPerf is, by the requests that it has written down, and whether it goes on."""

    def __init__(
        self, plan: AiperfPlan, engine_counts: Callable[[], object], stall: float, preparing: float
    ) -> None:
        self._path = Path(plan.folder, RECORDS)
        load = plan.workload
        self._totals: Mapping[str, int] = (
            {} if load.traced else {"warmup": load.num_warmups, "measured": load.num_prompts}
        )
        self._engine_counts = engine_counts
        self._stall, self._preparing = stall, preparing
        self._read = 0
        self._rest = b""
        self._said = 0
        self._counted: object = None
        self._moved = self._asked = time.monotonic()
        self.warmup = self.measured = 0

    def progress(self, said: int) -> Progress:
        """What has been written since; ``said`` bytes of output so far."""
        before = self.warmup + self.measured
        self._take()
        # What it prints once requests are under way may come from a clock, not from work.
        talking = not self.measured and said != self._said
        self._said = said
        if self.warmup + self.measured != before or talking:
            self._moved = time.monotonic()
        if self.measured:
            return Progress("measured", self.measured, self._totals.get("measured", 0))
        if self.warmup:
            return Progress("warmup", self.warmup, self._totals.get("warmup", 0))
        return Progress("prompts", 0, 0)

    def check(self) -> Failure | None:
        """A failure once nothing has moved for too long."""
        limit = self._stall if self.warmup or self.measured else self._preparing
        now = time.monotonic()
        if now - max(self._moved, self._asked) < limit / 4:
            return None
        self._asked = now
        counted = self._engine_counts()
        if counted != self._counted:
            self._counted, self._moved = counted, now
        if now - self._moved < limit:
            return None
        return Failure(
            "aiperf-stalled",
            "client",
            f"AIPerf stalled: for {limit:g} s no request ended and the engine counted nothing, "
            f"after {self.done}",
            remedy="Look at its log; where the trace has longer pauses than that, cap them "
            "(inter-turn-delay-cap-seconds, max-idle-gap-cap-seconds under client.arguments).",
        )

    @property
    def done(self) -> str:
        """For sentences."""
        return f"{self.measured} measured and {self.warmup} warm-up requests"

    def _take(self) -> None:
        try:
            with self._path.open("rb") as file:
                file.seek(self._read)
                new = file.read()
        except OSError:
            return
        self._read += len(new)
        *lines, self._rest = (self._rest + new).split(b"\n")
        for line in lines:
            if b'"benchmark_phase":"warmup"' in line:
                self.warmup += 1
            else:
                self.measured += 1


def _too_long(plan: AiperfPlan, watch: _Watch, seconds: float) -> Failure:
    asked = plan.workload.duration
    told = "" if asked is None else f" though it was asked to measure for {asked:g} s"
    return Failure(
        "aiperf-too-long",
        "client",
        f"AIPerf was not finished after {seconds:,.0f} s{told}: {watch.done} ended",
        remedy="Look at its log; ask for fewer requests, or for a shorter duration.",
    )


def _failed(code: int | None, log: LogSink) -> Failure:
    words, evidence = last_words(log.lines())
    refused = words.startswith(("Unknown option", "Invalid value", "Parameter "))
    remedy = f"Look at {log.path}."
    if "HuggingFace" in words or "HFValidationError" in words or "okenizer" in words:
        remedy = (
            "It reads the tokenizer by the name of its repository from the Hugging Face cache: "
            f"name one that is there (`tokenizer` under client.arguments). {remedy}"
        )
    ended = f"was killed by signal {-code}" if code and code < 0 else f"ended with exit code {code}"
    return Failure(
        "aiperf-failed",
        "recipe" if refused else "client",
        f"AIPerf {ended}: {words[:500]}",
        evidence,
        remedy,
    )


def last_words(lines: list[str]) -> tuple[str, tuple[str, ...]]:
    """Why AIPerf says it failed, and the lines of its log that say more."""
    plain = [line.strip(_BOX) for line in lines]
    reason: list[str] = []
    boxed = False
    for raw, line in zip(lines, plain, strict=True):
        inside = raw.lstrip().startswith("│")
        if inside and not reason and ("Reason:" in line or boxed):
            reason = [line.partition("Reason:")[2].strip() or line]
        elif reason and inside and line and not line.startswith(("Cause:", "Service:")):
            reason.append(line)
        elif reason:
            break
        boxed = raw.lstrip().startswith("╭") and line.startswith("Error")
    errors = [line for line in plain if " ERROR " in line or line.startswith("ERROR")]
    if reason:
        return " ".join(reason), tuple(errors[-2:])
    said = [line for line in plain if line]
    return (errors or said or ["it said nothing"])[-1], ()
