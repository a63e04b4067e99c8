"""Faults of an engine that was ready."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

from harness import Fault, Observed, fill, kill, small_disk
from project import ONE_SERVER, SLOW, Project, connected

_SILENCE_SECONDS = 5


def _kill(role: str, number: signal.Signals = signal.SIGKILL) -> Callable[[Path], Observed]:
    """A process of the engine is killed in the middle of the second case."""

    def inject(folder: Path) -> Observed:
        run = Project(folder).start(*ONE_SERVER, env=SLOW)
        finished = run.until_second_case()
        return run.observe(kill(run.engine(role), number), finished)

    return inject


def _both(folder: Path) -> Observed:
    run = Project(folder).start(*ONE_SERVER, fault="ignore-sigterm", env=SLOW)
    finished = run.until_second_case()
    guard, api = run.guard(), run.engine("api")
    guard.kill()
    return run.observe(kill(api), finished)


def _exit_quietly(folder: Path) -> Observed:
    run = Project(folder).start(*ONE_SERVER, fault="die-after:4", env=SLOW)
    # Warm-up and two requests of the first case; one more into the second.
    run.until("a finished case", run.measured)
    finished = run.measured()
    run.until_logged("shutdown triggered")
    return run.observe(time.monotonic(), finished)


def _patient_for_seconds(project: Project) -> None:
    """Shorten what is four minutes by default."""
    text = (
        "import pytest_gpubench.plugin.runner as runner\n\nrunner.SILENCE_TIMEOUT_S = "
        f"{_SILENCE_SECONDS}.0\n"
    )
    (project.folder / "conftest.py").write_text(text)


def _silent(folder: Path) -> Observed:
    project = Project(folder)
    _patient_for_seconds(project)
    run = project.start(*ONE_SERVER, fault="hang-after-health")
    worker = run.until("a load worker", lambda: run.processes("pytest_gpubench.load.worker"))
    run.until("requests in flight", lambda: connected(worker[0]))
    seen = run.observe(time.monotonic())
    seen.note = (
        f"limit without a token set to {_SILENCE_SECONDS} s; 30 s are the last look at /metrics"
    )
    return seen


def _frozen(folder: Path) -> Observed:
    """All processes of the engine are stopped (SIGSTOP), as a hung driver does: nothing answers any
    more."""
    project = Project(folder)
    _patient_for_seconds(project)
    run = project.start(*ONE_SERVER, env=SLOW)
    finished = run.until_second_case()
    for role in ("worker", "core", "api"):
        event = kill(run.engine(role), signal.SIGSTOP)
    seen = run.observe(event, finished)
    seen.note = (
        f"limit without a token set to {_SILENCE_SECONDS} s; 30 s are the last look at /metrics"
    )
    return seen


def _stubborn(fault: str) -> Callable[[Path], Observed]:
    """The run is good; the engine resists its stop."""

    def inject(folder: Path) -> Observed:
        run = Project(folder).start(*ONE_SERVER, fault=fault)
        run.until("two finished cases", lambda: len(run.measured()) == 2)
        event, finished = time.monotonic(), run.measured()
        seen = run.end(finished=finished)
        seen.seconds = time.monotonic() - event
        seen.note = "seconds from the last result to pytest's end"
        return seen

    return inject


def _disk_full_for_results(folder: Path) -> Observed:
    """Where nothing can be written, the verdict is the terminal's."""
    with small_disk(folder / "disk", 4) as disk:
        run = Project(folder).start(*ONE_SERVER, results=disk / "results", env=SLOW)
        finished = run.until_second_case()
        fill(disk)
        event = time.monotonic()
        seen = run.end(finished=finished)
        seen.seconds = time.monotonic() - event
    if "No space left on device" in run.text() and (
        found := re.search(r"\[(record-unwritten), (\w+)\]", run.text())
    ):
        seen.cause, seen.whose = found.groups()
    seen.note = "includes the rest of the case: its record is written at its end"
    return seen


def _killed_on_full_disk(folder: Path) -> Observed:
    """Both are said: why the engine failed, and that there is no record of it."""
    with small_disk(folder / "disk", 4) as disk:
        run = Project(folder).start(*ONE_SERVER, results=disk / "results", env=SLOW)
        finished = run.until_second_case()
        fill(disk)
        event = kill(run.engine("api"))
        seen = run.end(finished=finished)
        seen.seconds = time.monotonic() - event
    if "[record-unwritten, infrastructure]" in run.text() and (
        found := re.search(r"\[(killed), (\w+)\]", run.text())
    ):
        seen.cause, seen.whose = found.groups()
    return seen


FAULTS = (
    Fault("engine core killed", _kill("core"), "engine-died", "engine", 1),
    Fault("worker killed", _kill("worker"), "killed", "infrastructure", 1),
    Fault("API server killed (orphans)", _kill("api"), "killed", "infrastructure", 1),
    Fault("API server crashes (SIGSEGV)", _kill("api", signal.SIGSEGV), "engine-died", "engine", 1),
    Fault("API server and its guard killed", _both, "killed", "infrastructure", 1),
    Fault("exit code 0 while serving", _exit_quietly, "engine-died", "engine", 1),
    Fault("silent stream after health", _silent, "silent-engine", "engine", 1, within=60.0),
    Fault("whole engine frozen", _frozen, "silent-engine", "engine", 1, within=60.0),
    Fault("engine that ignores SIGTERM", _stubborn("ignore-sigterm"), exit_code=0, within=15.0),
    Fault("worker that leaves session and group", _stubborn("escape"), exit_code=0, within=15.0),
    Fault(
        "disk full for results",
        _disk_full_for_results,
        "record-unwritten",
        "infrastructure",
        1,
        within=30.0,
    ),
    Fault(
        "API server killed while the disk is full",
        _killed_on_full_disk,
        "killed",
        "infrastructure",
        1,
        within=15.0,
    ),
)
