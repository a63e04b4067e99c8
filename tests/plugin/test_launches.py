"""Several launches of a server: reserves that start only when needed, and statuses of what they
do."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import XUNIT1, Project, with_gates

pytestmark = pytest.mark.usefixtures("canned")

ONE = ("benchmarks", "-m", "cpu and not mtp and c1")
SERVER = "tiny-bf16-cpu-vllm-tp1"


def test_reserve_launches_that_nobody_needs_are_settled_and_start_no_server(
    project: Project,
) -> None:
    result = project.run(
        "benchmarks",
        "-m",
        "cpu and not mtp",
        "--gpubench-launches=1..3",
        "-v",
        "--junitxml=junit.xml",
        *XUNIT1,
    )
    assert result.ret == 0, result.stdout.str()
    result.stdout.fnmatch_lines(
        [
            f"*test_engine_init?{SERVER}:launch1?*PASSED*",
            f"*test_throughput?{SERVER}:32x4-c1:launch1?*PASSED*",
            f"*test_throughput?{SERVER}:32x4-c2:launch1?*PASSED*",
            f"*test_engine_init?{SERVER}:launch2?*SETTLED*",
            f"*test_throughput?{SERVER}:32x4-c1:launch2?*SETTLED*",
            "*3 passed*6 settled*",
        ]
    )
    assert [path.name for path in project.pytester.path.rglob("*.log")] == ["launch-1.log"]
    assert (
        "settled: UNGATED without this launch" in (project.pytester.path / "junit.xml").read_text()
    )


def test_an_undecided_case_is_measured_again_and_the_last_verdict_counts(project: Project) -> None:
    with_gates(project, "{queue_p50: {at-most: 100}}")  # the engine does not say it
    project.pytester.makeconftest(WANTING.format(code="not-measured"))
    result = project.run(*ONE, "--gpubench-launches=1..2", "--junitxml=junit.xml", *XUNIT1, "-rs")
    assert result.ret == 10, result.stdout.str()
    result.stdout.fnmatch_lines(
        [
            "*queue_p50 could not be measured on launch-1, launch-2*",
            "*1 measured, 1 inconclusive*",
        ]
    )
    junit = (project.pytester.path / "junit.xml").read_text()
    assert junit.count('name="gpubench_queue_p50" value="INCONCLUSIVE"') == 2
    assert [record["launch"]["index"] for record in project.cases("launch-*.json")] == [1, 2]


WANTING = """
import pytest_gpubench.gate.decide as judging
judging._MORE_LAUNCHES_HELP |= {{"{code}"}}
"""


def test_a_case_that_ends_as_measured_is_inconclusive(project: Project) -> None:
    with_gates(project, "{queue_p50: {at-most: 100}}")
    project.pytester.makeconftest(WANTING.format(code="not-measured"))
    case = f"benchmarks/test_serving.py::test_throughput[{SERVER}:32x4-c1:launch1]"
    result = project.run(case, "--gpubench-launches=1..2")
    assert result.ret == 10
    result.stdout.fnmatch_lines(["*32x4-c1 *INCONCLUSIVE", "*1 measured*"])


def test_every_certain_launch_runs(project: Project) -> None:
    (project.pytester.path / "tox.ini").write_text("[pytest]\ngpubench_launches = 2\n")
    result = project.run(*ONE)
    assert result.ret == 0, result.stdout.str()
    result.assert_outcomes(passed=2)
    assert [record["launch"]["index"] for record in project.cases("launch-*.json")] == [1, 2]


def test_a_dead_server_is_no_reason_to_start_a_reserve(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUBENCH_STUB_FAULT", "exit-at-import")
    result = project.run(*ONE, "--gpubench-launches=1..3")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*1 failed*2 settled*"])
    assert len(project.records("launch-*.json")) == 1


@pytest.mark.parametrize("text", ["0", "3..1", "many", "1..", "101"])
def test_launches_that_mean_nothing_are_a_sentence(project: Project, text: str) -> None:
    result = project.inside("benchmarks", f"--gpubench-launches={text}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [f"ERROR: --gpubench-launches: launches '{text}': write a number such as 3*"]
    )
