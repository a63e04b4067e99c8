"""What of a model is on this machine: reads a cache or a folder, never the network.

Complete means that a server which starts now, offline, finds every file: the reference resolves, no
link dangles, config.json is there, and every weight file has the length that its own header states.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from pytest_gpubench.host.files import expanded, make_private_folder, not_private
from pytest_gpubench.host.host_facts import cgroup_limits
from pytest_gpubench.model.frozen import is_whole

DEFAULT_REVISION = "main"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tekken.json",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "tiktoken.model",
)
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_MAX_HEADER = 100_000_000


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A complete model on this machine."""

    model: str
    """As the recipe writes it: ``org/name`` or a folder."""
    path: Path
    commit: str = ""
    """40 hex digits; empty for a folder outside the cache, which has no revision."""


@dataclass(frozen=True, slots=True)
class Incomplete:
    """Why a model cannot be served from this machine, as part of a sentence: ``model.safetensors is
    missing``."""

    model: str
    reason: str
    started: bool = False
    """True where part of it is there, so a download broke off; False where nothing is."""


def is_local_path(model: str) -> bool:
    """Whether a model is named by folder: an existing folder, or written like a path."""
    return model.startswith(("/", "./", "../", "~")) or model in (".", "..") or Path(model).is_dir()


def default_cache_dir(env: Mapping[str, str] | None = None) -> Path:
    """The hub cache that this environment names, by the hub's own rules."""
    env = os.environ if env is None else env
    if explicit := env.get("HF_HUB_CACHE") or env.get("HUGGINGFACE_HUB_CACHE"):
        return expanded(explicit)
    if home := env.get("HF_HOME"):
        return expanded(home) / "hub"
    return user_cache_dir(env) / "huggingface" / "hub"


def user_cache_dir(env: Mapping[str, str] | None = None) -> Path:
    """The folder for caches of this user: ``XDG_CACHE_HOME``, else ``~/.cache``."""
    env = os.environ if env is None else env
    cache = expanded(env.get("XDG_CACHE_HOME") or "~/.cache")
    if not cache.is_absolute() and not env.get("XDG_CACHE_HOME"):
        cache = _cache_without_home()
    return cache


@functools.cache
def _cache_without_home() -> Path:
    """For a user without a home folder: below the temporary folder, where nobody else can have put
    anything."""
    folder = Path(tempfile.gettempdir(), f"gpubench-{os.getuid()}")
    try:
        make_private_folder(folder)
        if not not_private(folder):
            return folder / "cache"
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="gpubench-"), "cache")


def server_cache_dir(given: Path | None) -> Path | None:
    """The cache that a server must be told of: the one that was given, or ours where it would find
    no home folder."""
    default = default_cache_dir()
    if given is None and _cache_without_home.cache_info().currsize > 0:
        return default if default.is_relative_to(_cache_without_home()) else None
    return given


def is_offline(env: Mapping[str, str] | None = None) -> bool:
    """Whether this environment forbids the network, by the hub's own rules."""
    env = os.environ if env is None else env
    said = env.get("HF_HUB_OFFLINE") or env.get("TRANSFORMERS_OFFLINE") or ""
    return said.upper() in ("1", "ON", "YES", "TRUE")


def repository_folder(cache_dir: Path, repo: str) -> Path:
    """Where a cache keeps a model repository (``org/name``)."""
    return cache_dir / f"models--{repo.replace('/', '--')}"


def find_snapshot(
    model: str,
    revision: str | None,
    cache_dir: Path,
    *,
    tokenizer: bool = False,
    weights: bool = True,
) -> Snapshot | Incomplete:
    """Look for a model, complete, in the cache (or as a folder); reads files, changes nothing.

    Args:
        model: ``org/name``, or a folder.
        revision: branch, tag or commit; None is ``main``. A folder has none.
        cache_dir: the Hugging Face cache.
        tokenizer: whether tokenizer files are expected (a target needs them, a draft does not).
        weights: whether it must hold weights (``load-format: dummy`` reads none).
    """
    if is_local_path(model):
        folder = expanded(model)
        if not folder.is_dir():
            return Incomplete(model, f"there is no folder {folder}")
        reason = _missing_part(folder, tokenizer, weights)
        return Incomplete(model, reason, True) if reason else Snapshot(model, folder)
    try:
        return _find_in_cache(model, revision, cache_dir, tokenizer, weights)
    except OSError as error:  # a folder of somebody else's
        return Incomplete(model, f"the cache {cache_dir} cannot be read: {error.strerror or error}")


