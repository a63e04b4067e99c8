"""What fails is in exit code, run.json, records and merged verdict alike, whatever raised it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pytest_gpubench.model.verdicts import Status
from pytest_gpubench.report.merge_runs import Merged, merge
from pytest_gpubench.report.read_results import load_results
from tests.plugin.conftest import Project, with_gates, workers

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("canned")]
PLAIN = "tiny and cpu and not mtp"
SERVER = "tiny-bf16-cpu-vllm-tp1"
CASE = f"{SERVER}:32x4-c1"


def _own(project: Project, text: str, name: str = "test_own.py") -> None:
    (project.pytester.path / "benchmarks" / name).write_text(text)


def _plugin(project: Project, text: str) -> None:
    (project.pytester.path / "conftest.py").write_text(text)


def _run_file(project: Project) -> dict[str, Any]:
    (path,) = (project.pytester.path / "results").glob("*/run.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _side_by_side(number: int) -> tuple[str, ...]:
    return (*workers(number), "--gpubench-exclusive=no") if number else ()


def _merged(project: Project) -> Merged:
    return merge(load_results([project.pytester.path / "results"]))


def _failed(project: Project) -> dict[str, str]:
    return {row.name: row.reason for row in _merged(project).rows if row.status is Status.FAIL}


@pytest.mark.parametrize("number", [0, 2])
def test_a_users_own_tests_that_fail_are_in_the_merged_verdict(
    project: Project, number: int
) -> None:
    _own(
        project,
        "import pytest\n"
        "def test_speed(measure):\n    assert measure().metrics['output_tput'] > 1e9, 'too slow "
        "for us'\n"
        "def test_answer(engine):\n    assert engine.served_name == 'another'\n"
        "def test_plain():\n    assert 1 == 2\n"
        "@pytest.fixture\ndef broken():\n    raise OSError('no such prompt')\n"
        "def test_setup(broken):\n    pass\n"
        "@pytest.fixture\ndef leaves():\n    yield\n    raise OSError('not cleaned up')\n"
        "def test_teardown(leaves):\n    pass\n",
    )
    result = project.run(
        "benchmarks", "-k", "not mtp and not c2 and not big", *_side_by_side(number)
    )
    assert result.ret == 1
    document = _run_file(project)
    assert (document["exit"], document["retryable"]) == (1, False)
    failed = _failed(project)
    assert _merged(project).exit_code == 1
    own = {name.partition("::")[2].partition("[")[0]: reason for name, reason in failed.items()}
    assert set(own) == {"test_speed", "test_answer", "test_plain", "test_setup", "test_teardown"}
    assert own["test_speed"] == "AssertionError: too slow for us"
    assert "no such prompt" in own["test_setup"]
    statuses = {record["case"]: record["verdict"]["status"] for record in project.cases()}
    assert statuses[CASE] == "UNGATED", "what was measured stays what it is"


def test_a_file_that_cannot_be_collected_is_in_the_merged_verdict(project: Project) -> None:
    _own(project, "import no_such_module_of_ours\n")
    assert project.inside("benchmarks", "-k", PLAIN).ret == 2
    failed = _failed(project)
    assert "no_such_module_of_ours" in failed["benchmarks/test_own.py"]
    rows = {row.name: row for row in _merged(project).rows}
    assert rows[CASE].status is Status.INCONCLUSIVE
    assert _merged(project).exit_code == 1


def test_a_gate_of_a_start_is_in_every_verdict(project: Project) -> None:
    with_gates(project, "{engine_init: {at-most: 0.001}}")
    page = project.pytester.path / "page.html"
    result = project.run("benchmarks", "-k", f"{PLAIN} and not c2", f"--gpubench-report={page}")
    assert result.ret == 1
    result.stdout.re_match_lines([r"  tp1:init .*FAIL"])
    failed = _failed(project)
    assert list(failed) == [f"{SERVER}:init"]
    assert "at most 0.001 s" in failed[f"{SERVER}:init"]
    assert f"{SERVER}:init" in page.read_text()
    assert _run_file(project)["failures"] == [], "its record says it"


def test_a_gate_of_a_start_that_no_test_judges_is_told(project: Project) -> None:
    with_gates(project, "{engine_init: {at-most: 0.001}}")
    words = "the recipes gate engine_init, and no test judges it: import test_engine_init from"
    assert words not in project.inside("benchmarks", "--collect-only").stdout.str()
    suite = project.pytester.path / "benchmarks" / "test_serving.py"
    suite.write_text("from pytest_gpubench.suite import test_throughput\n")
    assert words in project.inside("benchmarks", "--collect-only").stdout.str()
    result = project.run(
        "benchmarks", "-k", f"{PLAIN} and c1", "--gpubench-exclusive=no", *workers(2)
    )
    assert result.ret == 0
    assert result.stdout.str().count(words) == 1


def test_a_case_is_measured_once_per_launch_and_its_fail_stays(project: Project) -> None:
    with_gates(project, "{ttft_p50: {at-most: 0.001}}")
    _own(
        project,
        "def test_again(measure):\n    assert measure().metrics['output_tput'] > 1\n",
        "test_zown.py",
    )
    _own(project, "def test_gate(measure, gate):\n    gate(measure())\n", "test_zgate.py")
    result = project.run("benchmarks", "-k", f"{PLAIN} and c1")
    assert result.ret == 1
    result.assert_outcomes(passed=1, failed=2)
    (record,) = project.cases()
    assert record["verdict"]["status"] == "FAIL"
    assert len(list((project.pytester.path / "results").rglob("*.requests.jsonl.gz"))) == 1
    result.stdout.re_match_lines([r"  tp1:32x4-c1 .*FAIL"])


def test_a_failed_measurement_is_not_tried_again(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUBENCH_STUB_FAULT", "compile-refusing:3")
    _own(project, "def test_again(measure):\n    measure()\n", "test_zown.py")
    result = project.run("benchmarks", "-k", f"{PLAIN} and c1")
    assert result.ret == 1
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*it is not measured again*"])


def test_the_gate_judges_what_was_measured_and_nothing_else(project: Project) -> None:
    _own(
        project,
        "import dataclasses\n"
        "def test_own(measure, gate):\n"
        "    better = dataclasses.replace(measure(), metrics={'output_tput': 1e9})\n"
        "    gate(better)\n",
    )
    result = project.run("benchmarks/test_own.py", "-k", f"{PLAIN} and c1")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*gate() judges what measure() returned in this run*"])


def test_one_test_collected_twice_is_exit_4_and_names_both(project: Project) -> None:
    suite = (project.pytester.path / "benchmarks" / "test_serving.py").read_text()
    _own(project, suite, "test_more.py")
    result = project.inside("benchmarks")
    assert result.ret == 4
    result.stderr.fnmatch_lines(
        ["*benchmarks/test_more.py::*benchmarks/test_serving.py::*are the same test*"]
    )
    assert project.inside("benchmarks", "--deselect", "benchmarks/test_more.py", "--co").ret == 0


REPEATER = """
import pytest
from _pytest.runner import runtestprotocol

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for _ in range(3):
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        if all(not report.failed for report in reports):
            break
        item._initrequest()
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    return True
"""
"""A plugin that no list of ours knows: it runs what failed again, and tells pytest of the last."""


@pytest.mark.parametrize("number", [0, 2])
def test_whoever_repeats_a_case_ends_the_run_with_exit_4(project: Project, number: int) -> None:
    with_gates(project, "{ttft_p50: {at-most: 0.001}}")
    _plugin(project, REPEATER)
    result = project.run("benchmarks", "-k", f"{PLAIN} and c1", *_side_by_side(number))
    assert result.ret == 4
    result.stdout.fnmatch_lines(["*is not repeated until it passes*"])
    (record,) = project.cases()
    assert record["verdict"]["status"] == "FAIL"
    assert _run_file(project)["exit"] == 4
    assert _merged(project).exit_code == 1


@pytest.mark.parametrize(
    "catching",
    [
        "def test_caught(measure, gate):\n    with pytest.raises(BaseException):\n     "
        "   gate(measure())\n",
        "@pytest.mark.xfail(strict=False)\ndef test_expected(measure, gate):\n    "
        "gate(measure())\n",
    ],
)
def test_a_fail_that_its_test_swallows_is_exit_1_all_the_same(
    project: Project, catching: str
) -> None:
    with_gates(project, "{ttft_p50: {at-most: 0.001}}")
    _own(project, f"import pytest\n{catching}")
    result = project.run("benchmarks/test_own.py", "-k", f"{PLAIN} and c1")
    assert result.ret == 1
    result.stdout.fnmatch_lines([f"FAIL {CASE}: ttft_p50 is *although its test *"])
    assert (_run_file(project)["exit"], _merged(project).exit_code) == (1, 1)


@pytest.mark.parametrize(
    ("conftest", "cause", "words"),
    [
        (
            "import pytest\n@pytest.fixture(autouse=True)\ndef vault():\n    raise "
            "OSError('the vault is shut')\n",
            "test-failed",
            "the vault is shut",
        ),
        (
            "import pytest\nfrom pytest_gpubench.runs import client_runs\n"
            "def broken(*_args, **_more):\n    raise RuntimeError('a bug of somebody')\n"
            "def pytest_runtest_call():\n    client_runs.run_load = broken\n",
            "unexpected-error",
            "RuntimeError: a bug of somebody",
        ),
        (
            "import pytest\nfrom pytest_gpubench.runs import client_runs\n"
            "def late(*_args, **_more):\n    pytest.fail('Timeout (>1.0s) from pytest-timeout.')\n"
            "def pytest_runtest_call():\n    client_runs.run_load = late\n",
            "test-ended",
            "Timeout (>1.0s)",
        ),
        (
            "import pytest\nfrom pytest_gpubench.runs import client_runs\n"
            "def gone(*_args, **_more):\n    pytest.exit('enough', returncode=7)\n"
            "def pytest_runtest_call():\n    client_runs.run_load = gone\n",
            "interrupted",
            "interrupted while this case was measured",
        ),
    ],
)
def test_whatever_ends_a_case_leaves_a_record(
    project: Project, conftest: str, cause: str, words: str
) -> None:
    _plugin(project, conftest)
    result = project.run("benchmarks", "-k", f"test_throughput and {PLAIN} and c1")
    assert result.ret == (7 if cause == "interrupted" else 1)
    (record,) = project.cases()
    assert record["failure"]["cause"] == cause
    assert words in record["failure"]["summary"]
    assert _merged(project).exit_code == 1
    assert _run_file(project)["exit"] == result.ret


def test_a_lost_gpu_is_one_failure_of_the_infrastructure_with_a_record(project: Project) -> None:
    result = project.inside("benchmarks", "-k", "big and h100", "--gpubench-runner=h100")
    assert result.ret == 1
    text = result.stdout.str()
    assert text.count("not run: big-fp8-h100-vllm-tp8 failed before (hardware-missing)") >= 2
    (init,) = project.inits()
    assert (init["failure"]["cause"], init["failure"]["failure_class"]) == (
        "hardware-missing",
        "infrastructure",
    )
    assert _run_file(project)["retryable"] is True
    assert _merged(project).exit_code == 1


def test_a_time_limit_in_a_start_says_what_to_set(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUBENCH_STUB_LOAD", "60")
    _plugin(
        project,
        "import os, signal, threading, time\n"
        "def expire(results):\n    while not list(results.rglob('launch-1.log')):\n"
        "        time.sleep(0.05)\n    os.kill(os.getpid(), signal.SIGALRM)\n"
        "def pytest_collection_finish(session):\n    folder = session.config.rootpath / 'results'\n"
        "    threading.Thread(target=expire, args=[folder], daemon=True).start()\n",
    )
    # The limit is over when the engine has been started, however long that took.
    result = project.run("benchmarks", "-k", f"{PLAIN} and c1", "--timeout=250")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*timeout_func_only*"])
    assert "guard.py" not in result.stdout.str()
    (init,) = project.inits()
    assert init["failure"]["cause"] == "test-ended"


def test_fixtures_that_are_asked_for_too_late_are_a_sentence(project: Project) -> None:
    _own(
        project,
        "import unittest, pytest\n"
        "def test_lazy(request):\n    request.getfixturevalue('client')\n"
        "def test_case(request):\n    request.getfixturevalue('case')\n"
        "class TestUnit(unittest.TestCase):\n"
        "    @pytest.fixture(autouse=True)\n    def _get(self, request):\n        self.request = "
        "request\n"
        "    def test_unit(self):\n        self.request.getfixturevalue('measure')\n",
    )
    result = project.inside("benchmarks/test_own.py")
    result.assert_outcomes(failed=3)
    assert result.stdout.str().count("Name the fixture as an argument") >= 3
    assert "AttributeError" not in result.stdout.str()


def test_run_json_has_the_code_that_pytest_returns(project: Project) -> None:
    _plugin(
        project,
        "import pytest\ndef pytest_terminal_summary(terminalreporter):\n    "
        "terminalreporter._session.exitstatus = 9\n",
    )
    result = project.run("benchmarks", "-k", f"{PLAIN} and c1")
    assert result.ret == 9
    assert _run_file(project)["exit"] == 9
    assert "exit code 9" in next(iter(_failed(project).values()))


@pytest.mark.parametrize(
    "hook", ["pytest_sessionfinish", "pytest_terminal_summary", "pytest_unconfigure"]
)
def test_a_hook_that_raises_at_the_end_is_in_the_merged_verdict(
    project: Project, hook: str
) -> None:
    _plugin(project, f"def {hook}():\n    raise RuntimeError('no room for the upload')\n")
    result = project.run("benchmarks", "-k", f"{PLAIN} and c1")
    assert result.ret == 1
    assert _run_file(project)["exit"] == 1
    assert "no room for the upload" in next(iter(_failed(project).values()))
    assert _merged(project).exit_code == 1


def test_a_report_that_cannot_be_written_fails_every_verdict(project: Project) -> None:
    page = project.pytester.path / "full" / "page.html"
    page.parent.mkdir()
    _plugin(
        project,
        "from pytest_gpubench.report import html\nfrom pytest_gpubench.model.failures import "
        "GpubenchError\n"
        "def full(*_):\n    raise GpubenchError('the report could not be written: No space left "
        "on device')\n"
        "html.write = full\n",
    )
    result = project.run("benchmarks", "-k", f"{PLAIN} and c1", f"--gpubench-report={page}")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*No space left on device*"])
    assert _run_file(project)["exit"] == 1
    assert _merged(project).exit_code == 1


ENDS_IT = (
    "import pytest\ndef pytest_runtest_setup(item):\n    if 'throughput' in item.name:\n"
    "        pytest.exit('enough', returncode=0)\n"
)


def test_a_run_that_is_ended_as_if_it_were_whole_is_undecided(project: Project) -> None:
    _plugin(project, ENDS_IT)
    result = project.run("benchmarks", "-k", PLAIN)
    assert result.ret == 10
    result.stdout.fnmatch_lines([f"2 selected cases did not run, the first {CASE}: *"])
    assert _run_file(project)["exit"] == 10
    assert _run_file(project)["not_run"][0] == CASE


@pytest.mark.parametrize("option", ["--fixtures", "--fixtures-per-test"])
def test_a_list_of_fixtures_is_no_run_that_something_ended(project: Project, option: str) -> None:
    result = project.inside("benchmarks", option)
    assert result.ret == 0
    assert "did not run" not in result.stdout.str()
    assert not (project.pytester.path / "results").exists()


def test_a_failure_that_a_plugin_turns_into_a_success_is_exit_1(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    _plugin(
        project,
        "import pytest\n@pytest.hookimpl(wrapper=True)\ndef pytest_runtest_makereport():\n"
        "    report = yield\n    report.outcome, report.longrepr = 'passed', None\n"
        "    return report\n",
    )
    monkeypatch.setenv("GPUBENCH_STUB_FAULT", "crash-before-ready")
    result = project.run("benchmarks", "-k", PLAIN)
    assert result.ret == 1
    result.stdout.fnmatch_lines([f"FAIL {SERVER}:init: *although its test passed*"])
    assert (_run_file(project)["exit"], _merged(project).exit_code) == (1, 1)


def test_records_that_are_gone_at_the_end_are_exit_1(project: Project) -> None:
    _plugin(
        project,
        "import shutil\ndef pytest_runtest_teardown(item):\n"
        "    shutil.rmtree(item.config.rootpath / 'results', ignore_errors=True)\n",
    )
    result = project.run("benchmarks", "-k", f"{PLAIN} and c1")
    assert result.ret == 1
    result.stdout.fnmatch_lines([f"the record of {CASE} is gone*"])
    assert _run_file(project)["exit"] == 1


def test_a_hook_that_fails_on_a_worker_of_xdist_fails_the_run(project: Project) -> None:
    _plugin(
        project,
        "import os\ndef pytest_sessionfinish():\n    if 'PYTEST_XDIST_WORKER' in os.environ:\n"
        "        raise OSError('the upload is broken')\n",
    )
    result = project.run("benchmarks", "-k", f"{PLAIN} and c1", *_side_by_side(2))
    assert result.ret == 1
    assert "the upload is broken" in str(_run_file(project)["failures"])
    assert _merged(project).exit_code == 1


def test_a_secret_in_a_fixtures_error_or_print_is_hidden(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAULT_TOKEN", "correct-horse-battery")
    _plugin(
        project,
        "import os, pytest\n@pytest.fixture(autouse=True)\ndef vault():\n"
        "    print('asked with', os.environ['VAULT_TOKEN'])\n"
        "    raise OSError('no such token ' + os.environ['VAULT_TOKEN'])\n",
    )
    result = project.run("benchmarks", "-k", PLAIN, "--junitxml=junit.xml")
    assert result.ret == 1
    junit = (project.pytester.path / "junit.xml").read_text()
    for text in (result.stdout.str(), junit, json.dumps(project.cases())):
        assert "no such token" in text
        assert "correct-horse" not in text
