"""Records: atomic, whole, JSON without NaN."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_gpubench.domain.failures import Failure, GpubenchError
from pytest_gpubench.domain.frozen import FrozenMap
from pytest_gpubench.domain.specs import Launch
from pytest_gpubench.report.records import RunFolder, plain, write_record


def test_record_is_written_whole_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.json"
    write_record(path, {"failure": Failure("x", "engine", "y"), "map": FrozenMap({"b": (1, 2)}), "path": tmp_path})
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
    with pytest.raises(GpubenchError, match=r"record .*file/x\.json could not be written: File exists"):
        write_record(tmp_path / "file" / "x.json", {})


def test_plain_keeps_the_fields_of_dataclasses() -> None:
    assert plain(Launch("key", 2)) == {"server": "key", "index": 2, "arm": "", "reserve": False}


def test_folder_names_follow_server_workload_and_launch(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "run")
    assert folder.init_record(Launch("srv")) == tmp_path / "run" / "srv" / "init" / "launch-1.json"
    assert folder.server_log(Launch("srv", 2, "b")) == tmp_path / "run" / "srv" / "init" / "b2.log"