def _find_in_cache(
    model: str, revision: str | None, cache_dir: Path, tokenizer: bool, weights: bool
) -> Snapshot | Incomplete:
    repository = repository_folder(cache_dir, model)
    if not repository.is_dir():
        return Incomplete(model, f"it is not in the cache {cache_dir}")
    commit = resolve_commit(repository, revision or DEFAULT_REVISION)
    if commit is None:
        return Incomplete(
            model,
            f"the cache {cache_dir} does not hold its revision {revision or DEFAULT_REVISION}",
        )
    snapshot = repository / "snapshots" / commit
    if not snapshot.is_dir():
        return Incomplete(
            model,
            f"the cache {cache_dir} knows its commit {commit[:12]} but holds no file of it",
            True,
        )
    reason = _missing_part(snapshot, tokenizer, weights)
    if reason:
        return Incomplete(model, f"{reason} (in {snapshot})", True)
    return Snapshot(model, snapshot, commit)


def resolve_commit(repository: Path, revision: str) -> str | None:
    """The commit of a branch, tag or commit as the cache last saw it; None if it never did."""
    if _COMMIT.fullmatch(revision):
        return revision
    if ".." in Path(revision).parts:
        return None
    try:
        commit = (repository / "refs" / revision).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
    return commit if _COMMIT.fullmatch(commit) else None


def looks_whole(path: Path) -> bool:
    """Whether what a file says about itself holds: JSON parses, safetensors are as long as their
    header states.

    A file may have the right length and yet be full of zeros, after a power failure. Files that say
    nothing count as whole.
    """
    try:
        if path.name == "config.json" or path.name in _INDEXES:
            _json(path)
        elif path.suffix == ".safetensors":
            return _stated_size(path, path.name) == path.stat().st_size
    except _UnreadableError:
        return False
    return True


def _missing_part(folder: Path, tokenizer: bool, with_weights: bool = True) -> str:
    """What keeps a folder from being a complete model; empty if nothing does."""
    try:
        present = dict(_files(folder))
        dangling = sorted(name for name, size in present.items() if size is None)
        if dangling:
            return f"{dangling[0]} is a link to a file that is gone"
        description = _description(present)
        if not description:
            return "config.json is missing"
        if description.endswith(".json"):
            _json(folder / description)
        weights = with_weights and _weight_files(folder, present)
        if with_weights and not weights:
            return "it holds no weights (no *.safetensors, *.bin, *.gguf)"
        for name in weights or ():
            if problem := _weight_problem(folder / name, name, present.get(name)):
                return problem
        if tokenizer and not any(present.get(name) for name in _TOKENIZER_FILES):
            return f"it holds no tokenizer ({', '.join(_TOKENIZER_FILES[:3])}, ...)"
    except _UnreadableError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename or folder} cannot be read: {error.strerror or error}"
    return ""


def _description(present: Mapping[str, int | None]) -> str:
    """The file that describes the model: config.json, Mistral's params.json beside its own weights,
    or a GGUF file, which describes itself; empty: none."""
    if present.get("config.json"):
        return "config.json"
    own = any(name.startswith("consolidated") for name in present)
    if present.get("params.json") and own:
        return "params.json"
    return next((name for name in sorted(present) if name.endswith(".gguf")), "")


def weight_size(folder: Path) -> int | None:
    """Bytes of the weight files of a model's folder: as they are or, where some are not there, as
    their index says; None where nothing does."""
    try:
        present = dict(_files(folder))
        sizes = [present.get(name) for name in _weight_files(folder, present)]
        known = [size for size in sizes if size]
        if known and len(known) == len(sizes):
            return sum(known)
        return next(filter(None, (_indexed_size(folder / name) for name in _INDEXES)), None)
    except (_UnreadableError, OSError):
        return None


def weight_paths(folder: Path) -> tuple[Path, ...]:
    """The weight files of a model's folder that are there; none where nobody can tell."""
    try:
        present = dict(_files(folder))
        names = _weight_files(folder, present)
    except (_UnreadableError, OSError):
        return ()
    return tuple(folder / name for name in names if present.get(name))


