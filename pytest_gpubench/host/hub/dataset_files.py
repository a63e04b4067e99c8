"""Data sets on the Hugging Face hub, addressed file by file:
``hf://datasets/ORG/NAME[@REVISION]/FILE``, as huggingface_hub writes it."""

from __future__ import annotations

import os
from pathlib import Path

from pytest_gpubench.host.hub.download_failures import download_failure
from pytest_gpubench.host.hub.fetch import FetchSettings, hub_endpoint, retrying
from pytest_gpubench.host.hub.local import DEFAULT_REVISION, default_cache_dir, is_offline
from pytest_gpubench.host.hub.repository_locks import repository_lock
from pytest_gpubench.model.failures import BenchmarkError, Failure
from pytest_gpubench.model.workload import HUB_FILE


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
