"""Records: atomic, whole, JSON without NaN."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from pytest_gpubench.model.failures import Failure, GpubenchError
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.specs import Launch
from pytest_gpubench.report.records import RunFolder, as_utf8, plain, write_record, write_requests


def test_record_is_written_whole_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.json"
    write_record(
        path,
        {"failure": Failure("x", "engine", "y"), "map": FrozenMap({"b": (1, 2)}), "path": tmp_path},
    )
    write_record(path, {"value": 2})
    assert json.loads(path.read_text()) == {"value": 2}
    assert [entry.name for entry in path.parent.iterdir()] == ["b.json"]


def test_nan_is_refused_and_the_old_record_stays(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    write_record(path, {"value": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_record(path, {"value": float("nan")})
    assert json.loads(path.read_text()) == {"value": 1}


def test_a_disk_that_refuses_is_one_sentence_with_the_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        GpubenchError, match=r"record .*file/x\.json could not be written: File exists"
    ):
        write_record(tmp_path / "file" / "x.json", {})


def test_plain_keeps_the_fields_of_dataclasses() -> None:
    assert plain(Launch("key", 2)) == {"server": "key", "index": 2, "arm": "", "reserve": False}


def test_folder_names_follow_server_workload_and_launch(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "run")
    assert folder.init_record(Launch("srv")) == tmp_path / "run" / "srv" / "init" / "launch-1.json"
    assert folder.server_log(Launch("srv", 2, "b")) == tmp_path / "run" / "srv" / "init" / "b2.log"


def test_bytes_that_are_no_utf8_are_written_out(tmp_path: Path) -> None:
    odd = os.fsdecode(b"/opt/caf\xe9")
    record = {
        "env": FrozenMap({"PATH": odd}),
        odd: [odd, Path(odd)],
        "half": "a\ud800b",
        "failure": Failure("x", "engine", odd),
    }
    write_record(tmp_path / "a.json", record)
    found = json.loads((tmp_path / "a.json").read_bytes().decode("utf-8"))
    assert found["env"] == {"PATH": "/opt/caf\\xe9"}
    assert found["/opt/caf\\xe9"] == ["/opt/caf\\xe9"] * 2
    assert found["half"] == "a\\ud800b"
    assert found["failure"]["summary"] == "/opt/caf\\xe9"
    write_requests(tmp_path / "a.gz", [{"error": "fine: \N{SNOWMAN}"}, {"error": odd}])
    lines = gzip.decompress((tmp_path / "a.gz").read_bytes()).decode("utf-8").splitlines()
    assert [json.loads(line)["error"] for line in lines] == ["fine: \N{SNOWMAN}", "/opt/caf\\xe9"]


def test_text_that_is_utf8_stays_as_it_is() -> None:
    for text in ("", "plain", "\N{SNOWMAN}\U0001f600", "\\xe9"):
        assert as_utf8(text) is text
