"""The main line on the stub engine: recipe in, server, load, record, verdict."""

from __future__ import annotations

import gzip
import json

import pytest

from tests.plugin.conftest import XUNIT1, Project, with_gates


def test_cases_pass_with_one_launch_per_server_and_a_record_each(project: Project) -> None:
    result = project.run("benchmarks", "-k", "tiny and cpu")
    assert result.ret == 0, result.stdout.str()
    result.assert_outcomes(passed=5)
    result.stdout.fnmatch_lines(
        [
            "selected 3 cases on 2 servers",
            "*out tok/s*TTFT p50 ms*TTFT p99 ms*TPOT p50 ms*accept len*",
        ]
    )
    assert len(project.inits()) == 2
    cases = project.cases()
    assert [record["case"] for record in cases] == [
        "tiny-bf16-cpu-vllm-mtp-tp1:32x4-c1",
        "tiny-bf16-cpu-vllm-tp1:32x4-c1",
        "tiny-bf16-cpu-vllm-tp1:32x4-c2",
    ]
    served = {(record["server"], record["served_name"]) for record in cases}
    assert len(served) == 2, "cases of a server were served by different launches"


def test_a_record_says_what_ran(project: Project) -> None:
    project.run("benchmarks", "-k", "tiny and mtp")
    (record,) = project.cases()
    assert record["argv"][record["argv"].index("--block-size") + 1] == "128"
    assert "--no-enable-prefix-caching" in record["argv"]
    assert record["engine"]["version"] == "0.0.0+stub"
    assert record["engine"]["speculative_method"] == "eagle3"
    assert record["versions"]["openai"]
    assert record["workload"]["isl"] == 32
    assert record["metrics"]["output_tput"] > 0
    assert record["metrics"]["acceptance_length"] >= 1
    assert set(record["commits"]) == {
        "pytest-gpubench/tiny-llama",
        "pytest-gpubench/tiny-llama-eagle3",
    }
    assert record["verdict"]["status"] == "UNGATED"
    assert record["failure"] is None
    totals = record["measurement"]["totals"]
    assert (
        totals["output_tokens_with_warmup"]
        == totals["engine_output_tokens"]
        > totals["output_tokens"]
        > 0
    )
    path = next((project.pytester.path / "results").rglob("launch-1.requests.jsonl.gz"))
    requests = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    assert {request["phase"] for request in requests} == {"warmup", "measured"}


