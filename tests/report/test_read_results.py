"""Result folders to typed runs, whatever they hold."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.model.verdicts import Status
from pytest_gpubench.report.read_results import MAX_TEXT, load_results, read_whole
from tests.report.result_files import FAILURE, case_record, init_record, write

SERVER = "tiny-bf16-h100-vllm-tp1"


def test_a_run_folder_is_read_with_what_ran(tmp_path: Path) -> None:
    write(tmp_path / "run", case_record())
    write(tmp_path / "run", init_record())
    loaded = load_results([tmp_path / "run"])
    assert loaded.left_out == ()
    (run,) = loaded.runs
    (case,), (init,) = run.cases, run.inits
    assert (run.name, case.run, case.case) == ("run", "run", f"{SERVER}:1k1k-c4")
    assert case.identity.label == "tiny-bf16-h100-vllm"
    assert (case.metrics["ttft_p50"], case.status, case.gpus) == (0.1, Status.PASS, 1)
    assert (case.versions.engine, case.versions.plugin, case.versions.driver) == (
        "0.26.0",
        "0.1.0",
        "570.1",
    )
    assert (case.device, case.hostname) == ("NVIDIA H100 80GB HBM3", "node1")
    assert case.measurement is not None
    assert case.measurement.totals.requests == 4
    assert (init.phases["ready"], init.argv) == (30.0, ("vllm", "serve"))


def test_parents_of_runs_at_any_depth_and_a_run_given_twice(tmp_path: Path) -> None:
    write(tmp_path / "job-1" / "run-a", case_record(minute=2))
    write(tmp_path / "job-2" / "run-b", case_record(minute=1))
    loaded = load_results([tmp_path, tmp_path / "job-1", tmp_path / "job-2" / "run-b"])
    assert [run.name for run in loaded.runs] == ["run-a", "run-b"]
    assert len(list(loaded.cases())) == 2


def test_records_come_in_the_order_in_which_they_ended(tmp_path: Path) -> None:
    for conc, minute in ((1, 5), (2, 3), (4, 4)):
        write(tmp_path / "run", case_record(conc=conc, minute=minute))
    (run,) = load_results([tmp_path]).runs
    assert [case.workload["conc"] for case in run.cases] == [2, 4, 1]


def test_a_failure_is_read_and_is_fail(tmp_path: Path) -> None:
    write(tmp_path / "run", case_record(failure=FAILURE))
    (case,) = load_results([tmp_path]).cases()
    assert case.failure is not None
    assert (case.failure.failure_class, case.status, dict(case.metrics)) == (
        "infrastructure",
        Status.FAIL,
        {},
    )


def test_a_folder_that_does_not_exist_is_an_error_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(GpubenchError, match=r"nowhere does not exist; give"):
        load_results([tmp_path / "nowhere"])


def test_an_empty_folder_has_no_runs(tmp_path: Path) -> None:
    assert load_results([tmp_path]).runs == ()


def _place(tmp_path: Path) -> Path:
    path = tmp_path / "run" / SERVER / "1k1k-c4" / "launch-1.json"
    path.parent.mkdir(parents=True)
    return path


@pytest.mark.parametrize("folder", ["launch-1.aiperf", "b1.round-2.aiperf", "launch-1.evaluation"])
def test_what_other_tools_wrote_beside_a_record_is_none_of_ours(
    tmp_path: Path, folder: str
) -> None:
    path = write(tmp_path / "run", case_record())
    aside = path.parent / folder / "profile_export_aiperf.json"
    aside.parent.mkdir()
    aside.write_text("{}")
    loaded = load_results([tmp_path])
    assert loaded.left_out == ()
    assert [case.case for run in loaded.runs for case in run.cases] == [f"{SERVER}:1k1k-c4"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b'{"schema": 1, "kind": "ca', "is cut off or no JSON"),
        (b"\xff\xfe{}", "is not UTF-8 text"),
        (b"[1, 2]", "is no record: a record is a JSON object"),
        (b'{"hw": "h100", "conc": 4}', "is no record of pytest-gpubench"),
        (b'{"kind": "case", "schema": 99}', "written by a newer pytest-gpubench (schema 99"),
        (b'{"kind": "case", "schema": 0}', "has schema 0, which no release"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' * 5_000 + b"1" + b"}" * 5_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 5_000 + b"}", "a number that is too long"),
    ],
)
def test_a_file_that_is_no_record_is_left_out_with_a_sentence(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    path = _place(tmp_path)
    path.write_bytes(content)
    loaded = load_results([tmp_path])
    assert loaded.runs == ()
    (left_out,) = loaded.left_out
    assert reason in str(left_out)
    assert str(left_out).startswith(f"{path}: ")
    assert read_whole(path) in (
        {},
        {"hw": "h100", "conc": 4},
        {"kind": "case", "schema": 99},
        {"kind": "case", "schema": 0},
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"case": 7}, "case"),
        ({"finished": "yesterday"}, "finished"),
        ({"finished": "2026-01-01T00:00:00"}, "finished"),
        ({"topology": {"tp": "many"}}, "topology.tp"),
        (
            {"failure": {"cause": "x", "failure_class": "weather", "summary": "y"}},
            "failure.failure_class",
        ),
        ({"verdict": {"status": "SPLENDID", "reason": ""}}, "verdict.status"),
        ({"recipe": "one-two"}, "is no name of a recipe"),
        ({"launch": {"server": SERVER, "arm": "../../x", "index": 1}}, "where it does not lie"),
        ({"server": "other"}, "where it does not lie"),
    ],
)
def test_a_record_with_a_broken_field_is_left_out_and_the_field_named(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    _place(tmp_path).write_text(json.dumps(case_record() | change))
    loaded = load_results([tmp_path])
    assert loaded.runs == ()
    assert reason in loaded.left_out[0].reason


def test_not_finite_numbers_are_left_out_by_name_and_the_rest_stays(tmp_path: Path) -> None:
    text = json.dumps(case_record(metrics={"output_tput": float("nan"), "ttft_p50": 0.1}))
    _place(tmp_path).write_text(
        text.replace('"hw": 1', "")
        .replace("0.1", "0.1")
        .replace('"num_warmups": 0', '"num_warmups": 1e999')
    )
    loaded = load_results([tmp_path])
    (case,) = loaded.cases()
    assert dict(case.metrics) == {"ttft_p50": 0.1}
    assert case.measurement is not None
    assert "output_tput" not in case.measurement.metrics
    (note,) = loaded.left_out
    assert "not finite" in note.reason
    assert "metrics.output_tput" in note.reason
    assert "workload.num_warmups" in note.reason


def test_long_texts_are_cut_and_named(tmp_path: Path) -> None:
    evidence = ["x" * 1_000_000]
    write(tmp_path / "run", case_record(failure=FAILURE | {"evidence": evidence}))
    loaded = load_results([tmp_path])
    (case,) = loaded.cases()
    assert case.failure is not None
    assert len(case.failure.evidence[0]) < MAX_TEXT + 100
    assert "more characters are left out" in case.failure.evidence[0]
    assert "failure.evidence" in loaded.left_out[0].reason


def test_links_and_pipes_are_not_followed(tmp_path: Path) -> None:
    real = write(tmp_path / "elsewhere", case_record())
    path = _place(tmp_path / "given")
    path.symlink_to(real)
    os.mkfifo(path.with_name("launch-2.json"))
    loaded = load_results([tmp_path / "given"])
    assert loaded.runs == ()
    assert len(loaded.left_out) == 2


def test_our_own_other_files_are_nothing_to_complain_of(tmp_path: Path) -> None:
    (tmp_path / "matrix.json").write_text('{"kind": "matrix", "schema": 1}')
    (tmp_path / ".launch-1.json.7.tmp").write_text("{")
    assert load_results([tmp_path]).left_out == ()


def test_the_whole_record_can_be_read_again(tmp_path: Path) -> None:
    path = write(tmp_path / "run", case_record(series=[1, 2]))
    assert read_whole(path)["series"] == [1, 2]
    assert read_whole(tmp_path / "gone.json") == {}


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.dictionaries(st.sampled_from(sorted(case_record())), _JSON, max_size=3))
def test_nothing_in_a_record_makes_loading_raise(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "run" / SERVER / "1k1k-c4" / "launch-1.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(case_record() | changes))
    loaded = load_results([tmp_path])
    assert len(list(loaded.cases())) + len(loaded.left_out) >= 1


@settings(
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.data())
def test_no_damage_to_the_bytes_makes_loading_raise(tmp_path: Path, data: st.DataObject) -> None:
    whole = json.dumps(case_record()).encode()
    cut = data.draw(st.integers(0, len(whole)))
    path = tmp_path / "run" / SERVER / "1k1k-c4" / "launch-1.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        whole[:cut] + data.draw(st.binary(max_size=8)) + whole[cut + data.draw(st.integers(0, 3)) :]
    )
    loaded = load_results([tmp_path])
    assert len(list(loaded.cases())) + len(loaded.left_out) >= 1
