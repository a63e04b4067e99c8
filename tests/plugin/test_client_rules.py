"""Keys of the client section, validity and calibration, as a user meets them."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import pytest

from pytest_gpubench.load.client_calibration import host_name, software_name, store
from pytest_gpubench.load.client_error import Calibration
from tests.plugin.conftest import Project

PLAIN = "tiny-bf16-cpu-vllm: {extends: base}"
ONE = ("-m", "tiny and not mtp and c1")


def with_client(project: Project, client: str) -> None:
    """Give the plain tiny recipe a ``client`` section."""
    text = (project.pytester.path / "recipes.yaml").read_text()
    project.recipes(text.replace(PLAIN, f"tiny-bf16-cpu-vllm: {{extends: base, client: {client}}}"))


def test_dataset_file_that_is_missing_fails_before_any_server(project: Project) -> None:
    with_client(project, "{dataset: jsonl, dataset-file: data/asked.jsonl}")
    result = project.run(*ONE, "-k", "throughput")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*data/asked.jsonl cannot be read: No such file or directory*"])
    (record,) = project.records()
    assert (record["failure"]["cause"], record["argv"]) == ("dataset-unusable", None)


def test_dataset_file_is_read_beside_the_recipes_and_part_of_the_fingerprint(
    project: Project,
) -> None:
    file = project.pytester.path / "data" / "asked.jsonl"
    file.parent.mkdir()
    lines = [
        json.dumps({"prompt": f"question {number} about it", "output_tokens": 4})
        for number in range(6)
    ]
    fingerprints = []
    with_client(project, "{dataset: jsonl, dataset-file: data/asked.jsonl}")
    for text in ("\n".join(lines), "\n".join([*lines, lines[0]])):
        file.write_text(text)
        project.run(*ONE, "-k", "throughput").assert_outcomes(passed=1)
        fingerprints += [record["fingerprint"] for record in project.cases()]
    assert len(set(fingerprints)) == 2


def test_run_beyond_the_calibration_is_invalid_and_says_what_to_do(project: Project) -> None:
    good = Calibration(1, 2.0, 2.0, 3, 0.05, 0.001, 0.002, 0.01, 1e-5, 0.1, 1e-5, 0.001)
    small = Calibration(**{**good.to_json(), "host": host_name(), "software": software_name()})
    results = project.pytester.path / "results"
    store(results, (small,))
    result = project.run(*ONE)
    assert result.parseoutcomes()["invalid"] == 1
    assert result.ret == 10
    result.stdout.fnmatch_lines(
        [
            "*INVALID*",
            "*the client is calibrated for 1 and 2; run gpubench calibrate for this load*",
        ]
    )
    (record,) = project.cases()
    assert record["measurement"]["calibration"]["chunk_rate"] == 2.0
    assert record["verdict"]["status"] == "INVALID"

    store(
        results,
        (
            Calibration(
                **{**small.to_json(), "conc": 64, "chunk_rate": 6400.0, "asked_rate": 6400.0}
            ),
        ),
    )
    project.run(*ONE).assert_outcomes(passed=1)
    assert {record["measurement"]["calibration"]["conc"] for record in project.cases()} == {1, 64}


def test_damaged_calibration_is_a_sentence(project: Project) -> None:
    path = Path(project.pytester.path / "results" / "calibration" / f"{platform.node()}.json")
    path.parent.mkdir(parents=True)
    path.write_text("{")
    result = project.run(*ONE, "-k", "throughput")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*is damaged; delete it, then run gpubench calibrate*"])


@pytest.mark.slow
def test_engine_over_time_reaches_the_record(project: Project) -> None:
    with_client(project, "{prompts-per-conc: 8}")
    project.run(*ONE, "-k", "throughput").assert_outcomes(passed=1)
    (record,) = project.cases()
    series = record["measurement"]["series"]
    assert len(series) >= 2
    assert max(point["running"] or 0 for point in series) >= 1
    tokens = [point["generated_tokens"] for point in series]
    assert tokens == sorted(tokens)
    assert tokens[-1] > tokens[0]


def compiling(
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    completions: int,
    fault: str = "compile-serving",
) -> tuple[dict[str, Any], pytest.RunResult]:
    """A run whose engine compiles a kernel at each of its first completions, and the record of its
    one case."""
    monkeypatch.setenv("GPUBENCH_STUB_FAULT", f"{fault}:{completions}")
    result = project.run(*ONE, "-k", "throughput")
    (record,) = project.cases()
    return record, result


def test_what_was_spoilt_by_compilations_is_measured_again(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, result = compiling(project, monkeypatch, 3)
    result.assert_outcomes(passed=1)
    flags = {flag["code"]: flag["message"] for flag in record["measurement"]["flags"]}
    assert flags["measured-again"].startswith(
        "this is measurement 2 on this launch: the engine compiled kernels"
    )
    assert record["measurement"]["invalid"] == []
    assert (
        record["measurement"]["totals"]["engine_output_tokens"]
        == record["measurement"]["totals"]["output_tokens_with_warmup"]
    )


def test_an_engine_that_goes_on_compiling_is_invalid(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, result = compiling(project, monkeypatch, 1000)
    assert result.parseoutcomes()["invalid"] == 1
    assert result.ret == 10
    result.stdout.fnmatch_lines(
        [
            "*engine compiled kernels while it was measured (fused_moe_kernel; attempt "
            "3 on this launch)*"
        ]
    )
    assert record["verdict"]["status"] == "INVALID"


def test_a_failure_while_kernels_compile_stays_a_failure(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, result = compiling(project, monkeypatch, 3, "compile-refusing")
    result.assert_outcomes(failed=1)
    assert record["failure"]["cause"] == "measurement-refused"
