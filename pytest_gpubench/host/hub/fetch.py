"""Models fetched into the local Hugging Face cache: once per host, verified, with every failure
named; and data sets, file by file: ``hf://datasets/ORG/NAME[@REVISION]/FILE``, as huggingface_hub
writes it."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypeVar

from pytest_gpubench.host.files import expanded, write_text
from pytest_gpubench.host.hub.download_failures import (
    download_failure,
    folder_failure,
    is_transient,
    offline_failure,
    still_incomplete,
)
from pytest_gpubench.host.hub.local import (
    DEFAULT_REVISION,
    Incomplete,
    Snapshot,
    default_cache_dir,
    find_snapshot,
    is_local_path,
    is_offline,
    looks_whole,
    repository_folder,
)
from pytest_gpubench.host.hub.repository_locks import LockKind, repository_lock
from pytest_gpubench.model.failures import BenchmarkError, Failure
from pytest_gpubench.model.workload import HUB_FILE

_T = TypeVar("_T")
_DEFAULT_ENDPOINT = "https://huggingface.co"
_UNSERVED = (
    *("original/*", "onnx/*", "coreml/*", "openvino/*"),
    *("*.onnx", "*.gguf", "*.h5", "*.msgpack", "*.ot", "*.tflite", "*.pth", "*.pt"),
)
"""Copies of the weights in formats that the engines do not load by default."""
_WEIGHTS = ("*.safetensors", "*.bin", "*.npz", "*.ckpt")
_LARGEST_CONFIG = 64 << 20
"""Bytes of one file; a tokenizer has some 20 MB."""
_SPARE_BYTES = 64 << 20
_PROGRESS_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a fetch is; ``total_bytes`` is 0 while another process holds the lock or the listing
    is on its way."""

    model: str
    done_bytes: int
    total_bytes: int
    waiting: bool = False
    """Another process of this host is fetching the same repository."""


@dataclass(frozen=True, slots=True)
class FetchSettings:
    """How hard to try, and where. ``endpoint`` None is the hub that ``HF_ENDPOINT`` names, else the
    public one."""

    endpoint: str | None = None
    attempts: int = 5
    backoff: float = 2.0
    """Seconds before the second attempt; doubled after each."""
    lock: LockKind = "local"
    lock_timeout: float = 4 * 3600.0
    max_workers: int = 8


def ensure_snapshot(
    model: str,
    revision: str | None = None,
    *,
    cache_dir: Path | None = None,
    offline: bool | None = None,
    tokenizer: bool = False,
    weights: bool = True,
    on_progress: Callable[[Progress], None] | None = None,
    settings: FetchSettings | None = None,
) -> Snapshot:
    """Make sure that a model is on this machine, whole; download it if need be.

    What is there and complete is used as it is, without the network: a branch is not asked again
        whether it has moved.

    Args:
        model: ``org/name``, or a folder (then nothing is ever downloaded).
        revision: branch, tag or commit; None is ``main``.
        cache_dir: Hugging Face cache; None is the environment's.
        offline: whether the network is forbidden; None is what ``HF_HUB_OFFLINE`` says.
        tokenizer: whether the snapshot must hold a tokenizer.
        weights: whether a folder must hold weights; what is downloaded is always whole.
        on_progress: called about once a second from another thread while bytes arrive, and while
            waiting for the lock.

    Raises:
        BenchmarkError: class recipe for a model, revision or permission that is not there,
            infrastructure for network, disk and weights that are missing offline.
    """
    settings = settings or FetchSettings()
    cache = expanded(cache_dir or default_cache_dir())
    snapshot = find_snapshot(model, revision, cache, tokenizer=tokenizer, weights=weights)
    if isinstance(snapshot, Snapshot):
        return snapshot
    if is_local_path(model):
        raise BenchmarkError(folder_failure(snapshot))
    if offline is None:
        offline = is_offline()
    if offline:
        raise BenchmarkError(offline_failure(snapshot, revision, cache))
    report = on_progress or (lambda _: None)
    with repository_lock(
        cache,
        model,
        kind=settings.lock,
        timeout=settings.lock_timeout,
        waiting=lambda: report(Progress(model, 0, 0, waiting=True)),
    ):
        snapshot = find_snapshot(model, revision, cache, tokenizer=tokenizer)
        if isinstance(snapshot, Snapshot):
            return snapshot
        return _fetch_with_retries(
            model, revision or DEFAULT_REVISION, cache, tokenizer, report, settings
        )


