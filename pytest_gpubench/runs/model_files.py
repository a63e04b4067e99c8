"""Weights of a server, target and draft, made present before the server starts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from pytest_gpubench.demo.models import DEMO_REPOSITORIES, write_demo_models
from pytest_gpubench.dialects.command_line import DRAFT_WEIGHTS, WEIGHTS
from pytest_gpubench.dialects.dialect import Dialect
from pytest_gpubench.dialects.registry import dialect_of
from pytest_gpubench.host.hub.fetch import Progress, ensure_snapshot, fetch_configs
from pytest_gpubench.host.hub.local import Snapshot, default_cache_dir, find_snapshot, weight_paths
from pytest_gpubench.model.failures import BenchmarkError, Failure
from pytest_gpubench.model.specs import ServerSpec


class Wanted(NamedTuple):
    """A model that a server loads, and what of it must be there."""

    repository: str
    """Or a folder."""
    revision: str | None
    tokenizer: bool
    weights: bool


def models_of(spec: ServerSpec) -> list[Wanted]:
    """Target and draft of a server; dummy weights are made up by the engine."""
    dialect = dialect_of(spec.framework)
    read = not dialect.made_up_weights(spec)
    # a file of weights that an engine takes by itself holds the tokenizer, too
    wanted = [Wanted(spec.model, spec.revision, not dialect.takes_files, read)]
    draft = spec.speculative
    if draft is not None and draft.model is not None:
        config = draft.options.get("draft_load_config")
        own = config.get("load_format") if isinstance(config, Mapping) else None
        read = own != "dummy" if own is not None else read
        wanted.append(Wanted(draft.model, draft.revision, False, read))
    return wanted


def _with_demo_models(spec: ServerSpec, cache: Path) -> list[Wanted]:
    """What a server loads; the embedded pair is written where it belongs to that: it is on no
    hub."""
    wanted = models_of(spec)
    if any(one.repository in DEMO_REPOSITORIES for one in wanted):
        write_demo_models(cache)
    return wanted


def fetch_descriptions(
    spec: ServerSpec, cache_dir: Path | None, known: Collection[str] = ()
) -> dict[str, tuple[str, int]]:
    """Commit and bytes by repository of what describes the server's models: all but their weights;
    without those that are known.

    Raises:
        BenchmarkError: where a repository cannot be had, with cause and remedy.
    """
    cache = cache_dir or default_cache_dir()
    wanted = _with_demo_models(spec, cache)
    return {
        one.repository: fetch_configs(one.repository, one.revision, cache_dir=cache)
        for one in wanted
        if one.repository not in (*DEMO_REPOSITORIES, *known)
    }


def weights_files(spec: ServerSpec, cache_dir: Path | None) -> dict[str, str]:
    """Files of weights by their place on the command line, for an engine that takes files instead
    of repositories; they have been fetched.

    Raises:
        BenchmarkError: where it cannot be told which file is meant.
    """
    dialect = dialect_of(spec.framework)
    if not dialect.takes_files:
        return {}
    places = (WEIGHTS, DRAFT_WEIGHTS)
    cache = cache_dir or default_cache_dir()
    return {
        place: _weights_file(dialect, spec, one, cache)
        for place, one in zip(places, models_of(spec), strict=False)
    }


def files_of_weights(spec: ServerSpec, cache_dir: Path | None) -> tuple[Path, ...]:
    """All files of weights that a server will read, target first; they have been fetched."""
    named = weights_files(spec, cache_dir)
    if named:
        return tuple(Path(path) for path in named.values())
    cache = cache_dir or default_cache_dir()
    found = [
        find_snapshot(one.repository, one.revision, cache, tokenizer=one.tokenizer)
        for one in models_of(spec)
        if one.weights
    ]
    folders = [one.path for one in found if isinstance(one, Snapshot)]
    return tuple(path for folder in folders for path in weight_paths(folder))


def _weights_file(dialect: Dialect, spec: ServerSpec, one: Wanted, cache: Path) -> str:
    snapshot = find_snapshot(one.repository, one.revision, cache, tokenizer=False)
    names = []
    if isinstance(snapshot, Snapshot):
        names = [path.name for path in snapshot.path.iterdir()]
    chosen = dialect.weights_file(names, spec)
    if chosen is None or not isinstance(snapshot, Snapshot):
        listed = ", ".join(sorted(names)) or "nothing"
        summary = (
            f"{dialect.title} is given one file of weights, and {one.repository} does not tell "
            f"which: it holds {listed}"
        )
        raise BenchmarkError(
            Failure("weights-file", "recipe", summary, remedy="Name the file: serve.hf-file.")
        )
    return str(snapshot.path / chosen)


def fetch_weights(
    spec: ServerSpec, cache_dir: Path | None, on_progress: Callable[[Progress], None] | None = None
) -> dict[str, str | None]:
    """Commit by repository of everything that the server loads; what is missing is downloaded under
    a lock.

    The embedded pair is written from the package instead: it is on no hub. A folder of one's own
        has no commit.

    Raises:
        BenchmarkError: where a repository cannot be had, with cause and remedy.
    """
    cache = cache_dir or default_cache_dir()
    wanted = _with_demo_models(spec, cache)
    commits: dict[str, str | None] = {}
    for one in wanted:
        snapshot = ensure_snapshot(
            one.repository,
            one.revision,
            cache_dir=cache,
            tokenizer=one.tokenizer,
            weights=one.weights,
            on_progress=on_progress,
        )
        commits[one.repository] = snapshot.commit or None
    return commits
