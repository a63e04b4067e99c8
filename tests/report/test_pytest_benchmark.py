"""The pytest-benchmark JSON: read by pytest-benchmark itself, and by the rules of two services that
read it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.logger import Logger
from pytest_benchmark.storage.file import FileStorage

from pytest_gpubench.report.pytest_benchmark import pytest_benchmark_document
from pytest_gpubench.report.read_results import load_results, read_whole
from pytest_gpubench.report.records import write_record
from tests.report.result_files import FAILURE, case_record, init_record, write

CASE = "tiny-bf16-h100-vllm-tp1:1k1k-c4"
METRICS = {"output_tput": 100.0, "output_tput_per_gpu": 100.0, "ttft_p50": 0.1, "tpot_p50": 0.01}


def _slower(share: float) -> dict[str, float]:
    return {
        name: value / (1 + share) if "tput" in name else value * (1 + share)
        for name, value in METRICS.items()
    }


def _records(share: float = 0.0, **more: Any) -> list[dict[str, Any]]:
    return [
        case_record(index=index, metrics=_slower(share + 0.001 * index), **more)
        for index in (1, 2, 3)
    ]


def _write_run(folder: Path, records: list[dict[str, Any]]) -> None:
    for record in records:
        write(folder, record)


def _document(folder: Path, records: list[dict[str, Any]], name: str = "run") -> dict[str, Any]:
    _write_run(folder / name, records)
    (run,) = load_results([folder / name]).runs
    document = pytest_benchmark_document(run, read_whole, "demo")
    assert document is not None
    return document


def _by_name(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in document["benchmarks"]}


def test_one_entry_per_duration_and_one_sample_per_launch(tmp_path: Path) -> None:
    document = _document(tmp_path, [*_records(), init_record()])
    entries = _by_name(document)
    assert set(entries) == {
        f"seconds_per_output_token[{CASE}]",
        f"ttft_p50[{CASE}]",
        f"tpot_p50[{CASE}]",
        "engine_init[tiny-bf16-h100-vllm-tp1]",
    }
    tokens = entries[f"seconds_per_output_token[{CASE}]"]
    assert tokens["stats"]["rounds"] == 3
    assert tokens["stats"]["data"] == pytest.approx([0.01001, 0.01002, 0.01003])
    assert tokens["stats"]["ops"] == pytest.approx(1 / 0.01002), "its rate is tokens per second"
    assert [
        launch["launch"]["index"] for launch in tokens["extra_info"]["gpubench"]["launches"]
    ] == [1, 2, 3]
    assert tokens["extra_info"]["gpubench"]["launches"][0]["metrics"][
        "output_tput"
    ] == pytest.approx(100 / 1.001)
    assert document["machine_info"]["gpus"] == ["NVIDIA H100 80GB HBM3"]
    assert document["machine_info"]["hardware"] == ["h100"]
    assert document["commit_info"]["id"] == "c" * 40
    assert document["commit_info"]["project"] == "demo"


def test_what_does_not_count_is_left_out(tmp_path: Path) -> None:
    broken = case_record(index=2, failure=FAILURE)
    invalid = case_record(index=3, status="INVALID")
    failed = case_record(index=4, status="FAIL")
    entries = _by_name(_document(tmp_path, [case_record(), broken, invalid, failed]))
    assert entries[f"tpot_p50[{CASE}]"]["stats"]["rounds"] == 2, (
        "a slow launch counts, a broken or INVALID one does not"
    )


def test_a_run_without_a_number_has_no_document(tmp_path: Path) -> None:
    _write_run(tmp_path / "run", [case_record(status="INVALID")])
    (run,) = load_results([tmp_path]).runs
    assert pytest_benchmark_document(run, read_whole) is None


def test_the_engines_of_an_ab_run_have_entries_of_their_own(tmp_path: Path) -> None:
    records = []
    for arm in ("a", "b"):
        record = case_record(metrics=_slower(0.5 if arm == "b" else 0.0))
        record["launch"] |= {"arm": arm}
        records.append(record)
    entries = _by_name(_document(tmp_path, records))
    assert (
        entries[f"tpot_p50[{CASE}:b]"]["stats"]["mean"]
        > entries[f"tpot_p50[{CASE}:a]"]["stats"]["mean"]
    )


def test_pytest_benchmarks_storage_and_compare_read_it(tmp_path: Path) -> None:
    storage = FileStorage(tmp_path / ".benchmarks", Logger(0), default_machine_id="any")  # type: ignore[no-untyped-call]
    for name, share in (("before", 0.0), ("after", 0.2)):
        storage.save(_document(tmp_path, _records(share), name), name)  # type: ignore[no-untyped-call]
    loaded: dict[str, Any] = {path.stem: data for path, data in storage.load()}  # type: ignore[no-untyped-call]
    assert list(loaded) == ["0001_before", "0002_after"]
    command = [
        sys.executable,
        "-m",
        "pytest_benchmark",
        "--storage",
        str(tmp_path / ".benchmarks"),
        "compare",
    ]
    shown = subprocess.run(
        [*command, "--group-by=name"], capture_output=True, text=True, check=False, timeout=600
    )
    assert shown.returncode == 0, shown.stderr
    rows = [line for line in shown.stdout.splitlines() if line.startswith(f"tpot_p50[{CASE}]")]
    assert [row.split()[1] for row in rows] == ["(0001_before)", "(0002_after)"], (
        "sorted by time: the slower run comes last"
    )
    assert "(1.20)" in rows[1]


def test_its_own_regression_check_fails_the_slower_run(tmp_path: Path) -> None:
    from pytest_benchmark.utils import parse_compare_fail

    before, after = (
        _by_name(_document(tmp_path, _records(share), name))
        for share, name in ((0.0, "one"), (0.2, "two"))
    )
    check: Any = parse_compare_fail("mean:5%")  # type: ignore[no-untyped-call]
    for name in before:
        assert check.fails(after[name]["stats"], before[name]["stats"]), f"{name} got worse"
        assert not check.fails(before[name]["stats"], after[name]["stats"]), f"{name} got better"


def _github_action_benchmark(document: Mapping[str, Any]) -> dict[str, float]:
    """benchmark-action/github-action-benchmark, src/extract.ts (tool ``pytest``): the value of
    ``fullname`` is ``stats.ops``."""
    return {entry["fullname"]: entry["stats"]["ops"] for entry in document["benchmarks"]}


def _bencher(document: Mapping[str, Any]) -> dict[str, tuple[float, float, float]]:
    """bencherdev/bencher, adapters/python/pytest.rs: median and median -+ iqr, seconds as a latency
    in nanoseconds."""
    assert isinstance(document["machine_info"], dict)
    assert isinstance(document["commit_info"], dict)
    values = {
        entry["fullname"]: (entry["stats"]["median"] * 1e9, entry["stats"]["iqr"] * 1e9)
        for entry in document["benchmarks"]
    }
    return {
        name: (median, median - spread, median + spread)
        for name, (median, spread) in values.items()
    }


def test_the_services_that_read_it_see_a_slower_run_as_worse(tmp_path: Path) -> None:
    before, after = (
        _document(tmp_path, _records(share), name) for share, name in ((0.0, "one"), (1.5, "two"))
    )
    old, new = _github_action_benchmark(before), _github_action_benchmark(after)
    assert old.keys() == new.keys()
    # src/write/biggerIsBetter.ts: true for pytest; src/write/findAlerts.ts: alert where previous /
    # current is above the threshold.
    assert all(old[name] / new[name] > 2 for name in old)
    assert not any(new[name] / old[name] > 1 for name in old), "no alert on an improvement"
    slower, faster = _bencher(after), _bencher(before)
    assert all(slower[name][0] > faster[name][2] for name in faster), (
        "a latency above its upper boundary"
    )


def test_the_file_is_json_without_nan(tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    write_record(target, _document(tmp_path, [case_record()]))
    stats = json.loads(target.read_text())["benchmarks"][0]["stats"]
    assert stats["stddev"] == 0
    assert stats["rounds"] == 1
