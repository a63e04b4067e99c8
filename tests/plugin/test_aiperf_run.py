"""Runs whose client is AIPerf: what becomes of its numbers, its files and its failures."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from pytest_gpubench.load.protocol import RequestRecord
from tests.fake_aiperf import make_environment
from tests.plugin.conftest import Project

RECIPES = """
tiny-bf16-cpu-vllm:
  model: pytest-gpubench/tiny-llama
  model-prefix: tiny
  precision: bf16
  framework: vllm
  runner: cpu
  scenarios: {fixed-seq-len: [{isl: 32, osl: 4, search-space: [{tp: 1, conc-list: [2]}]}]}
  serve: {max-model-len: 256, block-size: 128, enable-prefix-caching: false}
  client: {tool: aiperf, prompts-per-conc: 2, warmups-per-conc: 1, arguments: {prefill-concurrency: 2}}
"""
CASE = "tiny-bf16-cpu-vllm-tp1:32x4-c2"


@pytest.fixture
def aiperf(project: Project, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The command of the stand-in; the recipe asks for it."""
    project.recipes(RECIPES)
    monkeypatch.setenv("XDG_CACHE_HOME", str(project.pytester.path / "cache"))
    return make_environment(project.pytester.path / "env")


def run(project: Project, aiperf: Path | str, *more: str) -> pytest.RunResult:
    return project.run(
        "benchmarks", "-k", "throughput", f"--gpubench-aiperf-command={aiperf}", *more
    )


def test_its_numbers_are_judged_and_its_files_kept(
    project: Project, aiperf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUBENCH_FAKE_AIPERF", "tell-key")
    with (project.pytester.path / "tox.ini").open("a") as ini:
        ini.write(f"\ngpubench_aiperf_command = {aiperf}\n")
    result = project.run("benchmarks", "-k", "throughput")
    result.assert_outcomes(passed=1)
    (record,) = project.cases()
    assert record["verdict"]["status"] == "UNGATED"
    assert record["metrics"]["ttft_p50"] > 0.25  # as the engine was told
    measurement = record["measurement"]
    assert measurement["client"] == {"aiperf": "0.13.0"}
    totals = measurement["totals"]
    assert (totals["requests"], totals["engine_output_tokens"]) == (4, 24)
    assert "measured-by" in {flag["code"] for flag in measurement["flags"]}
    assert record["gate"]["key"]["workload.tool"] == "aiperf 0.13"
    assert record["gate"]["axis"]["aiperf"] == "0.13.0"
    tool = record["tool"]
    assert {"--concurrency=2", "--request-count=4", "--prefill-concurrency=2"} <= set(tool["argv"])
    assert "peak_output_tput" in tool["left_out"]
    assert tool["mapping"]["ttft_p50"] == "time_to_first_token.p50 (ms) x 0.001"
    (place,) = (project.pytester.path / "results").rglob("launch-1.aiperf")
    kept = {path.relative_to(place.parent).as_posix() for path in place.rglob("*.*")}
    assert kept == set(tool["files"])
    assert kept == {
        "launch-1.aiperf/profile_export_aiperf.json",
        "launch-1.aiperf/profile_export.jsonl",
        "launch-1.aiperf/logs/aiperf.log",
    }  # no prompts; the table of numbers held the server's key
    lines = gzip.decompress((place.parent / "launch-1.requests.jsonl.gz").read_bytes())
    read = [RequestRecord.from_json(json.loads(line)) for line in lines.splitlines()]
    assert [one.phase for one in read] == [*["warmup"] * 2, *["measured"] * 4]
    assert read[-1].session.startswith("session_00000")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("refuse", "*AIPerf ended with exit code 1: Unknown option: --no-such-flag*"),
        ("missing-key", "*AIPerf's output is not as 0.13 writes it: *time_to_first_token*"),
        (
            "overflow",
            "*1 prompts were longer than the server's context, the first one in turn 30 of session "
            "session_000001: give the server a longer one*",
        ),
    ],
)
def test_what_goes_wrong_fails_the_case_with_a_sentence(
    project: Project, aiperf: Path, monkeypatch: pytest.MonkeyPatch, fault: str, words: str
) -> None:
    monkeypatch.setenv("GPUBENCH_FAKE_AIPERF", fault)
    result = run(project, aiperf)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([words])
    assert "Traceback" not in result.stdout.str()
    (record,) = project.cases()
    assert record["failure"]["summary"]
    assert "--concurrency=2" in record["tool"]["argv"]
    assert list((project.pytester.path / "results").rglob("launch-1.aiperf/*"))  # nothing is lost


