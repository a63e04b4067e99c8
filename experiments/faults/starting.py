"""Faults before the engine is ready."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import psutil
from harness import NO_FAILURE, REPOSITORY, STUB, Fault, Observed, kill, own_environment, small_disk
from project import ONE_SERVER, Project

from pytest_gpubench.engines import lifecycle
from pytest_gpubench.engines.engine import Engine
from pytest_gpubench.engines.lifecycle import EngineSettings, start_engine
from pytest_gpubench.load.loopback.server import LoopbackServer
from pytest_gpubench.model.failures import BenchmarkError
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.specs import ServerSpec, Topology

REAL_LOG = (
    REPOSITORY / "tests" / "engines" / "data" / "m3mini-mxfp8-tp2-h200-died-illegal-memory.log"
)
_SPEC = ServerSpec("vllm", "org/tiny", "cpu", Topology(), FrozenMap())


def settings(folder: Path, fault: str = "", **changes: object) -> EngineSettings:
    """Of a stub engine that is started without pytest."""
    values: dict[str, object] = {
        "command": (sys.executable, str(STUB)),
        "log_path": folder / "server.log",
        "host_env": own_environment(folder) | {"GPUBENCH_STUB_FAULT": fault},
        "start_timeout": 60.0,
    }
    return EngineSettings(**(values | changes))  # type: ignore[arg-type]


@contextmanager
def running(given: EngineSettings) -> Iterator[Engine]:
    """A started stub engine, stopped at the end."""
    engine = start_engine(_SPEC, given)
    try:
        yield engine
    finally:
        engine.stop()


def direct(given: EngineSettings) -> Observed:
    """Start an engine; the verdict, timed from the start."""
    begin = time.monotonic()
    seen = Observed()
    try:
        with running(given):
            seen.seconds = time.monotonic() - begin
    except BenchmarkError as error:
        seen.seconds = time.monotonic() - begin
        seen.cause, seen.whose = error.failure.cause, error.failure.failure_class
    return seen


def _in_pytest(fault: str, line: str, *arguments: str) -> Callable[[Path], Observed]:
    """The stub brings itself down; the event is the line that says so."""

    def inject(folder: Path) -> Observed:
        run = Project(folder).start(*ONE_SERVER, *arguments, fault=fault)
        seen = run.observe(run.until_logged(line))
        # One failure with the cause; the cases of the same server fail by reference, without
        # another start.
        if run.text().count("failed before (") < 2:
            seen.problems.append("the server's other tests do not refer to the first failure")
        return seen

    return inject


def _api_server_killed(folder: Path) -> Observed:
    run = Project(folder).start(*ONE_SERVER, env={"GPUBENCH_STUB_LOAD": "60"})
    run.until_logged("Initializing a V1 LLM engine")
    return run.observe(kill(run.engine("api")))


def _real_log(folder: Path) -> Observed:
    engine = (sys.executable, str(Path(__file__).with_name("replay_engine.py")), str(REAL_LOG))
    run = Project(folder, engine=engine).start(*ONE_SERVER)
    return run.observe(run.until_logged("illegal memory access"))


def _stalled(fault: str) -> Callable[[Path], Observed]:
    def inject(folder: Path) -> Observed:
        seen = direct(settings(folder, fault, stall_timeout=3.0))
        seen.note = "limit without a sign of life: 3 s"
        return seen

    return inject


def _foreign_server(folder: Path) -> Observed:
    with LoopbackServer(model="theirs").in_thread() as other:
        return direct(settings(folder, port=other.port))


def _port_taken_meanwhile(folder: Path) -> Observed:
    with socket.socket() as thief:
        thief.bind(("127.0.0.1", 0))
        thief.listen()
        ports = [thief.getsockname()[1], lifecycle.free_port()]
        with mock.patch.object(lifecycle, "free_port", side_effect=ports):
            seen = direct(settings(folder))
    log = (folder / "server.log").read_text()
    seen.note = "second attempt on another port is ready"
    if "Address already in use" not in log:
        seen.problems.append("the port was not taken")
    return seen


def _flood(fault: str) -> Callable[[Path], Observed]:
    def inject(folder: Path) -> Observed:
        run = Project(folder).start(*ONE_SERVER, fault=fault)
        process, peak = psutil.Process(run.process.pid), [0]

        def weigh() -> None:
            while run.process.poll() is None:
                try:
                    peak[0] = max(peak[0], process.memory_info().rss)
                except psutil.Error:
                    return
                time.sleep(0.1)

        watch = threading.Thread(target=weigh)
        watch.start()
        seen = run.end()
        watch.join()
        seen.seconds = time.monotonic() - run.started
        size = sum(path.stat().st_size for path in run.results.rglob("launch-*.log"))
        seen.note = (
            f"pytest's largest RSS {peak[0] >> 20} MiB, log file {size >> 20} MiB, "
            f"{len(run.measured())} cases measured"
        )
        if peak[0] > 400 << 20 or size > 258 << 20 or len(run.measured()) != 2:
            seen.problems.append(seen.note)
        return seen

    return inject


def _disk_full_for_log(folder: Path) -> Observed:
    with small_disk(folder / "disk", 1) as disk:
        seen = direct(settings(folder, "log-flood:4", log_path=disk / "server.log"))
        written = (disk / "server.log").stat().st_size
        failing = direct(settings(folder, "kv-cache", log_path=disk / "other.log"))
    seen.note = (
        f"the server is ready all the same, {written >> 10} KiB of its log are kept; a "
        f"failing one beside it: {failing.cause}"
    )
    if failing.cause != "kv-cache-too-small":
        seen.problems.append(seen.note)
    return seen


FAULTS = (
    Fault(
        "exit at import", _in_pytest("exit-at-import", "Traceback"), "missing-library", "engine", 1
    ),
    Fault(
        "exit after load",
        _in_pytest("exit-after-load", "No common block size"),
        "no-common-block-size",
        "recipe",
        1,
    ),
    Fault(
        "exit code 0 without a word",
        _in_pytest("exit-quietly", "non-default args"),
        "engine-died",
        "engine",
        1,
    ),
    Fault(
        "worker killed during the load",
        _in_pytest("worker-killed", "died unexpectedly"),
        "killed",
        "infrastructure",
        1,
    ),
    Fault("API server killed during the load", _api_server_killed, "killed", "infrastructure", 1),
    Fault(
        "wrong argument",
        _in_pytest("wrong-argument", "unrecognized arguments"),
        "wrong-argument",
        "recipe",
        1,
    ),
    Fault(
        "out of GPU memory",
        _in_pytest("out-of-memory", "OutOfMemoryError"),
        "out-of-memory-weights",
        "recipe",
        1,
    ),
    Fault(
        "KV cache does not fit",
        _in_pytest("kv-cache", "No available memory"),
        "kv-cache-too-small",
        "recipe",
        1,
    ),
    Fault(
        "illegal memory access, processes live on",
        _in_pytest("illegal-memory", "an illegal memory access"),
        "illegal-memory-access",
        "engine",
        1,
        within=4.0,
    ),
    Fault(
        "the same, a real log replayed", _real_log, "all-reduce-multicast", "engine", 1, within=2.0
    ),
    Fault(
        "command that does not exist",
        lambda folder: _no_command(folder),
        "command-not-found",
        "recipe",
        1,
    ),
    Fault("hang at load, silent", _stalled("hang-at-load"), "stalled", "engine", within=9.0),
    Fault(
        "hang at load, with heartbeats",
        _stalled("heartbeat-at-load"),
        "stalled",
        "engine",
        within=9.0,
    ),
    Fault(
        "hang at load, computing (start timeout 6 s)",
        _in_pytest("busy-at-load", "non-default args", "--gpubench-start-timeout=6"),
        "timeout",
        "engine",
        1,
        within=14.0,
    ),
    Fault(
        "500 on /health for ever (start timeout 6 s)",
        _in_pytest("health-500", "non-default args", "--gpubench-start-timeout=6"),
        "never-healthy",
        "engine",
        1,
        within=14.0,
    ),
    Fault("foreign server on the port", _foreign_server, "port-in-use", "infrastructure"),
    Fault(
        "another model answers on the port",
        _in_pytest("foreign-name", "Starting vLLM server"),
        "foreign-server",
        "infrastructure",
        1,
    ),
    Fault("port taken between choice and bind", _port_taken_meanwhile, NO_FAILURE, within=20.0),
    Fault("1 GiB of log", _flood("log-flood:1024"), exit_code=0, within=120.0),
    Fault("1 GiB without a line end", _flood("no-newline:1024"), exit_code=0, within=120.0),
    Fault("disk full for the log", _disk_full_for_log, NO_FAILURE, within=20.0),
)


def _no_command(folder: Path) -> Observed:
    run = Project(folder, engine=("no-such-engine", "serve")).start(*ONE_SERVER)
    return run.observe(run.started)
