from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import huggingface_hub
import pytest

from pytest_gpubench.demo.models import (
    DEMO_DRAFT,
    DEMO_REPOSITORIES,
    DEMO_TARGET,
    DEMO_TARGET_GGUF,
    write_demo_models,
)
from pytest_gpubench.demo.repository import Content, publish_repository
from pytest_gpubench.host.hub.local import Snapshot, find_snapshot, repository_folder
from pytest_gpubench.model.failures import GpubenchError

WRITE = """
import sys
from pathlib import Path
from pytest_gpubench.demo.models import write_demo_models
print(write_demo_models(Path(sys.argv[1])))
"""


def _complete(cache: Path, commits: dict[str, str]) -> None:
    for repo, commit in commits.items():
        found = find_snapshot(repo, None, cache, tokenizer=repo in (DEMO_TARGET, DEMO_TARGET_GGUF))
        assert isinstance(found, Snapshot), found
        assert found.commit == commit


def _other_version(folder: Path) -> None:
    (folder / "config.json").write_text("{}")


def _stray(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if not path.name.startswith("models--")]


def test_the_hub_client_accepts_the_cache_offline(tmp_path: Path) -> None:
    commits = write_demo_models(tmp_path)
    assert tuple(commits) == DEMO_REPOSITORIES
    for repo, commit in commits.items():
        path = Path(
            huggingface_hub.snapshot_download(repo, cache_dir=tmp_path, local_files_only=True)
        )
        assert path == tmp_path / f"models--{repo.replace('/', '--')}" / "snapshots" / commit
    scanned = huggingface_hub.scan_cache_dir(tmp_path)
    assert {repo.repo_id for repo in scanned.repos} == set(DEMO_REPOSITORIES)
    assert not scanned.warnings
    _complete(tmp_path, commits)
    assert not _stray(tmp_path)


@pytest.mark.skipif(
    not hasattr(huggingface_hub, "get_cached_repo_tree"),
    reason="huggingface_hub 1 keeps no listings",
)
def test_the_listing_names_every_file(tmp_path: Path) -> None:
    for repo, commit in write_demo_models(tmp_path).items():
        listed = {
            file.path: file.size
            for file in huggingface_hub.get_cached_repo_tree(repo, cache_dir=tmp_path)
        }
        snapshot = repository_folder(tmp_path, repo) / "snapshots" / commit
        assert listed == {file.name: file.stat().st_size for file in snapshot.iterdir()}


def test_what_was_written_once_is_not_written_again_to_look_at_it(tmp_path: Path) -> None:
    written: list[Path] = []

    def write(folder: Path) -> None:
        written.append(folder)
        (folder / "config.json").write_text("{}")

    known: dict[str, Content] = {}
    commit = publish_repository(tmp_path, "org/model", write, known)
    assert publish_repository(tmp_path, "org/model", write, known) == commit
    assert len(written) == 1
    path = repository_folder(tmp_path, "org/model") / "snapshots" / commit / "config.json"
    path.write_text("[]")
    assert publish_repository(tmp_path, "org/model", write, known) == commit
    assert path.read_text() == "{}"
    assert publish_repository(tmp_path / "other", "org/model", write, known) == commit
    assert len(written) == 3
    assert not _stray(tmp_path / "other")


def test_content_and_commit_are_the_same_everywhere(tmp_path: Path) -> None:
    first, second = write_demo_models(tmp_path / "a"), write_demo_models(tmp_path / "b")
    assert first == second


def test_what_is_intact_is_left_alone(tmp_path: Path) -> None:
    commits = write_demo_models(tmp_path)
    before = {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert write_demo_models(tmp_path) == commits
    assert {
        path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*") if path != tmp_path
    } == before


@pytest.mark.parametrize("damage", ["truncate", "flip", "unlink", "ref", "dangling", "old"])
def test_damage_is_repaired(tmp_path: Path, damage: str) -> None:
    commits = write_demo_models(tmp_path)
    repository = repository_folder(tmp_path, DEMO_DRAFT)
    weights = repository / "snapshots" / commits[DEMO_DRAFT] / "model.safetensors"
    content = weights.read_bytes()
    if damage == "truncate":
        weights.resolve().write_bytes(content[:1000])
    elif damage == "flip":
        weights.resolve().write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "unlink":
        weights.unlink()
    elif damage == "dangling":
        weights.resolve().unlink()
    elif damage == "ref":
        (repository / "refs" / "main").unlink()
    elif damage == "old":
        publish_repository(tmp_path, DEMO_DRAFT, _other_version)
    assert write_demo_models(tmp_path) == commits
    assert weights.read_bytes() == content
    _complete(tmp_path, commits)
    assert not _stray(tmp_path)


def test_several_processes_at_once(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITE, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(6)
    ]
    outputs = {writer.communicate(timeout=600)[0] for writer in writers}
    assert [writer.returncode for writer in writers] == [0] * 6
    assert len(outputs) == 1
    _complete(tmp_path, write_demo_models(tmp_path))
    assert not _stray(tmp_path)


def test_a_killed_writer_leaves_no_half_repository(tmp_path: Path) -> None:
    """Killed at moments spread over its work, a writer leaves a repository that is whole or not
    there, and no obstacle."""
    for number in range(8):
        cache = tmp_path / str(number)
        cache.mkdir()
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITE, str(cache)], stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 120
        while not list(cache.iterdir()) and writer.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(number * 0.012)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        for repo in DEMO_REPOSITORIES:
            if repository_folder(cache, repo).exists():
                assert isinstance(find_snapshot(repo, None, cache), Snapshot)
        _complete(cache, write_demo_models(cache))


def test_leftovers_of_the_killed_go_after_a_while(tmp_path: Path) -> None:
    old, young = tmp_path / ".gpubench-staging-old", tmp_path / ".gpubench-staging-young"
    old.mkdir()
    young.mkdir()
    os.utime(old, (1.0, 1.0))
    write_demo_models(tmp_path)
    assert _stray(tmp_path) == [young]


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        GpubenchError,
        match=(
            r"cannot write pytest-gpubench/tiny-llama into the model cache "
            r".*--gpubench-cache-dir"
        ),
    ):
        write_demo_models(tmp_path / "file" / "cache")


def test_a_cache_that_cannot_be_written_is_fine_where_it_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tempfile.mkdtemp

    def read_only(*, prefix: str, dir: Path | None = None) -> str:
        if dir is not None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(prefix=prefix, dir=tmp_path / "tmp")

    (tmp_path / "tmp").mkdir()
    commits = write_demo_models(tmp_path / "cache")
    monkeypatch.setattr(tempfile, "mkdtemp", read_only)
    assert write_demo_models(tmp_path / "cache") == commits
    assert not list((tmp_path / "tmp").iterdir())