def _indexed_size(index: Path) -> int | None:
    """What an index says that its weights hold."""
    metadata = _json(index).get("metadata") if index.is_file() else None
    size = metadata.get("total_size") if isinstance(metadata, dict) else None
    return size if is_whole(size) and size > 0 else None


class _UnreadableError(Exception):
    pass


def _files(folder: Path) -> Iterator[tuple[str, int | None]]:
    """Relative name and size of every file; None as the size of a dangling link."""

    def fail(error: OSError) -> None:
        raise error

    for root, _, names in os.walk(folder, onerror=fail):
        for name in names:
            path = Path(root, name)
            try:
                size: int | None = path.stat().st_size
            except FileNotFoundError:
                size = None
            yield path.relative_to(folder).as_posix(), size


def _weight_files(folder: Path, present: Mapping[str, int | None]) -> list[str]:
    for index in _INDEXES:
        if index in present:
            weight_map = _json(folder / index).get("weight_map")
            if not isinstance(weight_map, dict) or not weight_map:
                raise _UnreadableError(f"{index} names no weights")
            return sorted({str(shard) for shard in weight_map.values()})
    at_top = sorted(name for name in present if "/" not in name)
    tensors = [name for name in at_top if name.endswith(".safetensors")]
    # Mistral's own format lies beside the other one.
    tensors = [name for name in tensors if not name.startswith("consolidated")] or tensors
    others = ([name for name in at_top if name.endswith(end)] for end in (".bin", ".gguf"))
    return tensors or next(filter(None, others), [])


def _weight_problem(path: Path, name: str, size: int | None) -> str:
    if size is None:
        return f"{name} is missing"
    if size == 0:
        return f"{name} is empty"
    if not name.endswith(".safetensors"):
        return ""
    expected = _stated_size(path, name)
    if expected != size:
        return f"{name} holds {size} bytes of {expected}"
    return ""


def _stated_size(path: Path, name: str) -> int:
    """The length of a safetensors file by its own header."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _MAX_HEADER:
            raise _UnreadableError(f"{name} is not a safetensors file")
        try:
            header = json.loads(file.read(length))
            ends = [
                entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"
            ]
            if not ends:
                raise _UnreadableError(f"{name} holds no tensor")
            return 8 + length + max(map(int, ends))
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise _UnreadableError(
                f"{name} has no readable safetensors header (a broken download)"
            ) from error


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _UnreadableError(f"{path.name} is not JSON (a broken download)") from error
    if not isinstance(value, dict):
        raise _UnreadableError(f"{path.name} is not a JSON object")
    return value


_AHEAD_STEP = 128 * 2**10
"""Bytes of one request: Linux reads no more for it where a disk's own limit is the usual one."""
_AHEAD_SHARE = 0.5
"""Of the memory that is available: the server itself needs the same bytes once more."""
_AHEAD_END_S = 5.0


@contextmanager
def reading_ahead(paths: Sequence[Path]) -> Iterator[None]:
    """Let the kernel read these files while the block runs, in their order, where memory has room
    for all of them: by the time that a server reads its weights they are in the page cache.

    Nothing is copied: the kernel skips what it has. A start is the one time at which that disturbs
    no number. Files that cannot be read are somebody else's to complain of.
    """
    leave = threading.Event()
    thread = threading.Thread(
        target=_read_ahead, args=(tuple(paths), leave), name="gpubench-read-ahead", daemon=True
    )
    fits = has_room(sum(map(_size, paths)), available_memory())
    if fits:
        thread.start()
    try:
        yield
    finally:
        leave.set()
        if fits:
            thread.join(_AHEAD_END_S)  # a request may hang on a file system that does


def has_room(size: int, available: int) -> bool:
    """Whether files of this many bytes are read ahead."""
    return 0 < size <= available * _AHEAD_SHARE


def available_memory() -> int:
    """Bytes that may be used before something else has to go."""
    limit = cgroup_limits()[1]
    free = int(psutil.virtual_memory().available)
    return free if limit is None else min(free, limit)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0


def _read_ahead(paths: Sequence[Path], leave: threading.Event) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            try:
                for offset in range(0, _size(path), _AHEAD_STEP):
                    if leave.is_set():
                        return
                    os.posix_fadvise(descriptor, offset, _AHEAD_STEP, os.POSIX_FADV_WILLNEED)
            finally:
                os.close(descriptor)
