"""Files are read ahead where there is room, and only while the block runs."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from pytest_gpubench.host.hub import local
from pytest_gpubench.host.hub.local import has_room, reading_ahead, weight_paths

MIB = 2**20


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(offset, length) of each request to the kernel."""
    found: list[tuple[int, int]] = []

    def note(_descriptor: int, offset: int, length: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_WILLNEED
        found.append((offset, length))

    monkeypatch.setattr(os, "posix_fadvise", note)
    return found


def wait() -> None:
    for thread in threading.enumerate():
        if thread.name == "gpubench-read-ahead":
            thread.join(60)


def test_the_whole_of_each_file_is_asked_for(tmp_path: Path, asked: list[tuple[int, int]]) -> None:
    paths = [tmp_path / "one", tmp_path / "two"]
    for path in paths:
        path.write_bytes(b"x" * (MIB + 1))
    with reading_ahead([tmp_path / "missing", tmp_path, *paths]):
        wait()
    assert sum(offset == 0 for offset, _ in asked) == 2
    assert sum(length for _, length in asked) >= 2 * (MIB + 1)


def test_nothing_is_read_where_memory_has_no_room(
    tmp_path: Path, asked: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one").write_bytes(b"x" * MIB)
    monkeypatch.setattr(local, "available_memory", lambda: MIB)
    with reading_ahead([tmp_path / "one"]):
        wait()
    assert not asked
    assert has_room(MIB, 2 * MIB)
    assert not has_room(0, 2 * MIB)
    assert not has_room(MIB + 1, 2 * MIB)


def test_it_ends_with_the_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one").write_bytes(b"x" * MIB)
    begun, gate, steps = threading.Event(), threading.Event(), []

    def slow(*_arguments: int) -> None:
        steps.append(1)
        begun.set()
        gate.wait(60)

    monkeypatch.setattr(os, "posix_fadvise", slow)
    monkeypatch.setattr(local, "_AHEAD_END_S", 0.0)  # as on a file system that hangs
    with reading_ahead([tmp_path / "one"]):
        begun.wait(60)
    gate.set()
    wait()
    assert steps == [1]


def test_an_index_can_name_nothing_outside_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "outside.safetensors").write_bytes(b"x")
    model = tmp_path / "model"
    model.mkdir()
    (model / "a.safetensors").write_bytes(b"x")
    names = {"one": "a.safetensors", "two": "../outside.safetensors", "three": "missing"}
    index = model / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    assert weight_paths(model) == (model / "a.safetensors",)
    index.write_text("[]")
    assert weight_paths(model) == ()
