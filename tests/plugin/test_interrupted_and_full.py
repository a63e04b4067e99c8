"""What the fault suite has found, as fast tests; the faults themselves are in
experiments/faults."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import Project, project

__all__ = ["project"]

_FULL_DISK = """
from pytest_gpubench.plugin import runner
from pytest_gpubench.runs import client_runs
from pytest_gpubench.model.failures import BenchmarkError, Failure

def run_load(*_, **__):
    raise {error}

client_runs.run_load = run_load
runner.try_to_write = lambda path, record: Failure(
    "record-unwritten",
    "infrastructure",
    "the record x.json could not be written: No space left on device; free space",
)
"""
_CTRL_C_TWICE = """
import os, signal, threading
from pytest_gpubench.runs import client_runs
from pytest_gpubench.engines.process import ServerProcess

def run_load(*_, **__):
    raise KeyboardInterrupt

def stop(process, *arguments):
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    return real_stop(process, *arguments)

client_runs.run_load = run_load
real_stop, ServerProcess.stop = ServerProcess.stop, stop
"""
_DEAD = 'BenchmarkError(Failure("engine-died", "engine", "The engine died."))'


def _with_full_disk(project: Project, error: str) -> pytest.RunResult:
    (project.pytester.path / "conftest.py").write_text(_FULL_DISK.format(error=error))
    return project.run("benchmarks", "-m", "tiny and not mtp and c1")


def test_a_full_disk_does_not_hide_why_a_case_failed(project: Project) -> None:
    result = _with_full_disk(project, _DEAD)
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "*32x4-c1: The engine died. ?engine-died, engine?",
            "*No space left on device*?record-unwritten, infrastructure?",
        ]
    )


def test_a_full_disk_does_not_swallow_ctrl_c(project: Project) -> None:
    result = _with_full_disk(project, "KeyboardInterrupt")
    assert result.ret == 2
    assert "KeyboardInterrupt" in result.stdout.str()


def test_requests_that_cannot_be_written_are_the_disk_s_fault(project: Project) -> None:
    text = (
        "import types\nimport pytest_gpubench.report.records as records\n\ndef full(*_, **__):\n"
        "    raise OSError(28, 'No space left on device')\n\n"
        "records.gzip = types.SimpleNamespace(open=full)\n"
    )
    (project.pytester.path / "conftest.py").write_text(text)
    result = project.run("benchmarks", "-m", "tiny and not mtp and c1")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*.gz could not be written*?record-unwritten, infrastructure?"])
    (record,) = project.cases()
    assert record["failure"]["failure_class"] == "infrastructure"


def test_a_cache_that_cannot_be_made_is_the_host_s_fault(project: Project) -> None:
    file = project.pytester.path / "file"
    file.touch()
    result = project.run(
        "benchmarks", "-m", "tiny and not mtp and c1", f"--gpubench-cache-dir={file / 'hub'}"
    )
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*?weights-missing, infrastructure?"])
    assert "Traceback (most recent call last)" not in result.stdout.str()


def test_a_second_ctrl_c_during_the_stop_ends_the_run_in_order(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server ignores SIGTERM, so its stop lasts long enough to be interrupted, too."""
    monkeypatch.setenv("GPUBENCH_STUB_FAULT", "ignore-sigterm")
    (project.pytester.path / "conftest.py").write_text(_CTRL_C_TWICE)
    result = project.run("benchmarks", "-m", "tiny and not mtp and c1")
    assert result.ret == 2
    assert (
        "interrupted while the server was being stopped"
        in result.stdout.str() + result.stderr.str()
    )
    assert "Traceback (most recent call last)" not in result.stdout.str() + result.stderr.str()
    assert not list((project.pytester.path / "leases").glob("*.lease"))
