from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_gpubench.host.hub.local import (
    Incomplete,
    Snapshot,
    default_cache_dir,
    find_snapshot,
    is_local_path,
    is_offline,
)
from tests.host.fake_hub import model_files, shard

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(name="snapshot")
def _snapshot(tmp_path: Path) -> Path:
    repository = tmp_path / "models--org--model"
    folder = repository / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for name, content in model_files().items():
        blob = repository / "blobs" / f"blob-{name}"
        blob.write_bytes(content)
        (folder / name).symlink_to(f"../../blobs/{blob.name}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return folder


def _reason(cache: Path, revision: str | None = None, *, tokenizer: bool = True) -> str:
    found = find_snapshot("org/model", revision, cache, tokenizer=tokenizer)
    assert isinstance(found, Incomplete), found
    return found.reason


def test_a_complete_snapshot_is_found_by_branch_and_by_commit(
    tmp_path: Path, snapshot: Path
) -> None:
    expected = Snapshot("org/model", snapshot, COMMIT)
    assert find_snapshot("org/model", None, tmp_path, tokenizer=True) == expected
    assert find_snapshot("org/model", "main", tmp_path) == expected
    assert find_snapshot("org/model", COMMIT, tmp_path) == expected


@pytest.mark.parametrize(
    "files",
    [
        {"params.json": b"{}", "consolidated.safetensors": shard("w", 8), "tekken.json": b"{}"},
        {"model-Q4_K_M.gguf": b"GGUF" + b"x" * 100},
    ],
    ids=["mistral", "gguf"],
)
def test_formats_that_describe_themselves(tmp_path: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert isinstance(find_snapshot(str(tmp_path), None, tmp_path / "cache"), Snapshot)
    next(tmp_path.glob("[mc]*")).unlink()
    found = find_snapshot(str(tmp_path), None, tmp_path / "cache")
    assert isinstance(found, Incomplete)
    assert "config.json is missing" in found.reason


def test_finding_changes_nothing(tmp_path: Path, snapshot: Path) -> None:
    before = {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}
    find_snapshot("org/model", None, tmp_path, tokenizer=True)
    assert {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")} == before


SECOND = "model-00002-of-00002.safetensors"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / SECOND).unlink(), f"{SECOND} is missing"),
        (
            lambda folder: (folder / SECOND).resolve().unlink(),
            f"{SECOND} is a link to a file that is gone",
        ),
        (
            lambda folder: (folder / SECOND).resolve().write_bytes(shard("w2", 4000)[:-1]),
            f"{SECOND} holds 4074 bytes of 4075",
        ),
        (lambda folder: (folder / SECOND).resolve().write_bytes(b""), f"{SECOND} is empty"),
        (
            lambda folder: (folder / SECOND).resolve().write_bytes(b"\x20\0\0\0\0\0\0\0{"),
            f"{SECOND} has no readable",
        ),
        (
            lambda folder: (folder / SECOND).resolve().write_bytes(b"<html>404 not found</html>"),
            f"{SECOND} is not a safetensors file",
        ),
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
        (
            lambda folder: (folder / "config.json").resolve().write_bytes(b'{"a"'),
            "config.json is not JSON",
        ),
        (lambda folder: (folder / "tokenizer.json").unlink(), "it holds no tokenizer"),
        (
            lambda folder: (folder / "model.safetensors.index.json").resolve().write_bytes(b"{}"),
            "names no weights",
        ),
        (
            lambda folder: (folder.parents[1] / "refs" / "main").unlink(),
            "does not hold its revision main",
        ),
        (
            lambda folder: (folder.parents[1] / "refs" / "main").write_text("0123"),
            "does not hold its revision main",
        ),
        (lambda folder: folder.rename(folder.with_name("other")), "holds no file of it"),
        (
            lambda folder: folder.parents[1].rename(folder.parents[2] / "other"),
            "it is not in the cache",
        ),
    ],
)
def test_what_is_wrong_is_named(
    tmp_path: Path, snapshot: Path, damage: Callable[[Path], object], words: str
) -> None:
    assert isinstance(find_snapshot("org/model", None, tmp_path, tokenizer=True), Snapshot)
    damage(snapshot)
    assert words in _reason(tmp_path)


