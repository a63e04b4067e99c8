"""Known bugs in a run: an expected failure that is shown, that expires, and that is missed when it
is gone."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from pytest_gpubench.report import html
from pytest_gpubench.report.exports_csv import csv_text
from pytest_gpubench.report.markdown import markdown
from pytest_gpubench.report.merge_runs import merge
from pytest_gpubench.report.read_results import load_results
from tests.plugin.conftest import XUNIT1, Project, with_gates, workers
from tests.plugin.test_gate_baselines import CASE, ONE

pytestmark = pytest.mark.usefixtures("canned")

BUG = "https://example.org/issues/7"
BROKEN = "{output_tput_per_gpu: {at-least: 1000000000}}"
SOON = (datetime.now(UTC) + timedelta(days=400)).date().isoformat()
PLACE = "benchmarks/baselines/waivers.yaml"


def waive(project: Project, text: str) -> None:
    path = project.pytester.path / PLACE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def known(case: str = f"'{CASE}'", until: str = SOON, more: str = "") -> str:
    return f"- {{case: {case}, bug: '{BUG}', until: {until}{more}}}\n"


def test_a_known_failure_is_green_and_shown_everywhere(project: Project) -> None:
    with_gates(project, BROKEN)
    waive(project, known("'*:32x4-c1'", more=", metric: output_tput_per_gpu, reason: 'in <b>vLLM'"))
    result = project.run(*ONE, "-rx", "--junitxml=junit.xml", *XUNIT1)
    assert result.ret == 0, result.stdout.str()
    result.assert_outcomes(xfailed=1)
    result.stdout.fnmatch_lines(
        [
            "*tp1:32x4-c1 *WAIVED",
            f"waived: {CASE}: output_tput_per_gpu is *; waived until {SOON}: {BUG}, in <b>vLLM "
            f"({PLACE}:1)",
            "XFAIL *WAIVED: output_tput_per_gpu is *",
        ]
    )
    (record,) = project.cases()
    verdict = record["verdict"]
    assert verdict["status"] == "WAIVED"
    assert verdict["metrics"][0]["code"] == "limit-broken"
    use = {"place": f"{PLACE}:1", "bug": BUG, "until": SOON, "state": "holds"}
    assert verdict["metrics"][0]["waiver"] == use
    junit = (project.pytester.path / "junit.xml").read_text()
    assert 'name="gpubench_verdict" value="WAIVED"' in junit
    assert f'name="gpubench_output_tput_per_gpu_limit_waiver" value="holds: {BUG}' in junit
    loaded = load_results([project.pytester.path / "results"])
    merged = merge(loaded)
    assert merged.exit_code == 0
    assert merged.lines()[0].startswith(f"WAIVED {CASE}: ")
    assert merged.lines()[-1].startswith("merged: 1 WAIVED")
    comment = markdown(loaded)
    assert "**1 WAIVED** in 1 case" in comment
    assert "- waived: " in comment
    assert "<b>" not in comment
    page = html.render(loaded)
    assert f'<a href="{BUG}" rel="noopener noreferrer nofollow">bug</a>' in page
    assert "<b>vLLM" not in page
    assert 'class="badge waived"' in page
    table = csv_text(loaded.cases())
    assert f"output_tput_per_gpu waived until {SOON}: {BUG}" in table


def test_what_is_not_waived_or_no_longer_fails_loudly(project: Project) -> None:
    with_gates(
        project,
        "{output_tput_per_gpu: {at-least: 1000000000}, output_tput: {at-least: 1000000000}, "
        "ttft_p50: {at-most: 0.000000001}, e2e_p50: {at-most: 0.000000001}}",
    )
    waive(
        project,
        known(more=", metric: output_tput_per_gpu")
        + known(until="2026-01-31", more=", metric: output_tput")
        + known(more=", metric: ttft_p50, until-version: {vllm: '0.0.0'}"),
    )
    result = project.run(*ONE)
    assert result.ret == 1
    (record,) = project.cases()
    found = {one["metric"]: one for one in record["verdict"]["metrics"]}
    assert {name: one["status"] for name, one in found.items()} == {
        "output_tput_per_gpu": "WAIVED",
        "output_tput": "FAIL",
        "ttft_p50": "FAIL",
        "e2e_p50": "FAIL",
    }
    expired = f"; the waiver {PLACE}:2 ({BUG}) has expired: it held until 2026-01-31"
    assert found["output_tput"]["reason"].endswith(expired)
    mended = f"; the waiver {PLACE}:3 ({BUG}) has expired: it held until vllm 0.0.0, and this is "
    assert mended in found["ttft_p50"]["reason"]
    assert found["e2e_p50"]["waiver"] is None
    result.stdout.fnmatch_lines(["FAIL: *has expired: it held until 2026-01-31*"])
    for line in (1, 2, 3):
        said = f"waived: {CASE}: *{BUG} ({PLACE}:1)"
        if line > 1:
            said = f"the waiver {PLACE}:{line} ({BUG}) HAS EXPIRED and is still needed by {CASE}: *"
        result.stdout.fnmatch_lines([said])


def test_what_passes_again_is_said_and_fails_where_it_is_strict(project: Project) -> None:
    with_gates(project, "{output_tput_per_gpu: {at-least: 0.001}, ttft_p50: {at-most: 1000}}")
    waive(
        project,
        known(more=", metric: ttft_p50")
        + known(more=", strict: true, metric: output_tput_per_gpu"),
    )
    result = project.run(*ONE)
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            f"FAIL: output_tput_per_gpu does not fail, as the strict waiver {PLACE}:2 ({BUG}) "
            "says it would; remove the waiver*",
        ]
    )
    result.stdout.fnmatch_lines(
        [
            f"the waiver {PLACE}:1 ({BUG}) is NO LONGER NEEDED: nothing that it covers fails in "
            f"{CASE}; remove it"
        ]
    )


def test_runxfail_wants_no_waiver(project: Project) -> None:
    with_gates(project, BROKEN)
    waive(project, known())
    result = project.run(*ONE, "--runxfail")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["FAIL: output_tput_per_gpu is *"])


def test_a_start_is_waived_and_what_covers_nothing_is_said(project: Project) -> None:
    with_gates(project, "{engine_init: {at-most: 0.001}}")
    waive(
        project,
        known("'*:init'") + known("tiny-bf16-cpu-vllm-tp8:*") + known("'*'", "2026-01-31"),
    )
    result = project.run("benchmarks", "-k", "tiny and not mtp")
    assert result.ret == 0, result.stdout.str()
    result.assert_outcomes(passed=2, xfailed=1)
    result.stdout.fnmatch_lines(
        [
            "waived: *:init: engine_init is *",
            f"the waiver {PLACE}:2 ({BUG}) covers nothing: no case of the recipes matches "
            "tiny-bf16-cpu-vllm-tp8:[*]; correct or remove it",
            f"the waiver {PLACE}:3 ({BUG}) expired on 2026-01-31; remove it, or *",
        ]
    )
    (init,) = project.inits()
    assert init["verdict"]["status"] == "WAIVED"
    assert merge(load_results([project.pytester.path / "results"])).exit_code == 0


def test_a_wrong_waiver_ends_the_run_before_anything_starts(project: Project) -> None:
    waive(project, "- {case: '*', bugg: 1, until: 2026-13-01, metric: tpot_p51}\n")
    result = project.inside(*ONE)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [
            f"ERROR: 4 problems in {PLACE}:",
            f"  {PLACE}:1:3: waivers[[]0[]].bug: missing key 'bug'; add it",
            f"  {PLACE}:1:15: waivers[[]0[]].bugg: unknown key 'bugg'; did you mean 'bug'?",
            f"  {PLACE}:1:31: waivers[[]0[]].until: must be a day such as 2027-01-31*'2026-13-01'",
            f"  {PLACE}:1:51: waivers[[]0[]].metric: no metric is named 'tpot_p51'; did you mean*",
        ]
    )
    assert project.records() == []
    assert project.inside(*ONE, "--co").ret == 0


@pytest.mark.slow
def test_workers_waive_as_one_process_does(project: Project) -> None:
    with_gates(project, BROKEN)
    waive(project, known("'*'"))
    result = project.run(*ONE, *workers(2), "--gpubench-exclusive=no")
    assert result.ret == 0, result.stdout.str()
    result.assert_outcomes(xfailed=1)
    result.stdout.fnmatch_lines([f"waived: {CASE}: *"])
    (path,) = (project.pytester.path / "results").glob("*/run.json")
    assert json.loads(path.read_text())["exit"] == 0
