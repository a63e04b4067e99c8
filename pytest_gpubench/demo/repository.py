"""A folder of files, published as a repository in a local Hugging Face cache.

The layout is the hub's own: ``models--ORG--NAME`` with ``blobs/``, ``snapshots/COMMIT/`` of links
into them, ``refs/main`` and ``trees/COMMIT.json`` (the listing by which huggingface_hub 2 knows a
complete snapshot). A repository is built beside the cache's others and moved in by one rename;
where one exists already, its parts are replaced one atomic step at a time, the reference last. A
process killed at any moment, or several at once, therefore leave the old repository or the new one,
never half of one.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from pytest_gpubench.host.hub.local import repository_folder
from pytest_gpubench.model.failures import GpubenchError

_STAGING = ".gpubench-staging-"
_STALE_SECONDS = 3600.0
_LARGE_SUFFIXES = (".safetensors", ".gguf")


@dataclass(frozen=True, slots=True)
class _Entry:
    """One file of a repository with the names that the hub would give its content."""

    path: str
    size: int
    sha256: str
    git_sha1: str

    @property
    def large(self) -> bool:
        return self.path.endswith(_LARGE_SUFFIXES)

    @property
    def blob(self) -> str:
        return self.sha256 if self.large else self.git_sha1


Content: TypeAlias = tuple[str, list[_Entry]]
"""The commit of a repository and its files."""


def publish_repository(
    cache_dir: Path,
    repo: str,
    write: Callable[[Path], None],
    written: dict[str, Content] | None = None,
) -> str:
    """Put a repository into a cache; one with the same content that is there and intact is left
    alone.

    Args:
        cache_dir: the Hugging Face cache (what ``HF_HUB_CACHE`` names); made if missing.
        repo: ``org/name``.
        write: fills an empty folder with the repository's files (no subfolders).
        written: what ``write`` is known to write, by repository; filled here. Where it is intact in
            the cache, nothing is written to see that.

    Returns:
        The commit, derived from the names and contents of the files.

    Raises:
        GpubenchError: if the cache cannot be written.
    """
    written = {} if written is None else written
    final = repository_folder(cache_dir, repo)
    if repo in written and _intact(final, *written[repo]):
        return written[repo][0]
    try:
        staging = _staging(cache_dir)
        try:
            files = staging / "files"
            files.mkdir()
            write(files)
            entries = [_entry(path) for path in sorted(files.iterdir())]
            commit = _commit(entries)
            written[repo] = commit, entries
            if not _intact(final, commit, entries):
                built = staging / "repository"
                _build(built, files, commit, entries)
                _move_in(built, final, commit, entries)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise GpubenchError(
            f"cannot write {repo} into the model cache {cache_dir}: {error.strerror or error}; "
            "choose another with --gpubench-cache-dir"
        ) from error
    return commit


def _staging(cache_dir: Path) -> Path:
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        _remove_stale(cache_dir)
        return Path(tempfile.mkdtemp(prefix=_STAGING, dir=cache_dir))
    except OSError:
        if not cache_dir.is_dir():
            raise
        # a cache that cannot be written may still hold the repository, which is known only once its
        # files are made
        return Path(tempfile.mkdtemp(prefix=_STAGING))


def _entry(path: Path) -> _Entry:
    size = path.stat().st_size
    sha256 = hashlib.sha256()
    git_sha1 = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            sha256.update(chunk)
            git_sha1.update(chunk)
    return _Entry(path.name, size, sha256.hexdigest(), git_sha1.hexdigest())


def _commit(entries: list[_Entry]) -> str:
    listing = "".join(f"{entry.path} {entry.sha256}\n" for entry in entries)
    return hashlib.sha1(listing.encode(), usedforsecurity=False).hexdigest()


def _intact(repository: Path, commit: str, entries: list[_Entry]) -> bool:
    """Whether the repository has this commit as its main, every file readable and unchanged."""
    snapshot = repository / "snapshots" / commit
    try:
        if (repository / "refs" / "main").read_text() != commit or not (
            repository / "trees" / f"{commit}.json"
        ).is_file():
            return False
        return all(_entry(snapshot / entry.path) == entry for entry in entries)
    except OSError:
        return False


def _build(built: Path, files: Path, commit: str, entries: list[_Entry]) -> None:
    snapshot = built / "snapshots" / commit
    for folder in (built / "blobs", built / "refs", built / "trees", snapshot):
        folder.mkdir(parents=True)
    for entry in entries:
        (files / entry.path).rename(built / "blobs" / entry.blob)
        (snapshot / entry.path).symlink_to(f"../../blobs/{entry.blob}")
    (built / "trees" / f"{commit}.json").write_text(json.dumps(_tree(entries), indent=1))
    (built / "refs" / "main").write_text(commit)


def _tree(entries: list[_Entry]) -> dict[str, object]:
    def listed(entry: _Entry) -> dict[str, object]:
        large = {"lfs_sha256": entry.sha256, "lfs_size": entry.size} if entry.large else {}
        return {"size": entry.size, "blob_id": entry.git_sha1, **large}

    return {"format_version": 1, "files": {entry.path: listed(entry) for entry in entries}}


def _move_in(built: Path, final: Path, commit: str, entries: list[_Entry]) -> None:
    try:
        built.rename(final)
        return
    except OSError:
        if not final.is_dir():
            raise
    parts = [Path("blobs", entry.blob) for entry in entries]
    parts += [Path("snapshots", commit, entry.path) for entry in entries]
    parts += [Path("trees", f"{commit}.json"), Path("refs", "main")]
    for part in parts:
        (final / part).parent.mkdir(parents=True, exist_ok=True)
        (built / part).replace(final / part)


def _remove_stale(cache_dir: Path) -> None:
    """Remove what killed processes left; a living one is done within seconds."""
    for left in cache_dir.glob(f"{_STAGING}*"):
        try:
            if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
        except FileNotFoundError:
            continue
