"""Weights of a server, target and draft, made present before the server starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pytest_gpubench.demo.m3mini import M3MINI_REPOSITORIES, write_m3mini
from pytest_gpubench.demo.models import DEMO_REPOSITORIES, write_demo_models
from pytest_gpubench.domain.specs import ServerSpec
from pytest_gpubench.host.hub.fetch import Progress, ensure_snapshot
from pytest_gpubench.host.hub.local import default_cache_dir


def fetch_weights(
    spec: ServerSpec, cache_dir: Path | None, on_progress: Callable[[Progress], None] | None = None
) -> dict[str, str | None]:
    """Commit by repository of everything that the server loads; what is missing is downloaded under a lock.

    The embedded pair and the shrunken MiniMax-M3 are written from the package instead: they are on no hub. A folder of one's own
    has no commit.

    Raises:
        BenchmarkError: where a repository cannot be had, with cause and remedy.
    """
    cache = cache_dir or default_cache_dir()
    wanted = [(spec.model, spec.revision, True)]
    if spec.speculative is not None and spec.speculative.model is not None:
        wanted.append((spec.speculative.model, spec.speculative.revision, False))
    if any(repository in DEMO_REPOSITORIES for repository, _, _ in wanted):
        write_demo_models(cache)
    if any(repository in M3MINI_REPOSITORIES for repository, _, _ in wanted):
        write_m3mini(cache)
    commits: dict[str, str | None] = {}
    for repository, revision, tokenizer in wanted:
        snapshot = ensure_snapshot(repository, revision, cache_dir=cache, tokenizer=tokenizer, on_progress=on_progress)
        commits[repository] = snapshot.commit or None
    return commits