def test_the_api_key_is_in_no_file(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUBENCH_STUB_FAULT", "tell-key")
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecretsecret")
    result = project.run("benchmarks", "-k", "tiny and mtp")
    assert result.ret == 0, result.stdout.str()
    written = [path for path in (project.pytester.path / "results").rglob("*") if path.is_file()]
    texts = [
        gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        for path in written
    ]
    assert texts
    assert not any(b"hf_secret" in text for text in texts)
    log = next(path for path in written if path.suffix == ".log").read_text()
    assert "<removed>" in log


def test_a_users_test_gets_the_same_server_and_client(project: Project) -> None:
    (project.pytester.path / "benchmarks" / "test_own.py").write_text(
        """
def test_model_is_served(client, engine, case):
    assert [model.id for model in client.models.list()] == [engine.served_name]
    assert case.workload.isl == 32
"""
    )
    result = project.run("benchmarks", "-k", "tiny and mtp")
    result.assert_outcomes(passed=3)
    assert len(project.inits()) == 1


def test_users_fixtures_of_our_names_stay_theirs(project: Project) -> None:
    (project.pytester.path / "benchmarks" / "conftest.py").write_text(
        """
import pytest

@pytest.fixture
def case():
    return "mine"

@pytest.fixture
def client():
    return "mine"

@pytest.fixture(scope="session")
def engine():
    return "mine"
"""
    )
    (project.pytester.path / "benchmarks" / "test_own.py").write_text(
        "def test_mine(case, client, engine):\n    assert case == client == engine == 'mine'\n"
    )
    result = project.run("benchmarks", "-k", "mtp or mine")
    result.assert_outcomes(passed=3)


def test_a_limit_that_is_broken_fails_the_case(project: Project) -> None:
    with_gates(project, "{ttft_p50: {at-most: 0}}")
    result = project.run("benchmarks", "-m", "cpu and not mtp and c1")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*FAIL: ttft_p50 is * s, the recipe allows at most 0 s*"])
    result.stdout.no_fnmatch_line("*Traceback*")
    (record,) = project.cases()
    assert record["verdict"]["status"] == "FAIL"


def test_a_limit_that_holds_passes(project: Project) -> None:
    with_gates(project, "{ttft_p50: {at-most: 60}}")
    result = project.run("benchmarks", "-m", "cpu and not mtp and c1")
    assert result.ret == 0
    (record,) = project.cases()
    assert record["verdict"]["status"] == "PASS"


def test_what_could_not_be_measured_is_inconclusive_and_exit_10(project: Project) -> None:
    with_gates(project, "{queue_p50: {at-most: 100}}")  # the engine does not say it
    result = project.run(
        "benchmarks", "-m", "cpu and not mtp and c1", "--junitxml=junit.xml", *XUNIT1
    )
    assert result.ret == 10
    result.stdout.fnmatch_lines(["*1 inconclusive*"])
    junit = (project.pytester.path / "junit.xml").read_text()
    assert 'name="gpubench_verdict" value="INCONCLUSIVE"' in junit
    assert "queue_p50 could not be measured" in junit


def test_counts_that_do_not_add_up_are_invalid_and_exit_10(project: Project) -> None:
    (project.pytester.path / "conftest.py").write_text(
        """
import dataclasses
from pytest_gpubench.measure import compute as module
totals = module.totals_of
module.totals_of = lambda *given: dataclasses.replace(totals(*given), prefix_cache_hits=7)
"""
    )
    result = project.run("benchmarks", "-m", "cpu and not mtp and c1")
    assert result.ret == 10
    result.stdout.fnmatch_lines(
        [
            "*prefix caching is off in the recipe, but the engine counted 7 cached tokens; *",
            "*1 invalid*",
        ]
    )
    (record,) = project.cases()
    assert record["verdict"]["status"] == "INVALID"


def test_attach_measures_a_server_that_runs_already(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os
    import subprocess
    import sys

    from pytest_gpubench.engines.lifecycle import free_port
    from tests.plugin.conftest import STUB

    port = free_port()
    command = [
        sys.executable,
        str(STUB),
        "serve",
        "some/model",
        f"--port={port}",
        "--served-model-name",
        "theirs",
    ]
    command += ["--no-enable-prefix-caching", "--max-model-len=256"]
    monkeypatch.setenv("OPENAI_API_KEY", "sk-theirs")
    server = subprocess.Popen(
        command, env={**os.environ, "VLLM_API_KEY": "sk-theirs"}, stdout=subprocess.DEVNULL
    )
    try:
        _wait_until_up(port)
        result = project.run(
            "benchmarks",
            "-k",
            "tiny and cpu and not mtp",
            f"--gpubench-base-url=http://127.0.0.1:{port}/v1",
        )
        assert server.poll() is None, "attach mode must stop nothing"
    finally:
        server.terminate()
        server.wait(120)
    assert result.ret == 0, result.stdout.str()
    assert {record["served_name"] for record in project.cases()} == {"theirs"}
    assert all(record["attached"] for record in project.cases())


def _wait_until_up(port: int) -> None:
    import time

    from pytest_gpubench.engines import http_probe

    until = time.monotonic() + 120
    while http_probe.get(f"http://127.0.0.1:{port}/health", "sk-theirs")[0] != 200:
        assert time.monotonic() < until, "the stub did not come up"
        time.sleep(0.1)