def test_a_run_that_fails_leaves_no_file_with_the_key(
    project: Project, aiperf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUBENCH_FAKE_AIPERF", "tell-key-broken")
    run(project, aiperf).assert_outcomes(failed=1)
    (place,) = (project.pytester.path / "results").rglob("launch-1.aiperf")
    left = {path.name for path in place.rglob("*.*")}
    assert {"profile_export_aiperf.json", "profile_export.jsonl", "aiperf.log"} <= left
    assert "profile_export_aiperf.csv" not in left  # the table of numbers held the server's key


def test_an_engine_that_dies_is_named_and_not_the_tool(
    project: Project, aiperf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stand-in crashes where the connection is lost."""
    monkeypatch.setenv("GPUBENCH_STUB_FAULT", "worker-killed-serving")
    result = run(project, aiperf)
    result.assert_outcomes(failed=1)
    (record,) = project.cases()
    assert record["failure"]["cause"] == "killed", record["failure"]


def test_tokens_that_do_not_add_up_make_it_invalid(
    project: Project, aiperf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUBENCH_FAKE_AIPERF", "unsaid")
    result = run(project, aiperf)
    assert result.ret == 10
    result.stdout.fnmatch_lines(["*the engine counted 28 generated tokens*received 24*"])


def test_files_of_every_round_are_on_record(project: Project, aiperf: Path) -> None:
    run(project, aiperf, "--gpubench-rounds=2").assert_outcomes(passed=1)
    (record,) = project.cases()
    places = {file.partition("/")[0] for file in record["tool"]["files"]}
    assert places == {"launch-1.aiperf", "launch-1.round-2.aiperf"}
    (folder,) = (project.pytester.path / "results").rglob("launch-1.aiperf")
    assert all((folder.parent / file).is_file() for file in record["tool"]["files"])


def test_an_interrupted_run_says_what_it_was_started_with(
    project: Project, aiperf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUBENCH_FAKE_AIPERF", "stall")
    words = project.command("benchmarks", "-k", "throughput", f"--gpubench-aiperf-command={aiperf}")
    results = project.pytester.path / "results"
    with subprocess.Popen(words, cwd=project.pytester.path) as process:
        limit = time.monotonic() + 60
        while not any(results.rglob("profile_export.jsonl")) and time.monotonic() < limit:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 2
    (record,) = project.cases()
    assert record["failure"]["cause"] == "interrupted"
    assert "--concurrency=2" in record["tool"]["argv"]


def test_without_it_no_server_is_started(project: Project, aiperf: Path) -> None:
    missing = run(project, "/no/such/aiperf")
    missing.assert_outcomes(failed=1)
    missing.stdout.fnmatch_lines(
        [
            "*--gpubench-aiperf-command '/no/such/aiperf' is no command of a Python environment*",
            "*gpubench tools install aiperf*",
        ]
    )
    assert project.inits() == []


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("0.14.1", "*AIPerf 0.14.1 of * is not known here: output is read as 0.13 writes it*"),
        ("what", "*AIPerf what of * is not known here*"),
        (None, "*has no AIPerf, or does not say of which version it is*"),
    ],
)
def test_a_release_that_is_not_known_is_refused(
    project: Project, aiperf: Path, version: str | None, words: str
) -> None:
    other = make_environment(project.pytester.path / "other", version)
    result = run(project, other)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([words])
    assert project.inits() == []


def test_a_command_that_cannot_be_read(project: Project) -> None:
    result = project.inside("benchmarks", "--gpubench-aiperf-command", "'", "--co")
    assert result.ret == 4
    result.stderr.fnmatch_lines(['*--gpubench-aiperf-command: "\'" cannot be split into words*'])
