"""Faults of the Hugging Face cache and of the way to it, against a hub of our own on the loopback interface."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import huggingface_hub
from harness import NO_FAILURE, ONE_SERVER, RECIPES, Fault, Observed, Project, fill, own_environment, small_disk

from pytest_gpubench.domain.failures import BenchmarkError
from pytest_gpubench.host.hub.fetch import FetchSettings, ensure_snapshot
from pytest_gpubench.host.hub.local import Snapshot, find_snapshot
from pytest_gpubench.host.hub.locks import lock_path
from tests.host.fake_hub import FakeHub, fake_hub, model_files
from tests.host.fake_hub import Fault as HubFault

REPO = "org/model"
SECOND = "model-00002-of-00002.safetensors"
_CONFIG = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 4096}
_RECIPES = RECIPES.replace("pytest-gpubench/tiny-llama\n", f"{REPO}\n")
_FETCH = f"""
import sys
from pathlib import Path
from pytest_gpubench.host.hub.fetch import FetchSettings, ensure_snapshot
print(ensure_snapshot({REPO!r}, cache_dir=Path(sys.argv[1]), offline=False, tokenizer=True,
                      settings=FetchSettings(lock=sys.argv[2], lock_timeout=60, backoff=0.1)).commit)
"""


@contextmanager
def _hub(folder: Path, size: int = 200_000) -> Iterator[FakeHub]:
    """A hub that holds one model; locks of this process lie in the fault's folder."""
    (folder / "tmp").mkdir(exist_ok=True)
    with fake_hub() as hub, mock.patch.object(tempfile, "tempdir", str(folder / "tmp")):
        hub.add(REPO, model_files(size) | {"config.json": json.dumps(_CONFIG).encode()})
        yield hub


def _fetch(hub: FakeHub, cache: Path, *, offline: bool = False) -> Observed:
    """Fetch the model in this process; the verdict, timed."""
    seen, begin = Observed(), time.monotonic()
    settings = FetchSettings(endpoint=hub.endpoint, attempts=3, backoff=0.2, lock_timeout=20.0)
    try:
        snapshot = ensure_snapshot(REPO, cache_dir=cache, offline=offline, tokenizer=True, settings=settings)
    except BenchmarkError as error:
        seen.cause, seen.whose = error.failure.cause, error.failure.failure_class
    else:
        files = hub.repositories[REPO][snapshot.commit]
        if any((snapshot.path / name).read_bytes() != content for name, content in files.items()):
            seen.problems.append("a file differs from the hub's")
    seen.seconds = time.monotonic() - begin
    return seen


def _hub_fault(*faults: HubFault, note: str = "") -> Callable[[Path], Observed]:
    def inject(folder: Path) -> Observed:
        with _hub(folder) as hub:
            hub.faults += [HubFault(**vars(fault)) for fault in faults]
            seen = _fetch(hub, folder / "cache")
            seen.note = note
            if any(fault.times == given.times for fault, given in zip(hub.faults, faults, strict=True)):
                seen.problems.append("a fault was not met")
        return seen

    return inject


def _truncate(shard_path: Path) -> None:
    target = shard_path.resolve()
    target.write_bytes(target.read_bytes()[:1000])


def _remove(shard_path: Path) -> None:
    shard_path.unlink()


def _unwritten_blob(shard_path: Path) -> None:
    shard_path.resolve().unlink()


def _zeros(shard_path: Path) -> None:
    target = shard_path.resolve()
    target.write_bytes(bytes(target.stat().st_size))


def _damaged(damage: Callable[[Path], None]) -> Callable[[Path], Observed]:
    """The cache is damaged; pytest runs as a user runs it, with the hub in reach."""

    def inject(folder: Path) -> Observed:
        cache = folder / "cache"
        with _hub(folder) as hub:
            _fetch(hub, cache)
            snapshot = find_snapshot(REPO, None, cache)
            assert isinstance(snapshot, Snapshot)
            damage(snapshot.path / SECOND)
            hub.downloads.clear()
            begin = time.monotonic()
            run = Project(folder, recipes=_RECIPES).start(
                *ONE_SERVER, f"--gpubench-cache-dir={cache}", env={"HF_ENDPOINT": hub.endpoint}
            )
            run.until("a repaired snapshot", lambda: isinstance(find_snapshot(REPO, None, cache), Snapshot))
            seen = run.end(Observed(seconds=time.monotonic() - begin))
            again = _fetch(hub, cache)
            seen.problems += again.problems
            fetched = sum(hub.downloads.values())
            seen.note = f"fetched again: {', '.join(sorted(name.removeprefix(f'{REPO}/') for name in hub.downloads)) or 'nothing'}"
            if fetched > 1 or not run.measured():
                seen.problems.append(f"{seen.note}; {run.text()[-800:]}")
        return seen

    return inject


