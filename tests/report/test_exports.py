"""Exports: the fields that other tools read, and what is not exported, with the reason."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest

from pytest_gpubench.load.protocol import RequestRecord
from pytest_gpubench.report.exports_csv import csv_text
from pytest_gpubench.report.exports_json import (
    NotExportedError,
    export_agg,
    export_vllm,
    measured_requests,
)
from pytest_gpubench.report.read_results import load_results
from tests.report.synthetic import write_results

# As vllm 0.32's benchmarks/serve.py writes them without --save-detailed, for a run with a draft,
# and its sweep the sizes.
VLLM_FIELDS = [
    "date",
    "endpoint_type",
    "backend",
    "label",
    "model_id",
    "tokenizer_id",
    "num_prompts",
    "request_rate",
    "burstiness",
    "max_concurrency",
    "duration",
    "completed",
    "failed",
    "total_input_tokens",
    "total_output_tokens",
    "request_throughput",
    "request_goodput",
    "output_throughput",
    "total_token_throughput",
    "latencies",
    "queue_times",
    "max_output_tokens_per_s",
    "max_concurrent_requests",
    "rtfx",
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "data_parallel_size",
    "spec_decode_acceptance_rate",
    "spec_decode_acceptance_length",
    "spec_decode_num_drafts",
    "spec_decode_draft_tokens",
    "spec_decode_accepted_tokens",
    "spec_decode_per_position_acceptance_rates",
]
AGG_FIELDS = [
    "hw",
    "conc",
    "image",
    "model",
    "infmax_model_prefix",
    "framework",
    "precision",
    "spec_decoding",
    "disagg",
    "recipe_fingerprint",
    "isl",
    "osl",
    "is_multinode",
    "tp",
    "pp",
    "dcp_size",
    "pcp_size",
    "ep",
    "dp_attention",
    "tput_per_gpu",
    "output_tput_per_gpu",
    "input_tput_per_gpu",
]


def _statistics(percentiles: tuple[str, ...], suffix: str) -> list[str]:
    kinds = ("mean", "median", "std", *percentiles)
    return [f"{kind}_{name}{suffix}" for name in ("ttft", "tpot", "itl", "e2el") for kind in kinds]


def _requests(tokens: int = 5, gap_ns: int = 10_000_000) -> list[RequestRecord]:
    found = []
    for index in range(4):
        due = index * 50_000_000
        stamps = tuple(due + 100_000_000 + step * gap_ns for step in range(tokens))
        found.append(
            RequestRecord(
                index,
                "measured",
                f"r{index}",
                10,
                tokens,
                due,
                due + 1000,
                stamps[0],
                stamps[-1],
                stamps[-1],
                stamps,
                tuple(range(1, tokens + 1)),
                10,
                tokens,
                "length",
                200,
            )
        )
    return found


def _results(folder: Path, requests: list[RequestRecord], **change: Any) -> Path:
    """One case with a draft (the synthetic case 36 and later have one) and its requests."""
    write_results(folder, 37)
    path = sorted(
        path
        for path in folder.rglob("launch-1.json")
        if path.parent.name != "init" and "mtp" in str(path)
    )[0]
    record = json.loads(path.read_text())
    record["workload"] |= change.pop("workload", {})
    path.write_text(json.dumps(record | change))
    with gzip.open(path.with_name("launch-1.requests.jsonl.gz"), "wt") as file:
        file.writelines(json.dumps(request.to_json()) + "\n" for request in requests)
    return path


def test_vllm_json_has_its_fields_in_its_order(tmp_path: Path) -> None:
    _results(tmp_path / "r", _requests())
    done = export_vllm(load_results([tmp_path / "r"]).cases(), tmp_path / "out")
    (path,) = done.written
    document = json.loads(path.read_text())
    assert list(document) == [*VLLM_FIELDS, *_statistics(("p50", "p90", "p95", "p99"), "_ms")]
    assert document["model_id"] == "MiniMaxAI/MiniMax-M3-MXFP8"
    assert document["completed"] == document["num_prompts"] == 4
    sizes = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")
    assert [document[size] for size in sizes] == [8, 1, 1]
    assert document["p50_tpot_ms"] == document["median_tpot_ms"]
    assert document["duration"] == pytest.approx(0.29)
    assert document["output_throughput"] == pytest.approx(20 / 0.29)
    assert document["total_token_throughput"] == pytest.approx(60 / 0.29)
    assert document["median_ttft_ms"] == pytest.approx(100)
    assert document["mean_tpot_ms"] == document["p99_itl_ms"] == pytest.approx(10)
    assert document["std_tpot_ms"] == pytest.approx(0)
    assert document["max_output_tokens_per_s"] == 20
    assert document["max_concurrent_requests"] == 4
    assert document["spec_decode_acceptance_length"] == pytest.approx(2.86)
    assert document["spec_decode_acceptance_rate"] == pytest.approx(62.0)


def test_what_has_no_requests_is_left_out_with_the_reason(tmp_path: Path) -> None:
    path = _results(tmp_path / "r", _requests())
    path.with_name("launch-1.requests.jsonl.gz").write_bytes(b"not gzip")
    done = export_vllm(load_results([tmp_path / "r"]).cases(), tmp_path / "out")
    assert not done.written
    assert len(done.left_out) == 37
    reasons = {str(one).partition(": ")[2] for one in done.left_out}
    assert "its requests cannot be read (launch-1.requests.jsonl.gz): BadGzipFile" in reasons
    assert any(reason.startswith("its requests are not there") for reason in reasons)


def test_what_was_broken_off_in_a_later_round_is_left_out(tmp_path: Path) -> None:
    path = _results(tmp_path / "r", _requests())
    record = json.loads(path.read_text()) | {"measurement": None, "metrics": None}
    failure = {"cause": "interrupted", "failure_class": "client", "summary": "stopped"}
    path.write_text(json.dumps(record | {"failure": failure}))
    broken = [one for one in load_results([tmp_path / "r"]).cases() if one.path == path]
    done = export_vllm(broken, tmp_path / "out")
    assert not done.written
    assert [one.reason for one in done.left_out] == ["it was not measured whole"]


def test_agg_has_the_times_of_all_rounds(tmp_path: Path) -> None:
    path = _results(tmp_path / "r", _requests(), workload={"profile": "inferencex"})
    measurement = json.loads(path.read_text())["measurement"]
    record = json.loads(path.read_text())
    record["measurement"] = measurement | {"rounds": [measurement["metrics"]] * 2}
    path.write_text(json.dumps(record))
    packed = path.with_name("launch-1.round-2.requests.jsonl.gz")
    with gzip.open(packed, "wt") as lines:
        lines.writelines(json.dumps(one.to_json()) + "\n" for one in _requests(gap_ns=30_000_000))
    (written,) = export_agg(load_results([tmp_path / "r"]).cases(), tmp_path / "out").written
    assert json.loads(written.read_text())["mean_tpot"] == pytest.approx(0.020)


def test_vllm_json_has_the_goodput_of_the_round_that_it_has_the_requests_of(
    tmp_path: Path,
) -> None:
    path = _results(tmp_path / "r", _requests())
    record = json.loads(path.read_text())
    record["metrics"]["goodput"] = 20.0
    record["measurement"]["rounds"] = [{"goodput": 10.0}, {"goodput": 40.0}]
    path.write_text(json.dumps(record))
    (written,) = export_vllm(load_results([tmp_path / "r"]).cases(), tmp_path / "out").written
    assert json.loads(written.read_text())["request_goodput"] == 10.0


def test_agg_is_only_for_the_inferencex_profile(tmp_path: Path) -> None:
    _results(tmp_path / "r", _requests())
    done = export_agg(load_results([tmp_path / "r"]).cases(), tmp_path / "out")
    assert not done.written
    assert all("client profile gpubench" in one.reason for one in done.left_out)


def test_agg_has_the_fields_of_process_result_without_its_defects(tmp_path: Path) -> None:
    _results(tmp_path / "r", _requests(), workload={"profile": "inferencex"}, server_per="point")
    (path,) = export_agg(load_results([tmp_path / "r"]).cases(), tmp_path / "out").written
    document = json.loads(path.read_text())
    rates = [f"{kind}_intvty" for kind in ("mean", "median", "p90", "p99", "p99.9")]
    assert path.name.startswith("agg_minimaxm3-fp8-")
    assert set(document) == {*AGG_FIELDS, *_statistics(("p90", "p99", "p99.9"), ""), *rates}
    assert document["spec_decoding"] == "mtp"
    assert document["dp_attention"] in ("true", "false")
    assert document["tp"] == 8
    assert document["median_ttft"] == pytest.approx(0.1)
    assert document["p90_intvty"] == pytest.approx(100)
    assert document["tput_per_gpu"] == pytest.approx(
        document["output_tput_per_gpu"] + document["input_tput_per_gpu"]
    )


def test_agg_marks_a_shared_server_and_survives_a_zero(tmp_path: Path) -> None:
    _results(tmp_path / "r", _requests(gap_ns=0), workload={"profile": "inferencex"})
    (path,) = export_agg(load_results([tmp_path / "r"]).cases(), tmp_path / "out").written
    document = json.loads(path.read_text())
    assert document["shared_server"] is True
    assert document["mean_tpot"] == 0
    assert not [key for key in document if key.endswith("intvty")]


def _again(path: Path, run: str, launch: int = 1, **change: Any) -> Path:
    """The record and requests of a case once more, in another run or of another launch."""
    top = path.parents[3]
    copy = (
        top
        / run
        / path.relative_to(top).relative_to(path.parents[2].name).with_name(f"launch-{launch}.json")
    )
    copy.parent.mkdir(parents=True, exist_ok=True)
    record = json.loads(path.read_text())
    launched = record["launch"] | {"index": launch}
    copy.write_text(json.dumps(record | {"launch": launched} | change))
    requests = path.with_name("launch-1.requests.jsonl.gz").read_bytes()
    copy.with_name(f"launch-{launch}.requests.jsonl.gz").write_bytes(requests)
    return copy


def test_merged_runs_of_one_case_make_one_file_and_the_newest_attempt_counts(
    tmp_path: Path,
) -> None:
    path = _results(tmp_path / "r", _requests(), workload={"profile": "inferencex"})
    _again(path, "later", finished="2030-01-01T00:00:00+00:00", hardware="h200", runner="h200-dgxc")
    done = export_agg(load_results([tmp_path / "r"]).cases(), tmp_path / "out")
    assert (
        len(done.written) == len(set(done.written)) == len(list((tmp_path / "out").iterdir())) == 1
    )
    assert json.loads(done.written[0].read_text())["hw"] == "h200-dgxc", (
        "the label of the runner, where one was given"
    )
    assert done.passed_over == 1


@pytest.mark.parametrize("export", [export_agg, export_vllm])
def test_every_launch_and_attempt_has_a_file_of_its_own_when_asked_for(
    tmp_path: Path, export: Any
) -> None:
    path = _results(tmp_path / "r", _requests(), workload={"profile": "inferencex"})
    for launch in (1, 2):
        _again(path, "later", launch)
        _again(path, "LATER", launch)
    done = export(load_results([tmp_path / "r"]).cases(), tmp_path / "out", every_launch=True)
    names = {one.name.lower() for one in (tmp_path / "out").iterdir()}
    assert len(done.written) == len(names) == 5
    assert done.passed_over == 0


def test_of_several_launches_the_median_speaks(tmp_path: Path) -> None:
    path = _results(tmp_path / "r", _requests(), workload={"profile": "inferencex"})
    run = path.parents[2].name
    metrics = json.loads(path.read_text())["metrics"]
    for launch, factor in ((2, 5.0), (3, 2.0)):
        faster = {name: value * factor for name, value in metrics.items()}
        measurement = json.loads(path.read_text())["measurement"] | {"metrics": faster}
        _again(path, run, launch, metrics=faster, measurement=measurement)
    (written,) = export_agg(load_results([tmp_path / "r"]).cases(), tmp_path / "out").written
    assert json.loads(written.read_text())["tput_per_gpu"] == pytest.approx(
        2.0 * metrics["total_tput_per_gpu"]
    )


def test_watts_are_per_gpu_and_joules_of_the_deployment(tmp_path: Path) -> None:
    path = _results(tmp_path / "r", _requests(), workload={"profile": "inferencex"})
    record = json.loads(path.read_text())
    energy = {"gpu_power": 4000.0, "energy_per_output_token": 2.0}
    record["metrics"] |= energy
    record["measurement"]["metrics"] = record["metrics"]
    path.write_text(json.dumps(record))
    (written,) = export_agg(load_results([tmp_path / "r"]).cases(), tmp_path / "out").written
    document = json.loads(written.read_text())
    assert document["power_metric_schema_version"] == 2
    assert (document["avg_power_w"], document["avg_total_gpu_power_w"]) == (500.0, 4000.0)
    assert document["total_gpu_energy_j"] == pytest.approx(2.0 * 20)
    assert document["joules_per_successful_query"] == pytest.approx(10)
    assert document["joules_per_total_token"] == pytest.approx(40 / 60)
    assert document["joules_per_input_token"] == pytest.approx(1)


def test_csv_comes_back_as_it_went(tmp_path: Path) -> None:
    write_results(tmp_path, 20)
    results = list(load_results([tmp_path]).cases())
    rows = list(csv.DictReader(io.StringIO(csv_text(results))))
    assert len(rows) == 20
    for row, result in zip(rows, results, strict=True):
        assert row["case"] == result.case
        assert row["status"] == result.status.value
        assert int(row["conc"]) == result.workload["conc"]
        assert {name: float(row[name]) for name in result.metrics} == dict(result.metrics)


def test_csv_is_empty_where_a_replay_has_no_length_and_a_closed_loop_no_rate(
    tmp_path: Path,
) -> None:
    write_results(tmp_path, 1)
    (path,) = (path for path in tmp_path.rglob("launch-1.json") if path.parent.name != "init")
    record = json.loads(path.read_text())
    names = ("isl", "osl", "conc", "request_rate")
    for workload, wanted in (
        ({"isl": 0, "osl": 0, "dataset": "sessions", "request_rate": 0.0}, ["", "", "4", ""]),
        ({"isl": 32, "osl": 8, "dataset": "random", "request_rate": 2.5}, ["32", "8", "4", "2.5"]),
    ):
        record["workload"] |= workload | {"conc": 4}
        path.write_text(json.dumps(record))
        (row,) = csv.DictReader(io.StringIO(csv_text(load_results([tmp_path]).cases())))
        assert [row[name] for name in names] == wanted


def test_csv_holds_no_formula(tmp_path: Path) -> None:
    write_results(tmp_path, 1)
    path = next(path for path in tmp_path.rglob("launch-1.json") if path.parent.name != "init")
    failure = {
        "cause": "c",
        "failure_class": "engine",
        "summary": "=cmd|' /C calc'!A0\nsecond",
        "evidence": [],
        "remedy": "",
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | {"failure": failure}))
    (row,) = csv.DictReader(io.StringIO(csv_text(load_results([tmp_path]).cases())))
    assert row["reason"] == "'=cmd|' /C calc'!A0 second"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"a": "' + b"x" * 200_000 + b'"}', "line 1 is too long"),
        (b"[" * 90_000, "cannot be read"),
        (b'{"index": ' + b"9" * 5000 + b"}", "cannot be read"),
        (b"\xff", "cannot be read"),
    ],
)
def test_a_file_of_requests_is_read_within_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: bytes, words: str
) -> None:
    monkeypatch.setattr("pytest_gpubench.report.exports_json.MAX_LINE", 100_000)
    path = _results(tmp_path / "r", _requests())
    with gzip.open(path.with_name("launch-1.requests.jsonl.gz"), "wb") as file:
        file.write(line + b"\n")
    result = next(
        one for run in load_results([tmp_path / "r"]).runs for one in run.cases if one.path == path
    )
    with pytest.raises(NotExportedError, match=words):
        measured_requests(result)


@pytest.mark.parametrize(
    "value", [1e999, "1", True, 10**400, -(10**30), [1], 1.5], ids=lambda value: str(value)[:6]
)
@pytest.mark.parametrize("name", ["due_ns", "first_token_ns", "completion_tokens"])
def test_a_stamp_or_count_that_is_none_leaves_the_file_out(
    tmp_path: Path, name: str, value: object
) -> None:
    path = _results(tmp_path / "r", _requests())
    rows = [request.to_json() | {name: value} for request in _requests()]
    with gzip.open(path.with_name("launch-1.requests.jsonl.gz"), "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    result = next(
        one for run in load_results([tmp_path / "r"]).runs for one in run.cases if one.path == path
    )
    with pytest.raises(NotExportedError, match="cannot be read"):
        measured_requests(result)