def fetch_configs(
    model: str,
    revision: str | None = None,
    *,
    cache_dir: Path | None = None,
    settings: FetchSettings | None = None,
) -> tuple[str, int]:
    """Bring everything of a model but its weights: config, tokenizer, quantization, the index of
    the weights. What the doctor needs; no server starts from it.

    Returns:
        Commit, and bytes that the hub says these files have; 0 where the model is there already,
        empty and 0 for a folder.

    Raises:
        BenchmarkError: as ``ensure_snapshot``.
    """
    if is_local_path(model):
        return "", 0
    settings = settings or FetchSettings()
    cache, endpoint = expanded(cache_dir or default_cache_dir()), hub_endpoint(settings)
    whole = find_snapshot(model, revision, cache)
    if isinstance(whole, Snapshot):  # a branch that moved would leave it without its weights
        return whole.commit, 0
    asked = revision or DEFAULT_REVISION
    if is_offline():
        raise BenchmarkError(
            offline_failure(Incomplete(model, "its config was asked for"), revision, cache)
        )
    with repository_lock(cache, model, kind=settings.lock, timeout=settings.lock_timeout):
        found = retrying(
            lambda: _fetch_small_files(model, asked, cache, endpoint, settings),
            lambda error: download_failure(error, model, asked, str(cache), endpoint),
            settings,
        )
        _write_ref(repository_folder(cache, model), asked, found[0])
    return found


def _fetch_small_files(
    model: str, revision: str, cache: Path, endpoint: str, settings: FetchSettings
) -> tuple[str, int]:
    from huggingface_hub import HfApi, snapshot_download

    cache.mkdir(parents=True, exist_ok=True)
    info = HfApi(endpoint=endpoint).model_info(model, revision=revision, files_metadata=True)
    sizes = {
        file.rfilename: file.size or 0
        for file in info.siblings or []
        if not any(fnmatch(file.rfilename, pattern) for pattern in (*_UNSERVED, *_WEIGHTS))
        and (file.size or 0) <= _LARGEST_CONFIG
    }
    snapshot_download(
        model,
        revision=str(info.sha),
        cache_dir=cache,
        endpoint=endpoint,
        allow_patterns=[_literal(name) for name in sizes],
        max_workers=settings.max_workers,
        tqdm_class=_silent_bar(),
    )
    return str(info.sha), sum(sizes.values())


def _fetch_with_retries(
    model: str,
    revision: str,
    cache: Path,
    tokenizer: bool,
    report: Callable[[Progress], None],
    settings: FetchSettings,
) -> Snapshot:
    endpoint = hub_endpoint(settings)

    def attempt() -> Snapshot | Incomplete:
        commit = _fetch_once(model, revision, cache, endpoint, report, settings)
        snapshot = find_snapshot(model, commit, cache, tokenizer=tokenizer)
        if isinstance(snapshot, Snapshot):
            _write_ref(repository_folder(cache, model), revision, commit)
        return snapshot

    found = retrying(
        attempt,
        lambda error: download_failure(error, model, revision, str(cache), endpoint),
        settings,
        is_whole=lambda snapshot: isinstance(snapshot, Snapshot),
    )
    if isinstance(found, Snapshot):
        return found
    raise BenchmarkError(still_incomplete(found, revision, endpoint))


def hub_endpoint(settings: FetchSettings) -> str:
    """Address of the hub, without a slash at its end."""
    return (settings.endpoint or os.environ.get("HF_ENDPOINT") or _DEFAULT_ENDPOINT).rstrip("/")


def retrying(
    attempt: Callable[[], _T],
    failure_of: Callable[[Exception], Failure],
    settings: FetchSettings,
    is_whole: Callable[[_T], bool] = lambda _: True,
) -> _T:
    """What an attempt at a download gives, tried again, with growing pauses, after transient errors
    and where it is not whole; the last attempt's where none is.

    Raises:
        BenchmarkError: of ``failure_of``, or as the attempt raised it.
    """
    pause = settings.backoff
    for number in range(1, settings.attempts + 1):
        last = number == settings.attempts
        try:
            found = attempt()
        except BenchmarkError:
            raise
        except Exception as error:  # the hub client passes on those of three libraries
            if last or not is_transient(error):
                raise BenchmarkError(failure_of(error)) from error
        else:
            if last or is_whole(found):
                return found
        time.sleep(pause)
        pause *= 2
    raise AssertionError("at least one attempt is made")


def _fetch_once(
    model: str,
    revision: str,
    cache: Path,
    endpoint: str,
    report: Callable[[Progress], None],
    settings: FetchSettings,
) -> str:
    """One download of the commit that the revision names now; returns the commit."""
    from huggingface_hub import HfApi, snapshot_download

    cache.mkdir(parents=True, exist_ok=True)
    info = HfApi(endpoint=endpoint).model_info(model, revision=revision, files_metadata=True)
    commit = str(info.sha)
    sizes = _served_files({file.rfilename: file.size for file in info.siblings or []})
    snapshot = repository_folder(cache, model) / "snapshots" / commit
    missing = _drop_damaged(snapshot, sizes)
    if missing:
        _check_space(model, missing, cache)
    with _progress_reports(model, repository_folder(cache, model) / "blobs", missing, report):
        snapshot_download(
            model,
            revision=commit,
            cache_dir=cache,
            endpoint=endpoint,
            allow_patterns=[_literal(name) for name in sizes],
            max_workers=settings.max_workers,
            tqdm_class=_silent_bar(),
        )
    return commit


