"""Many runs to one answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.model.verdicts import Status
from pytest_gpubench.report.matrix import read_matrix
from pytest_gpubench.report.merge_runs import Merged, merge
from pytest_gpubench.report.read_results import load_results
from tests.report.result_files import FAILURE, case_record, init_record, write

SERVER = "tiny-bf16-h100-vllm-tp1"
CASE = f"{SERVER}:1k1k-c4"
OTHER = f"{SERVER}:1k1k-c8"
ENGINE_DIED = FAILURE | {
    "cause": "engine-died",
    "failure_class": "engine",
    "summary": "the engine died",
}
INTERRUPTED = FAILURE | {
    "cause": "interrupted",
    "failure_class": "client",
    "summary": "the run was interrupted",
}


def _matrix(*cases: str, **more: Any) -> dict[str, Any]:
    return {"kind": "matrix", "include": [{"name": "job", "cases": list(cases)}], **more}


def _end(run: Path) -> None:
    (run / "run.json").write_text(
        json.dumps({"kind": "run", "exit": 0, "finished": "2027-01-01T00:00:00Z"})
    )


def _merged(
    tmp_path: Path, *records: tuple[str, dict[str, Any]], matrix: dict[str, Any] | None = None
) -> Merged:
    for run, record in records:
        write(tmp_path / run, record)
        _end(tmp_path / run)
    return merge(load_results([tmp_path]), matrix)


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        (["PASS", "PASS"], 0),
        (["PASS", "UNGATED"], 0),
        (["PASS", "INCONCLUSIVE"], 10),
        (["INVALID", "PASS"], 10),
        (["INCONCLUSIVE", "FAIL"], 1),
    ],
)
def test_the_worst_verdict_decides_the_exit_code(
    tmp_path: Path, statuses: list[str], code: int
) -> None:
    records = [
        (f"run-{index}", case_record(conc=4 * (index + 1), status=status))
        for index, status in enumerate(statuses)
    ]
    assert _merged(tmp_path, *records).exit_code == code


def test_nothing_at_all_is_pytests_no_tests(tmp_path: Path) -> None:
    assert _merged(tmp_path).exit_code == 5


def test_a_case_of_the_matrix_that_did_not_report_is_inconclusive(tmp_path: Path) -> None:
    merged = _merged(tmp_path, ("run", case_record()), matrix=_matrix(CASE, OTHER))
    assert [(row.name, row.status, row.job) for row in merged.rows] == [
        (CASE, Status.PASS, "job"),
        (OTHER, Status.INCONCLUSIVE, "job"),
    ]
    assert merged.exit_code == 10
    assert "has not reported" in "\n".join(merged.lines())


def test_the_newest_attempt_that_gave_an_answer_counts_and_the_others_are_named(
    tmp_path: Path,
) -> None:
    merged = _merged(
        tmp_path,
        ("a", case_record(status="FAIL", minute=1)),
        ("b", case_record(status="PASS", minute=2)),
        ("c", case_record(failure=FAILURE, minute=3)),
        ("d", case_record(failure=INTERRUPTED, minute=4)),
    )
    (row,) = merged.rows
    assert (row.status, row.results[0].run, len(row.notes)) == (Status.PASS, "b", 3)
    assert "run a does not count (FAIL)" in row.notes[0]


def test_a_case_that_was_reused_is_no_second_attempt(tmp_path: Path) -> None:
    merged = _merged(
        tmp_path, ("a", case_record(minute=1)), ("b", case_record(minute=1, reused_from="a"))
    )
    assert [row.notes for row in merged.rows] == [()]


def test_a_run_that_was_killed_is_undecided_until_a_later_one_ends(tmp_path: Path) -> None:
    write(tmp_path / "a", case_record(minute=1))
    merged = merge(load_results([tmp_path]), _matrix(CASE))
    assert [(row.name, row.status) for row in merged.rows] == [
        (CASE, Status.PASS),
        ("run a", Status.INCONCLUSIVE),
    ]
    assert merged.exit_code == 10, "its own tests may have failed, and nothing says so"
    assert "did not come to its end" in "\n".join(merged.lines())
    other = _merged(tmp_path, ("b", case_record(conc=8, minute=2)), matrix=_matrix(CASE))
    assert other.exit_code == 10, "another run that had something else to do"
    again = _merged(tmp_path, ("c", case_record(minute=3)), matrix=_matrix(CASE))
    assert again.exit_code == 0
    assert "run a did not come to its end and was begun anew: run c counts" in again.jobs


def test_a_run_that_goes_on_does_not_call_itself_unfinished(tmp_path: Path) -> None:
    write(tmp_path / "a", case_record(minute=1))
    assert merge(load_results([tmp_path])).exit_code == 0


def test_an_interrupted_case_is_undecided_not_failed(tmp_path: Path) -> None:
    merged = _merged(tmp_path, ("a", case_record(failure=INTERRUPTED)))
    assert merged.exit_code == 10
    assert "interrupted" in merged.rows[0].reason


def test_a_server_that_did_not_start_fails_its_cases(tmp_path: Path) -> None:
    merged = _merged(tmp_path, ("a", init_record(failure=ENGINE_DIED)), matrix=_matrix(CASE))
    assert merged.exit_code == 1
    assert merged.rows[0].reason == "the server did not start: the engine died [engine-died]"


def test_every_planned_launch_must_report(tmp_path: Path) -> None:
    merged = _merged(tmp_path, ("a", case_record()), matrix=_matrix(CASE, launches=3))
    assert merged.rows[0].reason == "1 of 3 launches have reported"
    more = [("a", case_record(index=index, minute=index)) for index in (2, 3)]
    assert _merged(tmp_path, *more, matrix=_matrix(CASE, launches=3)).exit_code == 0


def test_ratios_are_judged_over_cases_of_different_runs(tmp_path: Path) -> None:
    point = {
        "name": "speedup",
        "point": "1k1k",
        "metric": "output_tput",
        "of": CASE,
        "over": OTHER,
        "at_least": 1.5,
        "at_most": None,
    }
    records = [
        ("a", case_record(metrics={"output_tput": 200.0})),
        ("b", case_record(conc=8, metrics={"output_tput": 150.0})),
    ]
    merged = _merged(tmp_path, *records, matrix=_matrix(CASE, OTHER, ratios=[point]))
    assert merged.rows[-1].name == "ratio speedup:1k1k"
    assert (merged.rows[-1].status, merged.exit_code) == (Status.FAIL, 1)
    assert "1.333 times" in merged.rows[-1].reason
    (tmp_path / "b" / SERVER / "1k1k-c8" / "launch-1.json").unlink()
    merged = _merged(tmp_path, matrix=_matrix(CASE, OTHER, ratios=[point]))
    assert (merged.rows[-1].status, merged.exit_code) == (Status.INCONCLUSIVE, 10)


def test_versions_that_disagree_are_named(tmp_path: Path) -> None:
    merged = _merged(
        tmp_path, ("a", case_record()), ("b", case_record(conc=8, engine={"version": "0.27.0"}))
    )
    assert merged.disagreements == ("engine on h100: 0.26.0 (1 results), 0.27.0 (1 results)",)


def test_what_no_job_was_to_run_is_said(tmp_path: Path) -> None:
    left_out = [{"what": "x", "reason": "not runnable: AMD"}]
    assert (
        "in no job: x: not runnable: AMD"
        in _merged(tmp_path, matrix=_matrix(CASE, left_out=left_out)).lines()
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"kind": "plan", "include": []}',
        '{"kind": "matrix", "include": [7]}',
        '{"kind": "matrix"}',
    ],
)
def test_a_file_that_is_no_matrix_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "m.json"
    path.write_text(text)
    with pytest.raises(GpubenchError, match=r"--matrix .*m\.json"):
        read_matrix(path)
    with pytest.raises(GpubenchError, match="cannot be read: No such"):
        read_matrix(tmp_path / "gone.json")


def test_a_matrix_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text(json.dumps(_matrix(CASE)))
    assert read_matrix(path)["include"][0]["cases"] == [CASE]


def test_engine_b_that_does_not_start_is_not_taken_for_the_recipes_own(tmp_path: Path) -> None:
    second = init_record(failure=ENGINE_DIED)
    second["launch"] = second["launch"] | {"arm": "b"}
    merged = _merged(
        tmp_path, ("a", init_record() | {"launch": second["launch"] | {"arm": "a"}}), ("a", second)
    )
    statuses = {row.name: row.status for row in merged.rows}
    assert statuses[f"{SERVER}:init"] is not Status.FAIL
    assert statuses[f"{SERVER}:init [b]"] is Status.FAIL
