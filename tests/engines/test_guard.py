from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import psutil
import pytest

from pytest_gpubench.dialects.vllm.log import LOG
from pytest_gpubench.engines import guard
from pytest_gpubench.engines.log_sink import LogSink
from pytest_gpubench.engines.process import ServerProcess

from .conftest import STUB, stub_processes

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def wait_for(condition: Callable[[], object], seconds: float = 120.0) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.05)
    return False


def start(tmp_path: Path, *command: str) -> ServerProcess:
    return ServerProcess.start(command, dict(os.environ), LogSink(tmp_path / "x.log", LOG))


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 7", 7), ("kill -SEGV $$", -11), ("kill -KILL $$", -9)],
)
def test_the_guard_ends_as_the_server_ended(tmp_path: Path, script: str, code: int) -> None:
    process = start(tmp_path, "sh", "-c", script)
    assert wait_for(lambda: process.poll() is not None)
    assert process.poll() == code
    assert process.stop().returncode == code


def test_what_the_server_leaves_behind_is_killed_and_named(tmp_path: Path) -> None:
    process = start(tmp_path, "sh", "-c", "(trap '' TERM; exec sleep 300) & sleep 0.2; exit 3")
    assert wait_for(lambda: process.poll() is not None)
    report = process.stop()
    assert report.returncode == 3
    assert [name.split()[0] for name in report.killed] == ["sleep"]


def test_the_guard_itself_may_be_killed(tmp_path: Path) -> None:
    process = start(tmp_path, "sh", "-c", "sleep 300 & sleep 300 & wait")
    assert wait_for(lambda: len(process.tree()) == 3)
    process.snapshot()
    tree = process.tree()
    os.kill(process.guard_pid, signal.SIGKILL)
    assert wait_for(lambda: process.poll() is not None)
    report = process.stop()
    assert report.remaining == ()
    assert not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in tree)


def test_stop_is_idempotent(tmp_path: Path) -> None:
    process = start(tmp_path, "sleep", "300")
    assert process.stop() is process.stop()
    assert process.poll() == -signal.SIGTERM


@contextmanager
def owner_of(
    tmp_path: Path, fault: str, then: str
) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """A process that starts a stub engine, and its output; ``then`` is what it does, with
    ``start()`` for the start.

    It ends with the block: left running by a test that failed, it would fail the test during
    which it is collected as garbage.
    """
    program = f"""
import sys, time
from pathlib import Path
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.specs import ServerSpec
from pytest_gpubench.model.specs import Topology
from pytest_gpubench.engines.lifecycle import EngineSettings, start_engine

def start():
    spec = ServerSpec("vllm", "org/tiny", "cpu", Topology(), FrozenMap())
    env = {{"GPUBENCH_STUB_TEST": {str(tmp_path)!r}, "GPUBENCH_STUB_FAULT": {fault!r}}}
    return start_engine(spec, EngineSettings((sys.executable, {str(STUB)!r}), Path({str(tmp_path)!r}) / "x.log", extra_env=env))

{textwrap.dedent(then)}
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as owner:
        assert owner.stdout is not None
        try:
            yield owner, owner.stdout
        finally:
            owner.kill()


def test_nothing_outlives_a_run_that_was_killed(tmp_path: Path) -> None:
    """SIGKILL of the process that started the server: the guard notices and ends the whole tree,
    deaf processes included."""
    then = "start(); print('ready', flush=True); time.sleep(300)"
    with owner_of(tmp_path, "ignore-sigterm", then) as (owner, said):
        assert said.readline() == b"ready\n"
        assert len(stub_processes(str(tmp_path))) >= 3
        owner.kill()
        owner.wait()
        assert wait_for(lambda: not stub_processes(str(tmp_path)), guard.TERM_SECONDS + 120)


def test_ctrl_c_during_a_start_stops_the_server(tmp_path: Path) -> None:
    then = """
    try:
        start()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    """
    with owner_of(tmp_path, "hang-at-load", then) as (owner, said):
        assert wait_for(lambda: len(stub_processes(str(tmp_path))) >= 4)
        owner.send_signal(signal.SIGINT)
        assert said.readline() == b"interrupted\n"
        assert owner.wait(120) == 0
    assert stub_processes(str(tmp_path)) == []


def test_a_second_ctrl_c_during_a_stop_hurries_it_and_is_not_lost(tmp_path: Path) -> None:
    then = """
    engine = start()
    begin = time.monotonic()
    try:
        print("stopping", flush=True)
        engine.process.stop(grace=600)
    except KeyboardInterrupt:
        print("interrupted", time.monotonic() - begin < 300, flush=True)
    """
    with owner_of(tmp_path, "ignore-sigterm", then) as (owner, said):
        assert said.readline() == b"stopping\n"
        time.sleep(1)
        owner.send_signal(signal.SIGINT)
        assert said.readline() == b"interrupted True\n"
        assert owner.wait(120) == 0
    assert wait_for(lambda: not stub_processes(str(tmp_path)))


def test_the_guard_is_light() -> None:
    """It may load nothing beyond a few small standard modules."""
    code = f"import runpy, sys; runpy.run_path({guard.__file__!r}); print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "ctypes" in loaded
    assert not {"psutil", "asyncio", "subprocess", "logging", "pytest_gpubench"} & set(loaded)


SHARES_MEMORY = """
import os, signal, sys, time
from multiprocessing.shared_memory import SharedMemory

