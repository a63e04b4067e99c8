"""Faults of the way to the Hugging Face hub, against a hub of our own on the loopback interface."""

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
from harness import NO_FAILURE, Fault, Observed, own_environment

from pytest_gpubench.host.hub.fetch import FetchSettings, ensure_snapshot
from pytest_gpubench.host.hub.repository_locks import lock_path
from pytest_gpubench.model.failures import BenchmarkError
from tests.host.fake_hub import FakeHub, fake_hub, model_files
from tests.host.fake_hub import Fault as HubFault

REPO = "org/model"
SECOND = "model-00002-of-00002.safetensors"
_CONFIG = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 4096}
_FETCH = f"""
import sys
from pathlib import Path
from pytest_gpubench.host.hub.fetch import FetchSettings, ensure_snapshot
print(ensure_snapshot({REPO!r}, cache_dir=Path(sys.argv[1]), offline=False, tokenizer=True,
                      settings=FetchSettings(lock=sys.argv[2], lock_timeout=60, backoff=0.1)).commit)
"""


@contextmanager
def local_hub(folder: Path, size: int = 200_000) -> Iterator[FakeHub]:
    """A hub that holds one model; locks of this process lie in the fault's folder."""
    (folder / "tmp").mkdir(exist_ok=True)
    with fake_hub() as hub, mock.patch.object(tempfile, "tempdir", str(folder / "tmp")):
        hub.add(REPO, model_files(size) | {"config.json": json.dumps(_CONFIG).encode()})
        yield hub


def fetch(hub: FakeHub, cache: Path, *, offline: bool = False) -> Observed:
    """Fetch the model in this process; the verdict, timed."""
    seen, begin = Observed(), time.monotonic()
    settings = FetchSettings(endpoint=hub.endpoint, attempts=3, backoff=0.2, lock_timeout=20.0)
    try:
        snapshot = ensure_snapshot(
            REPO, cache_dir=cache, offline=offline, tokenizer=True, settings=settings
        )
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
        with local_hub(folder) as hub:
            hub.faults += [HubFault(**vars(fault)) for fault in faults]
            seen = fetch(hub, folder / "cache")
            seen.note = note
            if any(
                fault.times == given.times for fault, given in zip(hub.faults, faults, strict=True)
            ):
                seen.problems.append("a fault was not met")
        return seen

    return inject


def _race(lock: str) -> Callable[[Path], Observed]:
    def inject(folder: Path) -> Observed:
        with local_hub(folder, 2_000_000) as hub:
            environment = own_environment(folder) | {"HF_ENDPOINT": hub.endpoint}
            command = [sys.executable, "-c", _FETCH, str(folder / "cache"), lock]
            begin = time.monotonic()
            crowd = [
                subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
                for _ in range(8)
            ]
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
        with local_hub(folder) as hub:
            hub.faults.append(HubFault(f"resolve/.*/{SECOND}", "stall"))
            environment = own_environment(folder) | {"HF_ENDPOINT": hub.endpoint}
            owner = subprocess.Popen(
                [sys.executable, "-c", _FETCH, str(cache), kind], env=environment
            )
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
            seen.note = (
                f"the dead owner's lock file {'was there' if left else 'was gone'}; the "
                "next process fetches the rest"
            )
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

        with (
            local_hub(folder) as hub,
            mock.patch.object(huggingface_hub, "snapshot_download", stale),
        ):
            return fetch(hub, folder / "cache")

    return inject


FAULTS = (
    Fault("download race of 8 processes", _race("local"), within=60.0),
    Fault("the same with a lock in the cache (NFS)", _race("shared"), within=60.0),
    Fault(
        "connection lost once in mid-file",
        _hub_fault(
            HubFault(f"resolve/.*/{SECOND}", "truncate"), note="fetched on the next attempt"
        ),
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
        _hub_fault(
            HubFault("resolve/", "status", "HEAD", times=999, status=403, error_code="GatedRepo")
        ),
        "gated-repository",
        "recipe",
    ),
    Fault("stale file handle, twice", _stale_handles(2), NO_FAILURE),
    Fault("stale file handle, for ever", _stale_handles(99), "stale-file-handle", "infrastructure"),
    Fault("stale lock: its owner was killed", _stale_lock("local"), within=30.0),
    Fault(
        "stale lock in the cache (NFS): its owner was killed", _stale_lock("shared"), within=30.0
    ),
)
