"""One download of a repository per host: locks that die with their owner."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeAlias

from pytest_gpubench.host.files import make_private_folder, not_private
from pytest_gpubench.host.hub.download_failures import lock_unusable
from pytest_gpubench.model.failures import BenchmarkError, Failure

_LOCK_POLL_SECONDS = 2.0
LockKind: TypeAlias = Literal["local", "shared"]
"""``local``: flock in a folder of this host, released by the kernel when its owner dies.
``shared``: a lock file inside the cache, for a cache that several hosts write over NFS."""


def lock_path(cache_dir: Path, repo: str, kind: LockKind) -> Path:
    """Where the lock of a repository lies; the same for every spelling of the cache's path."""
    name = repo.replace("/", "--")
    if kind == "shared":
        return cache_dir / ".locks" / "gpubench" / f"{name}.lock"
    digest = hashlib.sha256(os.fsencode(cache_dir.resolve())).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"gpubench-{os.getuid()}" / "hub" / f"{name}-{digest}.lock"


@contextmanager
def repository_lock(
    cache_dir: Path,
    repo: str,
    *,
    kind: LockKind = "local",
    timeout: float,
    waiting: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Hold the lock of a repository.

    Args:
        timeout: seconds to wait for another process.
        waiting: called every two seconds while another process holds it.

    Raises:
        BenchmarkError: infrastructure, if the lock cannot be had in time or at all.
    """
    from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

    path = lock_path(cache_dir, repo, kind)
    try:
        if kind == "shared":
            make_private_folder(path.parent, 0o755)
            lock: BaseFileLock = SoftFileLock(path)
        else:
            make_private_folder(path.parent)
            for folder in (path.parent.parent, path.parent):
                if reason := not_private(folder):
                    raise BenchmarkError(lock_unusable(repo, path, reason))
            lock = FileLock(path, mode=0o600)
        left = timeout
        while True:
            step = min(left, _LOCK_POLL_SECONDS)
            try:
                lock.acquire(timeout=step)
                break
            except Timeout:
                left -= step
                if left <= 0:
                    raise
                waiting()
    except Timeout as error:
        raise BenchmarkError(
            Failure(
                "lock-timeout",
                "infrastructure",
                f"another process has held the download lock of {repo} for more than "
                f"{timeout:.0f} s ({path})",
                remedy="Wait for it, or delete that file if no process downloads.",
            )
        ) from error
    except (OSError, NotImplementedError) as error:
        raise BenchmarkError(
            lock_unusable(repo, path, str(getattr(error, "strerror", None) or error))
        ) from error
    try:
        yield
    finally:
        lock.release()