def test_without_an_index_the_weights_are_what_is_there(tmp_path: Path, snapshot: Path) -> None:
    for path in snapshot.glob("model*"):
        path.unlink()
    assert "no weights" in _reason(tmp_path)
    (snapshot / "pytorch_model.bin").write_bytes(b"weights")
    assert isinstance(find_snapshot("org/model", None, tmp_path), Snapshot)
    (snapshot / "model.safetensors").write_bytes(shard("w", 10)[:-1])
    assert "model.safetensors holds" in _reason(tmp_path)


def test_a_draft_needs_no_tokenizer(tmp_path: Path, snapshot: Path) -> None:
    (snapshot / "tokenizer.json").unlink()
    assert isinstance(find_snapshot("org/model", None, tmp_path), Snapshot)


def test_other_revisions_are_not_taken_for_the_one_asked(tmp_path: Path, snapshot: Path) -> None:
    assert "revision v2" in _reason(tmp_path, "v2")
    assert "0000000000" in _reason(tmp_path, "0" * 40)
    assert "revision ../refs/main" in _reason(tmp_path, "../refs/main")


def test_a_folder_is_a_model_too(tmp_path: Path, snapshot: Path) -> None:
    assert find_snapshot(str(snapshot), None, tmp_path / "unused", tokenizer=True) == Snapshot(
        str(snapshot), snapshot
    )
    (snapshot / "config.json").unlink()
    assert find_snapshot(str(snapshot), None, tmp_path) == Incomplete(
        str(snapshot), "config.json is missing", True
    )
    missing = find_snapshot(str(tmp_path / "nowhere"), None, tmp_path)
    assert isinstance(missing, Incomplete)
    assert "there is no folder" in missing.reason


@pytest.mark.parametrize(
    ("model", "local"),
    [("org/name", False), ("/models/x", True), ("./x", True), ("~/x", True), ("gpt2", False)],
)
def test_paths_and_repositories_are_told_apart(model: str, local: bool) -> None:
    assert is_local_path(model) is local


def test_environment_follows_the_hub() -> None:
    assert default_cache_dir({"HF_HUB_CACHE": "/c", "HF_HOME": "/h"}) == Path("/c")
    assert default_cache_dir({"HF_HOME": "/h"}) == Path("/h/hub")
    assert default_cache_dir({"XDG_CACHE_HOME": "/x"}) == Path("/x/huggingface/hub")
    assert default_cache_dir({}) == Path.home() / ".cache/huggingface/hub"
    assert is_offline({"HF_HUB_OFFLINE": "1"})
    assert is_offline({"TRANSFORMERS_OFFLINE": "yes"})
    assert not is_offline({"HF_HUB_OFFLINE": "0"})
    assert not is_offline({})


@example(b"{}")
@example(b'{"__metadata__": {}}')
@given(
    st.binary(max_size=200)
    | st.builds(
        lambda value: json.dumps(value).encode(), st.recursive(st.integers() | st.text(), st.lists)
    )
)
def test_any_bytes_for_a_weight_file_end_in_an_answer(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(len(content).to_bytes(8, "little") + content)
        found = find_snapshot(name, None, folder)
        assert isinstance(found, Incomplete)
        assert "model.safetensors" in found.reason


def test_a_cache_that_may_not_be_entered_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.stat

    def refuse(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if path.is_relative_to(tmp_path):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "stat", refuse)
    found = find_snapshot("org/model", None, tmp_path)
    assert isinstance(found, Incomplete)
    assert found.reason == f"the cache {tmp_path} cannot be read: Permission denied"


def test_a_folder_needs_no_weights_where_none_are_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text("{}")
    assert isinstance(find_snapshot(str(tmp_path), None, tmp_path, tokenizer=True), Incomplete)
    assert isinstance(
        find_snapshot(str(tmp_path), None, tmp_path, tokenizer=True, weights=False), Snapshot
    )
