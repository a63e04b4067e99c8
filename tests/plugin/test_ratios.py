"""Ratios between cases of one run, as the last items of the run."""

from __future__ import annotations

import json

import pytest

from tests.plugin.conftest import RECIPES, XUNIT1, Project, workers

pytestmark = pytest.mark.usefixtures("canned")

PLAIN, DRAFTED = "tiny-bf16-cpu-vllm", "tiny-bf16-cpu-vllm-mtp"
NAME = "test_ratio[[]gain:tp1:32x4-c1]"


def _declare(project: Project, bounds: str, over: str = PLAIN) -> None:
    project.recipes(
        f"{RECIPES}\nratios:\n- {{name: gain, metric: output_tput, of: {DRAFTED}, over: "
        f"{over}, {bounds}}}\n"
    )


def test_a_ratio_is_judged_last_and_fails_beyond_its_bound(project: Project) -> None:
    _declare(project, "at-least: 50")
    result = project.run("benchmarks", "-m", "cpu", "-v", "--junitxml=junit.xml", *XUNIT1)
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "*test_throughput*PASSED*",
            f"*{NAME} FAILED*100%*",
            "FAIL: output_tput of * times *demands at least 50 times",
        ]
    )
    result.stdout.fnmatch_lines(
        [f"FAIL: ratio gain:tp1:32x4-c1: output_tput of {DRAFTED}-tp1:32x4-c1 is * times that of *"]
    )
    result.assert_outcomes(passed=5, failed=1, deselected=3)
    assert "Traceback" not in result.stdout.str()
    assert (
        '<property name="gpubench_verdict" value="FAIL" />'
        in (project.pytester.path / "junit.xml").read_text()
    )


def test_a_ratio_within_its_bound_passes_and_is_told(project: Project) -> None:
    _declare(project, "at-least: 0.02, at-most: 50")
    result = project.run("benchmarks", "-k", "cpu and c1")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        ["PASS: ratio gain:tp1:32x4-c1: output_tput of *; the recipe is satisfied"]
    )


@pytest.mark.parametrize(
    ("selection", "chosen"),
    [
        (("-k", "cpu"), True),
        (("-m", "cpu and not mtp"), False),
        (("-k", "cpu and c2"), False),
        (("-k", "test_engine_init"), False),
        (("-m", "cpu", "--deselect", "benchmarks/test_serving.py::test_ratio"), False),
    ],
)
def test_it_is_selected_where_both_sides_are(
    project: Project, selection: tuple[str, ...], chosen: bool
) -> None:
    _declare(project, "at-least: 0.02")
    result = project.inside("benchmarks", "--collect-only", "-q", *selection)
    assert ("test_ratio[gain:tp1:32x4-c1]" in result.stdout.str()) is chosen


def test_without_ratios_there_is_no_trace_of_them(project: Project) -> None:
    result = project.inside("benchmarks", "--collect-only", "-q")
    assert "ratio" not in result.stdout.str()
    assert "deselected" not in result.stdout.str()
    result.stdout.fnmatch_lines(["8 tests collected*"])


@pytest.mark.parametrize("imported", ["test_throughput", "test_throughput, test_ratio"])
def test_files_that_do_not_judge_them_are_told(project: Project, imported: str) -> None:
    _declare(project, "at-least: 50")
    suite = project.pytester.path / "benchmarks" / "test_serving.py"
    suite.write_text(f"from pytest_gpubench.suite import {imported}\n")
    told = project.inside("benchmarks", "-m", "cpu", "--collect-only").stdout.str()
    words = "the recipes have ratios, and no test judges them: import test_ratio from"
    assert (words in told) is ("test_ratio" not in imported)


def test_a_side_that_matches_nothing_is_a_sentence(project: Project) -> None:
    _declare(project, "at-least: 1.2", over="tiny-bf16-cpu-vlm")
    result = project.inside("benchmarks", "--collect-only")
    assert result.ret == 4
    words = (
        "ERROR: *recipes.yaml:*:3: the ratio gain judges nothing: no case matches over: "
        "tiny-bf16-cpu-vlm"
    )
    result.stderr.fnmatch_lines([words])
    result = project.run("benchmarks", *workers(2), "--gpubench-exclusive=no")
    assert result.ret == 4
    result.stderr.fnmatch_lines([words])


def test_a_side_without_a_result_is_inconclusive_and_both_sides_are_to_be_measured_again(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    _declare(project, "at-least: 0.02")
    monkeypatch.setenv("GPUBENCH_STUB_FAULT", "kv-cache")
    result = project.run("benchmarks", "-k", "cpu and c1 and throughput")
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        ["INCONCLUSIVE: ratio gain:tp1:32x4-c1: output_tput of * was not measured in this run*"]
    )
    (rerun,) = (project.pytester.path / "results").rglob("rerun.txt")
    for name in (
        "test_ratio[gain",
        f"test_throughput[{PLAIN}-tp1:32x4-c1]",
        f"test_throughput[{DRAFTED}-tp1:32x4-c1]",
    ):
        assert name in rerun.read_text()


@pytest.mark.parametrize(("bounds", "code"), [("at-least: 0.02", 0), ("at-least: 50", 1)])
def test_under_xdist_the_controller_judges_what_two_workers_measured(
    project: Project, bounds: str, code: int
) -> None:
    _declare(project, bounds)
    options = (*workers(2), "--gpubench-exclusive=no", "--junitxml=junit.xml", *XUNIT1)
    result = project.run("benchmarks", "-k", "cpu and c1", *options)
    assert result.ret == code
    result.assert_outcomes(passed=3 - code, failed=code)
    result.stdout.fnmatch_lines([f"{'FAIL' if code else 'PASS'}: ratio gain:tp1:32x4-c1: *"])
    junit = (project.pytester.path / "junit.xml").read_text()
    assert junit.count("<testcase") == 3
    assert 'name="test_ratio[gain:tp1:32x4-c1]"' in junit


def test_with_one_worker_too(project: Project) -> None:
    _declare(project, "at-least: 0.02")
    result = project.run("benchmarks", "-k", "cpu and c1", *workers(1))
    result.assert_outcomes(passed=3)


def test_the_record_of_a_run_holds_both_sides(project: Project) -> None:
    """The merge of matrix jobs judges with the same function: the matrix names the ratio and its
    sides."""
    _declare(project, "at-least: 0.02")
    assert project.inside("benchmarks", "-k", "cpu", "--gpubench-matrix=matrix.json").ret == 0
    (point,) = json.loads((project.pytester.path / "matrix.json").read_text())["ratios"]
    assert (point["of"], point["over"]) == (f"{DRAFTED}-tp1:32x4-c1", f"{PLAIN}-tp1:32x4-c1")
