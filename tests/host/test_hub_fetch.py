from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from pytest_gpubench.host.hub.download_failures import redact
from pytest_gpubench.host.hub.fetch import (
    FetchSettings,
    Progress,
    ensure_snapshot,
    fetch_configs,
)
from pytest_gpubench.host.hub.local import Snapshot, find_snapshot, repository_folder, weight_size
from pytest_gpubench.host.hub.repository_locks import repository_lock
from pytest_gpubench.model.failures import BenchmarkError, Failure
from tests.host.fake_hub import FakeHub, Fault, fake_hub, model_files

REPO = "org/model"
SECOND = "model-00002-of-00002.safetensors"


@pytest.fixture(name="hub")
def _hub() -> Iterator[FakeHub]:
    with fake_hub() as hub:
        yield hub


@pytest.fixture(autouse=True)
def _own_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings of the machine, no locks of other tests."""
    for name in (
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
        "HF_TOKEN",
        "HF_ENDPOINT",
        "HF_HUB_CACHE",
        "HF_HOME",
    ):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))


def _settings(hub: FakeHub, **changes: Any) -> FetchSettings:
    return replace(FetchSettings(endpoint=hub.endpoint, attempts=3, backoff=0.01), **changes)


def _failure(hub: FakeHub, cache: Path, revision: str | None = None, **changes: Any) -> Failure:
    with pytest.raises(BenchmarkError) as caught:
        ensure_snapshot(
            REPO,
            revision,
            cache_dir=cache,
            offline=False,
            tokenizer=True,
            settings=_settings(hub, **changes),
        )
    return caught.value.failure


def _fetch(hub: FakeHub, cache: Path, revision: str | None = None, **changes: Any) -> Snapshot:
    return ensure_snapshot(
        REPO,
        revision,
        cache_dir=cache,
        offline=False,
        tokenizer=True,
        settings=_settings(hub, **changes),
    )


def test_a_model_is_downloaded_once_and_then_used_offline(hub: FakeHub, tmp_path: Path) -> None:
    files = model_files()
    commit = hub.add(REPO, files)
    snapshot = _fetch(hub, tmp_path / "cache")
    assert snapshot.commit == commit
    assert {path.name: path.read_bytes() for path in snapshot.path.iterdir()} == files
    assert hub.downloads == {f"{REPO}/{name}": 1 for name in files}
    asked = len(hub.requests)
    assert _fetch(hub, tmp_path / "cache") == snapshot
    assert ensure_snapshot(REPO, cache_dir=tmp_path / "cache", offline=True) == snapshot
    assert len(hub.requests) == asked
    assert huggingface_hub.snapshot_download(
        REPO, cache_dir=tmp_path / "cache", local_files_only=True
    ) == str(snapshot.path)


def test_what_describes_a_model_comes_without_its_weights(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    files = model_files(50_000)
    commit = hub.add(REPO, files)
    found, size = fetch_configs(REPO, cache_dir=tmp_path / "cache", settings=_settings(hub))
    small = {name for name in files if not name.endswith(".safetensors")}
    assert (found, size) == (commit, sum(len(files[name]) for name in small))
    assert set(hub.downloads) == {f"{REPO}/{name}" for name in small}
    described = find_snapshot(REPO, None, tmp_path / "cache", weights=False)
    assert isinstance(described, Snapshot)
    assert weight_size(described.path) == 100_000, "as the index says"
    assert not isinstance(find_snapshot(REPO, None, tmp_path / "cache"), Snapshot)
    assert _fetch(hub, tmp_path / "cache").commit == commit, "and the weights come later"
    hub.add(REPO, model_files(60_000))
    again = fetch_configs(REPO, cache_dir=tmp_path / "cache", settings=_settings(hub))
    assert again == (commit, 0), "what is whole stays what the branch names"
    assert isinstance(find_snapshot(REPO, None, tmp_path / "cache"), Snapshot)


def test_a_pinned_commit_is_fetched_beside_the_branch(hub: FakeHub, tmp_path: Path) -> None:
    old = hub.add(REPO, model_files(100))
    new = hub.add(REPO, model_files(200))
    assert _fetch(hub, tmp_path).commit == new
    assert _fetch(hub, tmp_path, old).commit == old
    assert _fetch(hub, tmp_path).commit == new, "fetching a commit does not move the branch"


def test_formats_that_no_engine_loads_stay_where_they_are(hub: FakeHub, tmp_path: Path) -> None:
    extra = {
        "pytorch_model.bin": b"x",
        "original/consolidated.00.pth": b"x",
        "model.gguf": b"x",
        "odd[name].txt": b"y",
    }
    hub.add(REPO, {**model_files(), **extra})
    snapshot = _fetch(hub, tmp_path)
    assert {path.name for path in snapshot.path.rglob("*")} == {*model_files(), "odd[name].txt"}


@pytest.mark.parametrize("kind", ["truncate", "drop", "short"])
def test_broken_connections_are_tried_again(hub: FakeHub, tmp_path: Path, kind: str) -> None:
    files = model_files(300_000)
    hub.add(REPO, files)
    hub.faults.append(Fault(f"resolve/.*/{SECOND}", kind))
    snapshot = _fetch(hub, tmp_path)
    assert (snapshot.path / SECOND).read_bytes() == files[SECOND]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_hub_is_asked_again(hub: FakeHub, tmp_path: Path, status: int) -> None:
    hub.add(REPO, model_files())
    hub.faults.append(Fault("api/models", "status", status=status))
    assert isinstance(_fetch(hub, tmp_path), Snapshot)


def test_a_hub_that_stays_down_is_named_after_the_attempts(hub: FakeHub, tmp_path: Path) -> None:
    hub.add(REPO, model_files())
    hub.faults.append(Fault("api/models", "status", status=503, times=100))
    failure = _failure(hub, tmp_path)
    assert (failure.cause, failure.failure_class) == ("hub-unavailable", "infrastructure")
    assert "HTTP 503" in failure.summary
    assert sum("api/models" in request for request in hub.requests) >= 3


def test_no_hub_at_all(tmp_path: Path) -> None:
    with fake_hub() as hub:
        pass
    failure = _failure(hub, tmp_path)
    assert (failure.cause, failure.failure_class) == ("download-failed", "infrastructure")
    assert "gpubench fetch" in failure.remedy


def test_missing_repository(hub: FakeHub, tmp_path: Path) -> None:
    failure = _failure(hub, tmp_path)
    assert (failure.cause, failure.failure_class) == ("repository-not-found", "recipe")
    assert REPO in failure.summary
    assert len(hub.requests) == 1, "what cannot change is not asked twice"


def test_missing_revision(hub: FakeHub, tmp_path: Path) -> None:
    hub.add(REPO, model_files())
    failure = _failure(hub, tmp_path, "v2")
    assert (failure.cause, failure.failure_class) == ("revision-not-found", "recipe")
    assert "v2" in failure.summary


def test_gated_repository(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = "hf_" + "s3cretS3cret"
    monkeypatch.setenv("HF_TOKEN", token)
    hub.add(REPO, model_files())
    hub.faults.append(
        Fault("resolve/", "status", "HEAD", times=100, status=403, error_code="GatedRepo")
    )
    failure = _failure(hub, tmp_path)
    assert (failure.cause, failure.failure_class) == ("gated-repository", "recipe")
    assert f"{hub.endpoint}/{REPO}" in failure.remedy
    assert f"Bearer {token}" in hub.authorizations
    assert token not in str(failure)


def test_refused_token(hub: FakeHub, tmp_path: Path) -> None:
    hub.add(REPO, model_files())
    hub.faults.append(Fault("api/models", "status", times=100, status=403))
    assert _failure(hub, tmp_path).cause == "hub-refused"


def test_a_name_that_is_no_repository(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError) as caught:
        ensure_snapshot("a/b/c", cache_dir=tmp_path, offline=False, settings=_settings(hub))
    assert (caught.value.failure.cause, caught.value.failure.failure_class) == (
        "invalid-model-name",
        "recipe",
    )


def test_a_model_larger_than_the_disk_is_refused_before_the_first_byte(
    hub: FakeHub, tmp_path: Path
) -> None:
    hub.add(REPO, model_files())
    hub.stated_sizes[SECOND] = 1 << 60
    failure = _failure(hub, tmp_path)
    assert (failure.cause, failure.failure_class) == ("disk-full", "infrastructure")
    assert f"needs {2**30:.1f} GiB more" in failure.summary
    assert not hub.downloads


def test_disk_full_in_mid_download(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    hub.add(REPO, model_files())
    monkeypatch.setattr(huggingface_hub, "snapshot_download", full)
    assert _failure(hub, tmp_path).cause == "disk-full"


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO])
def test_stale_file_handles_are_tried_again(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    real, calls = huggingface_hub.snapshot_download, []

    def stale_twice(*args: Any, **kwargs: Any) -> str:
        calls.append(args)
        if len(calls) <= 2:
            raise OSError(number, os.strerror(number))
        return str(real(*args, **kwargs))

    hub.add(REPO, model_files())
    monkeypatch.setattr(huggingface_hub, "snapshot_download", stale_twice)
    assert isinstance(_fetch(hub, tmp_path), Snapshot)
    assert len(calls) == 3
    calls.clear()
    failure = _failure(hub, tmp_path / "other", attempts=2)
    assert (failure.cause, failure.failure_class) == ("stale-file-handle", "infrastructure")


def test_offline_names_the_command_that_fetches(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPO, model_files())
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(BenchmarkError) as caught:
        ensure_snapshot(REPO, cache_dir=tmp_path, settings=_settings(hub))
    failure = caught.value.failure
    assert (failure.cause, failure.failure_class) == ("weights-missing", "infrastructure")
    assert "HF_HUB_OFFLINE=1" in failure.summary
    assert "gpubench fetch" in failure.remedy
    assert not hub.requests


@pytest.mark.parametrize("damage", ["truncated", "zeroed", "dangling", "missing", "no ref"])
def test_damage_is_repaired_by_fetching_only_what_is_broken(
    hub: FakeHub, tmp_path: Path, damage: str
) -> None:
    files = model_files()
    hub.add(REPO, files)
    shard = _fetch(hub, tmp_path).path / SECOND
    if damage == "truncated":
        shard.resolve().write_bytes(files[SECOND][:100])
    elif damage == "zeroed":  # as after a power failure: the length is right
        shard.resolve().write_bytes(bytes(len(files[SECOND])))
    elif damage == "dangling":
        shard.resolve().unlink()
    elif damage == "missing":
        shard.unlink()
    else:
        (repository_folder(tmp_path, REPO) / "refs" / "main").unlink()
    hub.downloads.clear()
    assert (_fetch(hub, tmp_path).path / SECOND).read_bytes() == files[SECOND]
    assert set(hub.downloads) <= {f"{REPO}/{SECOND}"}
    assert isinstance(find_snapshot(REPO, None, tmp_path, tokenizer=True), Snapshot)


def test_a_branch_that_moves_in_mid_download_stays_one_commit(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = huggingface_hub.snapshot_download

    def push_first(*args: Any, **kwargs: Any) -> str:
        hub.add(REPO, model_files(77))
        return str(real(*args, **kwargs))

    before = hub.add(REPO, model_files())
    monkeypatch.setattr(huggingface_hub, "snapshot_download", push_first)
    snapshot = _fetch(hub, tmp_path)
    assert snapshot.commit == before
    assert (snapshot.path / SECOND).read_bytes() == model_files()[SECOND]


def test_a_repository_without_a_shard_is_the_recipes_fault(hub: FakeHub, tmp_path: Path) -> None:
    files = model_files()
    del files[SECOND]
    hub.add(REPO, files)
    failure = _failure(hub, tmp_path, attempts=2)
    assert (failure.cause, failure.failure_class) == ("repository-incomplete", "recipe")
    assert f"{SECOND} is missing" in failure.summary


def test_folders_are_checked_and_never_fetched(hub: FakeHub, tmp_path: Path) -> None:
    for name, content in model_files().items():
        (tmp_path / name).write_bytes(content)
    assert ensure_snapshot(str(tmp_path), settings=_settings(hub)) == Snapshot(
        str(tmp_path), tmp_path
    )
    (tmp_path / SECOND).unlink()
    for folder, cause in (
        (tmp_path, "model-folder-incomplete"),
        (tmp_path / "nowhere", "model-folder-missing"),
    ):
        with pytest.raises(BenchmarkError) as caught:
            ensure_snapshot(str(folder), offline=False, settings=_settings(hub))
        assert (caught.value.failure.cause, caught.value.failure.failure_class) == (cause, "recipe")
    assert not hub.requests


def test_progress_ends_at_the_whole(hub: FakeHub, tmp_path: Path) -> None:
    files = model_files()
    hub.add(REPO, files)
    seen: list[Progress] = []
    ensure_snapshot(
        REPO, cache_dir=tmp_path, offline=False, on_progress=seen.append, settings=_settings(hub)
    )
    total = sum(map(len, files.values()))
    assert seen[-1] == Progress(REPO, total, total)


FETCH = """
import sys
from pathlib import Path
from pytest_gpubench.host.hub.fetch import FetchSettings, ensure_snapshot
print(ensure_snapshot("org/model", cache_dir=Path(sys.argv[1]), offline=False, tokenizer=True,
                      settings=FetchSettings(lock=sys.argv[2], lock_timeout=600)).commit)
