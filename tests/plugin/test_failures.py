"""Engines that fail, and runs that are ended: one clear failure each, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time

import psutil
import pytest

from tests.plugin.conftest import STUB, Project

pytestmark = pytest.mark.slow


def _ours(project: Project) -> list[str]:
    """Processes of this project's servers that are still there."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        words = process.info["cmdline"] or []
        if str(STUB) in words and (process.info["cwd"] or "").startswith(
            str(project.pytester.path)
        ):
            found.append(f"{process.pid} {' '.join(words)}")
    return found


def _gone(project: Project, within: float = 60.0) -> bool:
    until = time.monotonic() + within
    while _ours(project):
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("wrong-argument", "*wrong-argument, recipe*"),
        ("exit-at-import", "*ModuleNotFoundError*"),
        ("kv-cache", "*KV cache*"),
        ("illegal-memory", "*illegal memory access*"),
        ("health-500", "*timeout*"),
    ],
)
def test_a_failed_start_is_one_failure_and_a_reference_for_the_rest(
    project: Project, monkeypatch: pytest.MonkeyPatch, fault: str, words: str
) -> None:
    monkeypatch.setenv("GPUBENCH_STUB_FAULT", fault)
    limit = 20 if fault == "health-500" else 600  # the others end by themselves
    result = project.run(
        "benchmarks", "-k", "tiny and cpu and not mtp", f"--gpubench-start-timeout={limit}"
    )
    assert result.ret == 1
    result.assert_outcomes(errors=3)
    text = result.stdout.str()
    result.stdout.fnmatch_lines([words])
    assert text.count("not run: tiny-bf16-cpu-vllm-tp1 failed before") == 2
    assert "Traceback (most recent call last)" not in text
    (init,) = project.inits()
    assert init["failure"]["cause"]
    assert _gone(project)


@pytest.mark.parametrize("fault", ["killed-serving", "core-killed-serving", "die-after:2"])
def test_a_server_that_dies_while_serving_fails_the_case_and_ends_its_siblings(
    project: Project, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setenv("GPUBENCH_STUB_FAULT", fault)
    result = project.run("benchmarks", "-k", "tiny and cpu and not mtp")
    assert result.ret == 1
    outcomes = result.parseoutcomes()
    assert outcomes.get("passed") == 1, "test_engine_init ran before the death"
    assert outcomes.get("failed", 0) + outcomes.get("errors", 0) == 2
    assert "Traceback (most recent call last)" not in result.stdout.str()
    record, sibling = project.cases()
    assert record["failure"]["cause"]
    assert sibling["failure"]["cause"] == record["failure"]["cause"]
    assert sibling["failure"]["summary"].startswith("not run: ")
    assert _gone(project)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["start", "measurement"])
def test_an_ended_run_leaves_no_process_and_exits_2(
    project: Project, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, moment: str
) -> None:
    monkeypatch.setenv("GPUBENCH_STUB_LOAD", "60" if moment == "start" else "0.1")
    monkeypatch.setenv("GPUBENCH_STUB_TOKEN_TIME", "5")
    command = project.command("benchmarks", "-k", "tiny and cpu and not mtp")
    run = subprocess.Popen(
        command, cwd=project.pytester.path, stdout=subprocess.PIPE, text=True, env=os.environ.copy()
    )
    try:
        _await(lambda: bool(_ours(project)))
        if moment == "measurement":
            _await(lambda: bool(list(project.pytester.path.rglob("init/launch-1.json"))))
            _await(lambda: _measures(run.pid))
        workers = _load_workers(run.pid)
        assert workers
        run.send_signal(number)
        output, _ = run.communicate(timeout=120)
    finally:
        run.kill()
    assert run.returncode == 2, output
    assert "KeyboardInterrupt" in output
    assert _gone(project)
    assert not any(worker.is_running() for worker in workers)
    if moment == "measurement":
        (record,) = project.cases()
        assert record["failure"]["cause"] == "interrupted"


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_does_not_disturb_the_end(
    project: Project, monkeypatch: pytest.MonkeyPatch, first: signal.Signals
) -> None:
    """CI services send SIGINT, then SIGTERM; some send SIGTERM to pytest and to its process
    group."""
    monkeypatch.setenv("GPUBENCH_STUB_TOKEN_TIME", "5")
    (project.pytester.path / "conftest.py").write_text(
        "import os, signal, pytest\n@pytest.hookimpl(tryfirst=True)\n"
        "def pytest_sessionfinish():\n    os.kill(os.getpid(), signal.SIGTERM)\n"
        "def pytest_unconfigure():\n    os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    command = project.command("benchmarks", "-k", "tiny and cpu and not mtp")
    run = subprocess.Popen(
        command, cwd=project.pytester.path, stdout=subprocess.PIPE, text=True, env=os.environ.copy()
    )
    try:
        _await(lambda: bool(list(project.pytester.path.rglob("init/launch-1.json"))))
        _await(lambda: _measures(run.pid))
        run.send_signal(first)
        output, _ = run.communicate(timeout=120)
    finally:
        run.kill()
    assert run.returncode == 2, output
    assert "Traceback" not in output
    (path,) = (project.pytester.path / "results").glob("*/run.json")
    assert json.loads(path.read_text())["exit"] == 2
    assert _gone(project)


def test_a_killed_pytest_leaves_no_server(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUBENCH_STUB_LOAD", "60")
    command = project.command("benchmarks", "-k", "tiny and cpu and not mtp")
    run = subprocess.Popen(
        command, cwd=project.pytester.path, stdout=subprocess.DEVNULL, env=os.environ.copy()
    )
    try:
        _await(lambda: bool(_ours(project)))
        workers = _load_workers(run.pid)
        assert workers
    finally:
        run.kill()
        run.wait()
    assert _gone(project, within=60)
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive


def _load_workers(pid: int) -> list[psutil.Process]:
    """The load workers of this pytest."""
    try:
        children = psutil.Process(pid).children()
        return [one for one in children if "pytest_gpubench.load.worker" in one.cmdline()]
    except psutil.Error:
        return []


def _measures(pid: int) -> bool:
    """Whether a load worker of this pytest has begun: it waits there from the server's start on."""
    try:
        return any(
            connection.status == psutil.CONN_ESTABLISHED
            for worker in _load_workers(pid)
            for connection in worker.net_connections("tcp")
        )
    except psutil.Error:
        return False


def _await(condition: object, within: float = 120.0) -> None:
    assert callable(condition)
    until = time.monotonic() + within
    while not condition():
        assert time.monotonic() < until, "it did not come to pass"
        time.sleep(0.1)