def _served_files(sizes: dict[str, int | None]) -> dict[str, int | None]:
    """The files that a server may read: no foreign formats, and no ``*.bin`` where there are
    safetensors."""
    unserved = [*_UNSERVED]
    if any(name.endswith(".safetensors") for name in sizes):
        unserved.append("*.bin")
    return {
        name: size
        for name, size in sizes.items()
        if not any(fnmatch(name, pattern) for pattern in unserved)
    }


def _literal(name: str) -> str:
    """A file name as a pattern that matches it alone."""
    return "".join(f"[{char}]" if char in "*?[" else char for char in name)


def _drop_damaged(snapshot: Path, sizes: dict[str, int | None]) -> int:
    """Remove files that are not as the hub's, which the hub's client would keep; returns the bytes
    still missing."""
    missing = 0
    for name, size in sizes.items():
        path = snapshot / name
        if path.is_file() and (size is None or path.stat().st_size == size) and looks_whole(path):
            continue
        missing += size or 0
        if path.is_file():
            path.resolve().unlink()
        path.unlink(missing_ok=True)
    return missing


def _check_space(model: str, missing: int, cache: Path) -> None:
    free = shutil.disk_usage(cache).free
    if missing + _SPARE_BYTES > free:
        raise BenchmarkError(
            Failure(
                "disk-full",
                "infrastructure",
                f"{model} needs {missing / 2**30:.1f} GiB more in {cache}, which has "
                f"{free / 2**30:.1f} GiB free",
                remedy="Free space, or choose another --gpubench-cache-dir.",
            )
        )


@contextmanager
def _progress_reports(
    model: str, blobs: Path, missing: int, report: Callable[[Progress], None]
) -> Iterator[None]:
    """Report the growth of a folder until the block ends; the folder and not the client's bars,
    which differ by version."""
    before, done = _bytes_in(blobs), threading.Event()

    def watch() -> None:
        while not done.wait(_PROGRESS_SECONDS):
            report(Progress(model, min(max(_bytes_in(blobs) - before, 0), missing), missing))

    thread = threading.Thread(target=watch, name="gpubench-fetch-progress", daemon=True)
    thread.start()
    try:
        yield
        report(Progress(model, missing, missing))
    finally:
        done.set()
        thread.join()


def _bytes_in(folder: Path) -> int:
    total = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    total += entry.stat().st_size
                except OSError:
                    continue
    except OSError:
        return total
    return total


def _silent_bar() -> type[Any]:
    """The client's progress bar, never shown."""
    from huggingface_hub.utils.tqdm import tqdm

    class SilentBar(tqdm):  # type: ignore[misc, unused-ignore]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs["disable"] = True
            super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call, unused-ignore]

    return SilentBar


def _write_ref(repository: Path, revision: str, commit: str) -> None:
    """Record which commit a branch or tag is, after its files are there."""
    if revision != commit:
        write_text(repository / "refs" / revision, commit, what="the reference")


def local_path(address: str) -> Path:
    """Where a data set's file lies on this machine; never asks the network.

    Args:
        address: of the hub, or a path, which stays as it is.

    Raises:
        BenchmarkError: if it is not in the cache.
    """
    wanted = HUB_FILE.fullmatch(address)
    if wanted is None:
        return Path(address)
    repository, revision = wanted["repository"], wanted["revision"] or DEFAULT_REVISION
    from huggingface_hub import try_to_load_from_cache

    cache = default_cache_dir()
    found = try_to_load_from_cache(
        repository, wanted["file"], cache_dir=cache, revision=revision, repo_type="dataset"
    )
    if isinstance(found, str) and Path(found).is_file():
        return Path(found)
    raise BenchmarkError(
        Failure(
            "dataset-missing",
            "infrastructure",
            f"the data set {address} is not in the cache {cache}",
            remedy="Run gpubench fetch where the network is allowed, then run again.",
        )
    )


def fetch_dataset(address: str, settings: FetchSettings | None = None) -> Path:
    """Make sure that a data set's file is in this environment's cache; a path of this machine stays
    as it is.

    Raises:
        BenchmarkError: class recipe for what is not there or may not be read, infrastructure for
            network and disk.
    """
    wanted = HUB_FILE.fullmatch(address)
    if wanted is None:
        return Path(address)
    repository, revision = wanted["repository"], wanted["revision"] or DEFAULT_REVISION
    try:
        return local_path(address)
    except BenchmarkError:
        if is_offline():
            raise
    from huggingface_hub import hf_hub_download

    settings = settings or FetchSettings()
    cache, endpoint = default_cache_dir(), hub_endpoint(settings)
    name = f"datasets/{repository}"
    with repository_lock(cache, name, kind=settings.lock, timeout=settings.lock_timeout):
        return retrying(
            lambda: Path(
                hf_hub_download(
                    repository,
                    wanted["file"],
                    repo_type="dataset",
                    revision=revision,
                    cache_dir=cache,
                    endpoint=endpoint,
                )
            ),
            lambda error: download_failure(error, name, revision, os.fspath(cache), endpoint),
            settings,
        )
