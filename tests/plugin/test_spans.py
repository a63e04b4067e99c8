"""Time by name, and where a real run's went."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest

from pytest_gpubench.report.results import RunEnd
from pytest_gpubench.runs.spans import Spans
from tests.plugin.conftest import Project


def test_spans_add_up_on_any_clock() -> None:
    now = [100.0]
    spans = Spans(lambda: now[0])

    def fail_after(seconds: float) -> None:
        with spans.of("start"):
            now[0] += seconds
            raise ValueError("lost")

    for step in (1.0, 2.5):
        with spans.of("idle"):
            now[0] += step
    with pytest.raises(ValueError, match="lost"):
        fail_after(4.0)
    spans.split(now[0], {"prompts": 109.5, "warmup": 109.0, "measured": 112.0})
    assert spans.seconds == {
        "idle": 3.5,
        "start": 4.0,
        "prompts": 2.0,
        "warmup": 0.0,
        "measured": 2.5,
    }


def test_a_run_tells_where_its_time_went(project: Project) -> None:
    result = project.run("benchmarks", "-v", "-k", "tiny and cpu and not mtp")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        ["where the time went", "*starts of servers*", "*measured*", "*together*100.0%"]
    )
    (init,) = project.inits()
    assert set(init["times"]) == {"lease", "fetch", "start", "stop"}
    times = [case["times"] for case in project.cases()]
    assert times
    stages = ["launch", "idle", "prompts", "warmup", "measured", "results"]
    assert all(list(one) == stages for one in times)
    (path,) = (project.pytester.path / "results").glob("*/run.json")
    end = json.loads(path.read_text())
    assert {one.name for one in fields(RunEnd)} <= end.keys(), "write it: plugin/session_end.py"
    spent = end["spent"]
    told = sum(sum(one.values()) for one in [init["times"], *times]) + spent["collecting"]
    assert 0 < told <= spent["seconds"]
    assert spent["processes"] == 1


def test_a_load_that_failed_has_its_time(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUBENCH_STUB_FAULT", "killed-serving")
    assert project.run("benchmarks", "-k", "tiny and cpu and not mtp").ret == 1
    record = next(case for case in project.cases() if case["times"])
    assert set(record["times"]) == {"launch", "idle", "load"}