memory = SharedMemory(create=True, size=4096)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork():
    # In one piece: what is printed unbuffered arrives word by word.
    os.write(1, f"memory {memory.name}\\n".encode())
time.sleep(300)
"""


def shared_memory_of(process: ServerProcess) -> Path:
    assert wait_for(lambda: any(line.startswith("memory ") for line in process.log.lines()))
    name = next(line.split()[1] for line in process.log.lines() if line.startswith("memory "))
    path = Path("/dev/shm") / name
    assert path.exists()
    return path


def test_shared_memory_goes_with_a_server_that_was_killed(tmp_path: Path) -> None:
    """Python's resource tracker removes it once all who might use it are gone, if it is left the
    time."""
    process = start(tmp_path, sys.executable, "-c", SHARES_MEMORY)
    memory = shared_memory_of(process)
    os.kill(process.pid, signal.SIGKILL)
    assert wait_for(lambda: process.poll() is not None)
    assert process.stop().remaining == ()
    assert not memory.exists()


def test_shared_memory_goes_with_a_server_that_had_to_be_killed(tmp_path: Path) -> None:
    process = start(tmp_path, sys.executable, "-c", SHARES_MEMORY)
    memory = shared_memory_of(process)
    report = process.stop(grace=0.3)
    assert report.forced
    assert report.remaining == ()
    assert not memory.exists()


def test_shared_memory_goes_with_a_run_that_was_killed(tmp_path: Path) -> None:
    then = f"""
    from pytest_gpubench.dialects.vllm.log import LOG
    from pytest_gpubench.engines.log_sink import LogSink
    from pytest_gpubench.engines.process import ServerProcess
    import os
    log = LogSink(Path({str(tmp_path)!r}) / "s.log", LOG)
    process = ServerProcess.start([sys.executable, "-c", {SHARES_MEMORY!r}], dict(os.environ), log)
    while "memory" not in str(process.log.lines()):
        time.sleep(0.05)
    print(process.log.lines()[0].split()[1], process.guard_pid, flush=True)
    time.sleep(300)
    """
    with owner_of(tmp_path, "", then) as (owner, said):
        name, guard_pid = said.readline().decode().split()
        assert (Path("/dev/shm") / name).exists()
        owner.kill()
        owner.wait()
        assert wait_for(lambda: not psutil.pid_exists(int(guard_pid)), guard.TERM_SECONDS + 120)
    assert not (Path("/dev/shm") / name).exists()