def _damaged_offline(folder: Path) -> Observed:
    cache = folder / "cache"
    with _hub(folder) as hub:
        _fetch(hub, cache)
        snapshot = find_snapshot(REPO, None, cache)
        assert isinstance(snapshot, Snapshot)
        _truncate(snapshot.path / SECOND)
        run = Project(folder, recipes=_RECIPES).start(*ONE_SERVER, f"--gpubench-cache-dir={cache}", env={"HF_HUB_OFFLINE": "1"})
        seen = run.observe(run.started)
    if SECOND not in run.text() or "gpubench fetch" not in run.text():
        seen.problems.append("neither the shard nor the remedy is named")
    seen.note = "names the shard and `gpubench fetch`; timed from pytest's start"
    return seen


def _race(lock: str) -> Callable[[Path], Observed]:
    def inject(folder: Path) -> Observed:
        with _hub(folder, 2_000_000) as hub:
            environment = own_environment(folder) | {"HF_ENDPOINT": hub.endpoint}
            command = [sys.executable, "-c", _FETCH, str(folder / "cache"), lock]
            begin = time.monotonic()
            crowd = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(8)]
            commits = {process.communicate(timeout=120)[0].strip() for process in crowd}
            seen = Observed(seconds=time.monotonic() - begin, note="every file is downloaded once")
            if commits != {hub.commit(REPO, None)} or set(hub.downloads.values()) != {1}:
                seen.problems.append(f"commits {commits}, downloads {dict(hub.downloads)}")
        return seen

    return inject


def _stale_lock(kind: str) -> Callable[[Path], Observed]:
    """The process that holds the lock is killed in mid-download."""

    def inject(folder: Path) -> Observed:
        cache = folder / "cache"
        with _hub(folder) as hub:
            hub.faults.append(HubFault(f"resolve/.*/{SECOND}", "stall"))
            environment = own_environment(folder) | {"HF_ENDPOINT": hub.endpoint}
            owner = subprocess.Popen([sys.executable, "-c", _FETCH, str(cache), kind], env=environment)
            limit = time.monotonic() + 30
            while hub.faults[0].times and time.monotonic() < limit:
                time.sleep(0.02)
            owner.kill()
            owner.wait()
            begin = time.monotonic()
            left = lock_path(cache, REPO, "shared" if kind == "shared" else "local").exists()
            done = subprocess.run(
                [sys.executable, "-c", _FETCH, str(cache), kind],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=90,
            )
            seen = Observed(seconds=time.monotonic() - begin)
            seen.note = f"the dead owner's lock file {'was there' if left else 'was gone'}; the next process fetches the rest"
            if done.stdout.strip() != hub.commit(REPO, None):
                seen.problems.append(done.stderr[-500:])
        return seen

    return inject


def _stale_handles(times: int) -> Callable[[Path], Observed]:
    """The file system answers ESTALE, as NFS does under several writers."""

    def inject(folder: Path) -> Observed:
        real, left = huggingface_hub.snapshot_download, [times]

        def stale(*args: Any, **keywords: Any) -> str:
            if left[0]:
                left[0] -= 1
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), "model.safetensors")
            return str(real(*args, **keywords))

        with _hub(folder) as hub, mock.patch.object(huggingface_hub, "snapshot_download", stale):
            return _fetch(hub, folder / "cache")

    return inject


def _read_only(folder: Path) -> Observed:
    with small_disk(folder / "disk", 1, ",ro") as disk, _hub(folder) as hub:
        return _fetch(hub, disk / "cache")


def _unreadable(folder: Path) -> Observed:
    """Another user's cache that may not be entered; root may everywhere, so the fetch runs without root's rights."""
    cache = folder / "cache"
    program = f"""
import ctypes, json, sys
from pathlib import Path
from pytest_gpubench.domain.failures import BenchmarkError
from pytest_gpubench.host.hub.fetch import FetchSettings, ensure_snapshot
from huggingface_hub import snapshot_download
import filelock, os, tempfile
os.setegid(65534); os.seteuid(65534)
tempfile.tempdir = sys.argv[2]
try:
    ensure_snapshot({REPO!r}, cache_dir=Path(sys.argv[1]), offline=False, settings=FetchSettings(attempts=2, backoff=0.1))
except BenchmarkError as error:
    print(error.failure.cause, error.failure.failure_class)
"""
    with _hub(folder) as hub:
        _fetch(hub, cache)
        cache.chmod(0o700)
        for path in (folder, *folder.parents):
            if path != Path("/") and path != Path(tempfile.gettempdir()) and path.stat().st_uid == os.getuid():
                path.chmod(path.stat().st_mode | 0o011)
        locks = folder / "tmp"
        for path in locks.rglob("*"):
            path.chmod(0o777)
        (other := folder / "tmp-of-nobody").mkdir()
        other.chmod(0o777)
        begin = time.monotonic()
        environment = own_environment(folder) | {"HF_ENDPOINT": hub.endpoint}
        done = subprocess.run(
            [sys.executable, "-c", program, str(cache), str(other)], env=environment, capture_output=True, text=True, check=False
        )
        seen = Observed(seconds=time.monotonic() - begin)
    words = done.stdout.split()
    if len(words) == 2:
        seen.cause, seen.whose = words
    else:
        seen.problems.append(done.stderr[-800:])
    return seen