"""


@pytest.mark.parametrize("lock", ["local", "shared"])
def test_eight_processes_download_once(hub: FakeHub, tmp_path: Path, lock: str) -> None:
    commit = hub.add(REPO, model_files(200_000))
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "TMPDIR": str(tmp_path / "tmp")}
    command = [sys.executable, "-c", FETCH, str(tmp_path / "cache"), lock]
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(8)
    ]
    outputs = [process.communicate(timeout=600)[0].strip() for process in processes]
    assert outputs == [commit] * 8
    assert hub.downloads == {f"{REPO}/{name}": 1 for name in model_files()}
    assert isinstance(find_snapshot(REPO, None, tmp_path / "cache", tokenizer=True), Snapshot)


def test_a_lock_whose_owner_was_killed_stops_nobody(hub: FakeHub, tmp_path: Path) -> None:
    hub.add(REPO, model_files())
    hub.faults.append(Fault(f"resolve/.*/{SECOND}", "stall"))
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "TMPDIR": str(tmp_path / "tmp")}
    process = subprocess.Popen(
        [sys.executable, "-c", FETCH, str(tmp_path / "cache"), "local"], env=environment
    )
    deadline = time.monotonic() + 120
    while hub.faults[0].times and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not isinstance(find_snapshot(REPO, None, tmp_path / "cache"), Snapshot)
    assert isinstance(_fetch(hub, tmp_path / "cache", lock_timeout=60.0), Snapshot), (
        "with its owner the lock is gone"
    )


def test_waiting_for_another_download_is_reported_and_ends(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_gpubench.host.hub.repository_locks._LOCK_POLL_SECONDS", 0.05)
    hub.add(REPO, model_files())
    seen: list[Progress] = []
    with repository_lock(tmp_path, REPO, timeout=1), pytest.raises(BenchmarkError) as caught:
        ensure_snapshot(
            REPO,
            cache_dir=tmp_path,
            offline=False,
            on_progress=seen.append,
            settings=_settings(hub, lock_timeout=0.3),
        )
    assert (caught.value.failure.cause, caught.value.failure.failure_class) == (
        "lock-timeout",
        "infrastructure",
    )
    assert seen
    assert all(progress.waiting for progress in seen)


def test_tokens_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "odd-token-of-a-proxy")
    assert (
        redact("a odd-token-of-a-proxy b hf_abcdefgh12345 c Authorization: Bearer xyz")
        == "a *** b *** c Authorization: Bearer ***"
    )
