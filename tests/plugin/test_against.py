"""Two engines on one host: launches in turn, pairs judged, the difference on record."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from tests.plugin.conftest import STUB, Project, plant_levels

pytestmark = pytest.mark.usefixtures("canned")

ONE = ("benchmarks", "-m", "cpu and not mtp and c1")
SERVER = "tiny-bf16-cpu-vllm-tp1"


def _record(project: Project, label: str, folder: str = "32x4-c1") -> dict[str, Any]:
    (path,) = (project.pytester.path / "results").rglob(f"{folder}/{label}.json")
    record: dict[str, Any] = json.loads(path.read_text())
    return record


STEADY = {"output_tput_per_gpu": 10.0, "tpot_p50": 0.01, "ttft_p50": 0.25}
"""What the gate is given for an engine: how fast the test's machine is has no part in a verdict."""


@pytest.mark.slow
def test_a_slower_engine_fails_and_the_difference_is_on_record(project: Project) -> None:
    plant_levels(project, {"a": STEADY, "b": STEADY | {"tpot_p50": 0.02}})
    options = (
        "--gpubench-against=GPUBENCH_STUB_TOKEN_TIME=0.02 --max-num-seqs 8",
        "--gpubench-launches=2",
        "-v",
    )
    result = project.run(*ONE, *options)
    assert result.ret == 1, result.stdout.str()
    result.stdout.fnmatch_lines(
        [
            "gpubench: against: GPUBENCH_STUB_TOKEN_TIME=0.02 --max-num-seqs 8; the "
            "engines take turns as A B B A",
            "*test_throughput?tiny-bf16-cpu-vllm-tp1:32x4-c1:a1?*MEASURED*",
            "*test_throughput?tiny-bf16-cpu-vllm-tp1:32x4-c1:b1?*MEASURED*",
            "*:32x4-c1:b2?*MEASURED*",
            "*:32x4-c1:a2?*",
            "*:32x4-c1:a3?*",
            "*:32x4-c1:b3?*",
            "*:32x4-c1:b4?*",
            "*:32x4-c1:a4?*FAILED*",
            "*tpot_p50 rose by * against the first engine*5% allowed*",
            "*note: engine B is GPUBENCH_STUB_TOKEN_TIME=0.02 --max-num-seqs 8 (--max-num-seqs 8 "
            "instead of not given; "
            "GPUBENCH_STUB_TOKEN_TIME 0.02 instead of not given)*",
            "*tp1:32x4-c1 (a)*",
            "*tp1:32x4-c1 (b)*",
            "(a) is the engine of the recipes, (b) the one of --gpubench-against: "
            "GPUBENCH_STUB_TOKEN_TIME=0.02 --max-num-seqs 8",
        ]
    )
    first, second = _record(project, "a1"), _record(project, "b1")
    assert first["against"] is None
    assert second["against"]["differences"] == [
        "--max-num-seqs 8 instead of not given",
        "GPUBENCH_STUB_TOKEN_TIME 0.02 instead of not given",
    ]
    assert "--max-num-seqs" in second["argv"]
    assert "--max-num-seqs" not in first["argv"]
    assert second["fingerprint"] != first["fingerprint"]
    last = _record(project, "a4")["verdict"]
    assert {one["against"] for one in last["metrics"]} == {"engine"}


@pytest.mark.slow
def test_a_faster_engine_is_an_improvement(project: Project) -> None:
    plant_levels(project, {"a": STEADY, "b": STEADY | {"tpot_p50": 0.005}})
    result = project.run(
        *ONE, "--gpubench-against=GPUBENCH_STUB_TOKEN_TIME=0.002", "--gpubench-launches=1"
    )
    assert result.ret in (0, 10), result.stdout.str()
    result.stdout.fnmatch_lines(["*tpot_p50 fell by *an improvement*"])


def test_the_same_engine_does_not_fail(project: Project) -> None:
    plant_levels(project, {"a": STEADY, "b": STEADY})
    result = project.run(
        *ONE, f"--gpubench-against={sys.executable} {STUB} serve", "--gpubench-launches=1"
    )
    assert result.ret in (0, 10), result.stdout.str()
    assert not {"failed", "errors"} & set(result.parseoutcomes())
    assert _record(project, "b1")["against"]["differences"] == []


def test_the_second_engine_is_checked_against_its_own_spec(project: Project) -> None:
    """The stub says the block size that it was given; a flag that it ignores is a deviation of arm
    b alone."""
    result = project.run(
        *ONE, "--gpubench-against=--block-size 64 --dtype float16", "--gpubench-launches=1"
    )
    assert result.ret == 1, result.stdout.str()
    result.stdout.fnmatch_lines(
        ["*dtype: the recipe asks for float16, the engine runs with *bfloat16*"]
    )
    checks = _record(project, "b1", "init")["checks"]
    assert "block size" in checks["checked"]
    assert _record(project, "a1")["failure"] is None
    assert _record(project, "a2")["failure"] is None, "the other engine's launches go on"


def test_the_doctor_examines_the_second_engine(project: Project) -> None:
    """A context that is shorter than the case: foretold for arm b, and nothing of it is started."""
    result = project.run(*ONE, "--gpubench-against=--max-model-len 32", "--gpubench-launches=1")
    assert result.ret == 1, result.stdout.str()
    result.stdout.fnmatch_lines(["*the doctor foresees that this cannot work*"])
    for arm in ("b1", "b2"):
        record = _record(project, arm)
        assert (record["failure"]["cause"], record["argv"]) == ("doctor", None)
    assert _record(project, "a1")["failure"] is None


UNGATED = "{output_tput_per_gpu: false, tpot_p50: false, ttft_p50: false, ttft_p99: false}"


def test_the_draft_can_be_switched_off_for_the_second_engine(project: Project) -> None:
    text = (project.pytester.path / "recipes.yaml").read_text()
    mtp = "tiny-bf16-cpu-vllm-mtp:\n  extends: base\n"
    assert mtp in text
    project.recipes(text.replace(mtp, f"{mtp}  gates: {UNGATED}\n"))  # how fast: not asked here
    result = project.run(
        "benchmarks",
        "-m",
        "cpu and mtp",
        "--gpubench-against=--no-speculative-config",
        "--gpubench-launches=1",
    )
    assert not {"failed", "errors"} & set(result.parseoutcomes())
    assert "acceptance_length" in _record(project, "a1")["metrics"]
    assert "acceptance_length" not in _record(project, "b1")["metrics"]
    assert "--speculative-config" not in _record(project, "b1")["argv"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["--gpubench-against=vllm/vllm-openai:v0.25"],
            "*looks like an image. No container is started*",
        ),
        (["--gpubench-against=nowhere"], "*no executable on PATH*"),
        (["--gpubench-against="], "*is empty*"),
        (
            ["--gpubench-against=--x", "--gpubench-base-url=http://127.0.0.1:1"],
            "*--gpubench-base-url exclude each other*",
        ),
        (
            ["--gpubench-against=--x", "--gpubench-update-baselines"],
            "*--gpubench-update-baselines exclude each other*",
        ),
    ],
)
def test_what_cannot_be_compared_is_a_usage_error(
    project: Project, options: list[str], words: str
) -> None:
    result = project.inside("benchmarks", *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([words])
    assert "Traceback" not in result.stderr.str()
