"""pytest-benchmark beside us: its JSON, its options, its fixture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.plugin.conftest import Project, workers

pytestmark = pytest.mark.usefixtures("canned")

CASE = "tiny-bf16-cpu-vllm-tp1:32x4-c1"


def _written(project: Project) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((project.pytester.path / "out.json").read_text())
    return document


def test_the_file_holds_the_durations_of_the_run(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Tokens that come all at once, as from a stub that waits for its turn, have no time between.
    monkeypatch.setenv("GPUBENCH_STUB_TOKEN_TIME", "0.3")
    result = project.run(
        "benchmarks", "-m", "cpu and not mtp and c1", "--gpubench-benchmark-json=out.json"
    )
    assert result.ret == 0, result.stdout.str()
    result.stdout.fnmatch_lines(["*pytest-benchmark JSON: *out.json"])
    document = _written(project)
    (record,) = project.cases()
    (init,) = project.inits()
    values = {entry["name"]: entry["stats"]["mean"] for entry in document["benchmarks"]}
    assert values == pytest.approx(
        {
            f"seconds_per_output_token[{CASE}]": 1 / record["metrics"]["output_tput"],
            f"ttft_p50[{CASE}]": record["metrics"]["ttft_p50"],
            f"tpot_p50[{CASE}]": record["metrics"]["tpot_p50"],
            "engine_init[tiny-bf16-cpu-vllm-tp1]": init["phases"]["ready"],
        }
    )
    assert document["machine_info"]["node"] == record["host"]["hostname"]
    assert document["machine_info"]["hardware"] == ["cpu"]


@pytest.mark.slow
def test_under_xdist_the_controller_writes_all_of_it(project: Project) -> None:
    options = [*workers(2), "--gpubench-exclusive=no", "--gpubench-benchmark-json=out.json"]
    result = project.run("benchmarks", "-k", "tiny and cpu", *options)
    assert result.ret == 0, result.stdout.str()
    subjects = {entry["param"] for entry in _written(project)["benchmarks"]}
    assert len([subject for subject in subjects if ":" in subject]) == 3
    assert len([subject for subject in subjects if ":" not in subject]) == 2


def test_without_a_number_there_is_no_file(project: Project) -> None:
    result = project.run("benchmarks", "-m", "h100", "--gpubench-benchmark-json=out.json")
    result.stdout.fnmatch_lines(
        ["--gpubench-benchmark-json: nothing was measured, *out.json is not written"]
    )
    assert not (project.pytester.path / "out.json").exists()


def test_a_file_that_cannot_be_written_ends_the_run_at_once(project: Project) -> None:
    for name, words in (
        ("no/such/out.json", "*the folder *no/such does not exist*"),
        ("benchmarks", "*benchmarks is a folder*"),
    ):
        result = project.inside("benchmarks", f"--gpubench-benchmark-json={name}")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([words])


def test_its_own_options_are_answered_in_the_header(project: Project) -> None:
    for option in ("--benchmark-json=its.json", "--benchmark-compare"):
        # Without a benchmark of its own it warns, and warnings are errors here.
        result = project.run("benchmarks", "-m", "h100", "-W", "default", option)
        name = option.partition("=")[0]
        result.stdout.fnmatch_lines(
            [f"gpubench: {name} is about the benchmark fixture; *--gpubench-benchmark-json FILE"]
        )
    project.inside("benchmarks", "-m", "h100").stdout.no_fnmatch_line("*--gpubench-benchmark-json*")


def test_benchmark_only_skips_our_items_with_its_reason(project: Project) -> None:
    (project.pytester.path / "benchmarks" / "test_own.py").write_text(
        "def test_own(benchmark):\n    benchmark(lambda: None)\n"
    )
    result = project.run(
        "benchmarks",
        "-k",
        "own or tiny and cpu and not mtp",
        "--benchmark-only",
        "--benchmark-json=its.json",
    )
    assert result.ret == 0, result.stdout.str()
    result.assert_outcomes(passed=1, skipped=3)
    result.stdout.fnmatch_lines(["*Skipping non-benchmark (--benchmark-only active).*"])
    assert not project.records(), "no server was started"
    its = json.loads((project.pytester.path / "its.json").read_text())
    assert [entry["name"] for entry in its["benchmarks"]] == ["test_own"], (
        "nothing of ours is in its file"
    )


def test_without_the_plugin_of_pytest_benchmark_ours_is_written_all_the_same(
    project: Project,
) -> None:
    result = project.run(
        "benchmarks",
        "-m",
        "cpu and not mtp and c1",
        "-p",
        "no:benchmark",
        "--gpubench-benchmark-json=out.json",
    )
    assert result.ret == 0, result.stdout.str() + result.stderr.str()
    assert len(_written(project)["benchmarks"]) == 4
    refused = project.inside("benchmarks", "-p", "no:benchmark", "--benchmark-only")
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    refused.stderr.fnmatch_lines(["*unrecognized arguments: --benchmark-only*"])


def test_the_run_is_no_place_for_secrets(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecretsecret")
    project.run(
        "benchmarks",
        "-m",
        "cpu and not mtp and c1",
        f"--gpubench-benchmark-json={tmp_path / 'out.json'}",
    )
    assert "hf_secret" not in (tmp_path / "out.json").read_text()