def _no_folder(folder: Path) -> Observed:
    """--gpubench-cache-dir names a file; the embedded models are to be written there."""
    (folder / "file").touch()
    run = Project(folder).start(*ONE_SERVER, f"--gpubench-cache-dir={folder / 'file'}")
    seen = run.observe(run.started)
    seen.note = "timed from pytest's start"
    return seen


def _disk_full_beforehand(folder: Path) -> Observed:
    with small_disk(folder / "disk", 1) as disk, _hub(folder, 2_000_000) as hub:
        seen = _fetch(hub, disk / "cache")
        seen.note = f"refused before the first byte ({sum(hub.downloads.values())} downloads)"
        if hub.downloads:
            seen.problems.append(seen.note)
    return seen


def _disk_full_midway(folder: Path) -> Observed:
    """Somebody else fills the disk between the check of its free space and the download."""
    real = huggingface_hub.snapshot_download

    def full(*args: Any, **keywords: Any) -> str:
        fill(folder / "disk")
        return str(real(*args, **keywords))

    with (
        small_disk(folder / "disk", 80) as disk,
        _hub(folder) as hub,
        mock.patch.object(huggingface_hub, "snapshot_download", full),
    ):
        return _fetch(hub, disk / "cache")


def _nothing_offline(folder: Path) -> Observed:
    with _hub(folder) as hub:
        return _fetch(hub, folder / "cache", offline=True)


FAULTS = (
    Fault("snapshot with a truncated shard, hub in reach", _damaged(_truncate), exit_code=0, within=30.0),
    Fault("snapshot without a shard, hub in reach", _damaged(_remove), exit_code=0, within=30.0),
    Fault("snapshot whose blob is gone, hub in reach", _damaged(_unwritten_blob), exit_code=0, within=30.0),
    Fault("snapshot with a shard of zeros (power failure), hub in reach", _damaged(_zeros), exit_code=0, within=30.0),
    Fault("snapshot with a truncated shard, offline", _damaged_offline, "weights-missing", "infrastructure", 1, within=20.0),
    Fault("nothing in the cache, offline", _nothing_offline, "weights-missing", "infrastructure"),
    Fault("download race of 8 processes", _race("local"), within=60.0),
    Fault("the same with a lock in the cache (NFS)", _race("shared"), within=60.0),
    Fault(
        "connection lost once in mid-file",
        _hub_fault(HubFault(f"resolve/.*/{SECOND}", "truncate"), note="fetched on the next attempt"),
    ),
    Fault(
        "connection lost every time",
        _hub_fault(HubFault("resolve/", "drop", times=999)),
        "download-failed",
        "infrastructure",
        within=30.0,
    ),
    Fault(
        "hub answers 429 for ever",
        _hub_fault(HubFault("api/models", "status", times=999, status=429)),
        "hub-rate-limit",
        "infrastructure",
    ),
    Fault(
        "hub answers 503 for ever",
        _hub_fault(HubFault("api/models", "status", times=999, status=503)),
        "hub-unavailable",
        "infrastructure",
    ),
    Fault(
        "gated repository",
        _hub_fault(HubFault("resolve/", "status", "HEAD", times=999, status=403, error_code="GatedRepo")),
        "gated-repository",
        "recipe",
    ),
    Fault("stale file handle, twice", _stale_handles(2), NO_FAILURE),
    Fault("stale file handle, for ever", _stale_handles(99), "stale-file-handle", "infrastructure"),
    Fault("stale lock: its owner was killed", _stale_lock("local"), within=30.0),
    Fault("stale lock in the cache (NFS): its owner was killed", _stale_lock("shared"), within=30.0),
    Fault("cache on a read-only file system", _read_only, "cache-unwritable", "infrastructure"),
    Fault("cache that may not be entered", _unreadable, "cache-unwritable", "infrastructure"),
    Fault("cache folder is a file", _no_folder, "weights-missing", "infrastructure", 1, within=15.0),
    Fault("disk too small for the download", _disk_full_beforehand, "disk-full", "infrastructure"),
    Fault("disk full in mid-download", _disk_full_midway, "disk-full", "infrastructure"),
)
