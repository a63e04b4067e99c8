"""Faults of the Hugging Face cache: damaged, unreadable, full."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import huggingface_hub
from downloads import REPO, SECOND, fetch, local_hub
from harness import Fault, Observed, fill, own_environment, small_disk
from project import ONE_SERVER, RECIPES, Project

from pytest_gpubench.host.hub.local import Snapshot, find_snapshot

_RECIPES = RECIPES.replace("pytest-gpubench/tiny-llama\n", f"{REPO}\n")


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
        with local_hub(folder) as hub:
            fetch(hub, cache)
            snapshot = find_snapshot(REPO, None, cache)
            assert isinstance(snapshot, Snapshot)
            damage(snapshot.path / SECOND)
            hub.downloads.clear()
            begin = time.monotonic()
            run = Project(folder, recipes=_RECIPES).start(
                *ONE_SERVER, f"--gpubench-cache-dir={cache}", env={"HF_ENDPOINT": hub.endpoint}
            )
            run.until(
                "a repaired snapshot",
                lambda: isinstance(find_snapshot(REPO, None, cache), Snapshot),
            )
            seen = run.end(Observed(seconds=time.monotonic() - begin))
            again = fetch(hub, cache)
            seen.problems += again.problems
            fetched = sum(hub.downloads.values())
            seen.note = (
                "fetched again: "
                f"{', '.join(sorted(name.removeprefix(f'{REPO}/') for name in hub.downloads)) or 'nothing'}"
            )
            if fetched > 1 or not run.measured():
                seen.problems.append(f"{seen.note}; {run.text()[-800:]}")
        return seen

    return inject


def _damaged_offline(folder: Path) -> Observed:
    cache = folder / "cache"
    with local_hub(folder) as hub:
        fetch(hub, cache)
        snapshot = find_snapshot(REPO, None, cache)
        assert isinstance(snapshot, Snapshot)
        _truncate(snapshot.path / SECOND)
        run = Project(folder, recipes=_RECIPES).start(
            *ONE_SERVER, f"--gpubench-cache-dir={cache}", env={"HF_HUB_OFFLINE": "1"}
        )
        seen = run.observe(run.started)
    if SECOND not in run.text() or "gpubench fetch" not in run.text():
        seen.problems.append("neither the shard nor the remedy is named")
    seen.note = "names the shard and `gpubench fetch`; timed from pytest's start"
    return seen


def _read_only(folder: Path) -> Observed:
    with small_disk(folder / "disk", 1, ",ro") as disk, local_hub(folder) as hub:
        return fetch(hub, disk / "cache")


def _unreadable(folder: Path) -> Observed:
    """Another user's cache that may not be entered; root may everywhere, so the fetch runs without
    root's rights."""
    cache = folder / "cache"
    program = f"""
import ctypes, json, sys
from pathlib import Path
from pytest_gpubench.model.failures import BenchmarkError
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
    with local_hub(folder) as hub:
        fetch(hub, cache)
        cache.chmod(0o700)
        for path in (folder, *folder.parents):
            if (
                path != Path("/")
                and path != Path(tempfile.gettempdir())
                and path.stat().st_uid == os.getuid()
            ):
                path.chmod(path.stat().st_mode | 0o011)
        locks = folder / "tmp"
        for path in locks.rglob("*"):
            path.chmod(0o777)
        (other := folder / "tmp-of-nobody").mkdir()
        other.chmod(0o777)
        begin = time.monotonic()
        environment = own_environment(folder) | {"HF_ENDPOINT": hub.endpoint}
        done = subprocess.run(
            [sys.executable, "-c", program, str(cache), str(other)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
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
    with small_disk(folder / "disk", 1) as disk, local_hub(folder, 2_000_000) as hub:
        seen = fetch(hub, disk / "cache")
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
        local_hub(folder) as hub,
        mock.patch.object(huggingface_hub, "snapshot_download", full),
    ):
        return fetch(hub, disk / "cache")


def _nothing_offline(folder: Path) -> Observed:
    with local_hub(folder) as hub:
        return fetch(hub, folder / "cache", offline=True)


FAULTS = (
    Fault(
        "snapshot with a truncated shard, hub in reach",
        _damaged(_truncate),
        exit_code=0,
        within=30.0,
    ),
    Fault("snapshot without a shard, hub in reach", _damaged(_remove), exit_code=0, within=30.0),
    Fault(
        "snapshot whose blob is gone, hub in reach",
        _damaged(_unwritten_blob),
        exit_code=0,
        within=30.0,
    ),
    Fault(
        "snapshot with a shard of zeros (power failure), hub in reach",
        _damaged(_zeros),
        exit_code=0,
        within=30.0,
    ),
    Fault(
        "snapshot with a truncated shard, offline",
        _damaged_offline,
        "weights-missing",
        "infrastructure",
        1,
        within=20.0,
    ),
    Fault("nothing in the cache, offline", _nothing_offline, "weights-missing", "infrastructure"),
    Fault("cache on a read-only file system", _read_only, "cache-unwritable", "infrastructure"),
    Fault("cache that may not be entered", _unreadable, "cache-unwritable", "infrastructure"),
    Fault(
        "cache folder is a file", _no_folder, "weights-missing", "infrastructure", 1, within=15.0
    ),
    Fault("disk too small for the download", _disk_full_beforehand, "disk-full", "infrastructure"),
    Fault("disk full in mid-download", _disk_full_midway, "disk-full", "infrastructure"),
)
