"""Writes demo models into a Hugging Face cache or a folder: the trained pair, or a random Llama of any size and its draft."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from pytest_gpubench.demo.repository import publish_repository
from pytest_gpubench.demo.tokenizer import BOS_ID, EOS_ID, VOCAB_SIZE, draft_token_ids, text_token_ids, to_json, tokenizer_files
from pytest_gpubench.demo.trained import write_trained_draft, write_trained_target
from pytest_gpubench.demo.weights import (
    LlamaShape,
    Tensor,
    draft_config,
    draft_tensors,
    generation_config,
    target_config,
    target_tensors,
)

DEMO_TARGET = "pytest-gpubench/tiny-llama"
DEMO_DRAFT = "pytest-gpubench/tiny-llama-eagle3"
DEMO_REPOSITORIES = (DEMO_TARGET, DEMO_DRAFT)

DRAFT_SUFFIX = "-eagle3"
_DRAFT_VOCAB = 1024
_SHARD_BYTES = 2 << 30


def write_demo_models(cache_dir: Path) -> dict[str, str]:
    """Write the trained pair into a Hugging Face cache, where an engine with ``HF_HUB_OFFLINE=1`` finds it.

    Safe to call at any time, from several processes at once: what is there and intact stays, what is damaged is replaced.

    Returns:
        Commit by repository; the same on every machine.

    Raises:
        GpubenchError: if the cache cannot be written, or the package's own copy of the weights is damaged.
    """
    return {
        DEMO_TARGET: publish_repository(cache_dir, DEMO_TARGET, write_trained_target),
        DEMO_DRAFT: publish_repository(cache_dir, DEMO_DRAFT, write_trained_draft),
    }


def write_random_models(cache_dir: Path, repo: str, shape: LlamaShape, *, seed: int = 0) -> dict[str, str]:
    """Write a random Llama of any size as ``repo`` (``org/name``) and its EAGLE3 draft as ``repo-eagle3`` into a cache.

    Returns:
        Commit by repository.

    Raises:
        GpubenchError: for impossible sizes, or a cache that cannot be written.
    """
    shape.check(VOCAB_SIZE)
    draft = repo + DRAFT_SUFFIX
    return {
        repo: publish_repository(cache_dir, repo, lambda folder: write_random_model(folder, shape, seed=seed)),
        draft: publish_repository(cache_dir, draft, lambda folder: write_random_draft(folder, shape, seed=seed)),
    }


def write_random_model(folder: Path, shape: LlamaShape, *, seed: int = 0, shard_bytes: int = _SHARD_BYTES) -> None:
    """Write a random Llama with tokenizer, chat template and generation config into a folder (made if missing).

    Memory: about one shard. Files of the same names are overwritten.

    Raises:
        GpubenchError: for impossible sizes.
    """
    shape.check(VOCAB_SIZE)
    folder.mkdir(parents=True, exist_ok=True)
    _write_weights(folder, target_tensors(shape, seed, text_token_ids()), shard_bytes)
    _write_files(
        folder,
        {
            "config.json": to_json(target_config(shape, BOS_ID, EOS_ID)),
            "generation_config.json": to_json(generation_config()),
            **tokenizer_files(shape.max_position),
            "README.md": _card(f"A Llama with random weights (seed {seed}): it writes random words."),
        },
    )


def write_random_draft(folder: Path, shape: LlamaShape, *, seed: int = 0) -> None:
    """Write a random EAGLE3 draft for a target of this shape into a folder (made if missing).

    Raises:
        GpubenchError: for impossible sizes.
    """
    shape.check(VOCAB_SIZE)
    folder.mkdir(parents=True, exist_ok=True)
    ids = draft_token_ids(_DRAFT_VOCAB)
    _write_weights(folder, draft_tensors(shape, seed, ids), _SHARD_BYTES)
    _write_files(
        folder,
        {
            "config.json": to_json(draft_config(shape, len(ids), BOS_ID, EOS_ID)),
            "README.md": _card(f"An EAGLE3 draft with random weights (seed {seed}): its target accepts next to nothing of it."),
        },
    )


def _card(words: str) -> bytes:
    return f"---\nlicense: apache-2.0\n---\n{words}\nWritten by pytest-gpubench, for tests and demonstrations.\n".encode()


def _write_files(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _write_weights(folder: Path, tensors: Iterable[Tensor], shard_bytes: int) -> None:
    """One ``model.safetensors``, or shards with an index where they are larger than ``shard_bytes``."""
    shards: list[list[str]] = []
    parts: list[Path] = []
    pending: list[Tensor] = []
    total, size = 0, 0
    for tensor in chain(tensors, [None]):
        if pending and (tensor is None or size + len(tensor.data) > shard_bytes):
            parts.append(folder / f"part-{len(parts)}.safetensors")
            shards.append([held.name for held in pending])
            _write_shard(parts[-1], pending)
            pending, size = [], 0
        if tensor is not None:
            pending.append(tensor)
            size += len(tensor.data)
            total += len(tensor.data)
    if len(parts) == 1:
        parts[0].rename(folder / "model.safetensors")
        return
    names = [f"model-{number:05d}-of-{len(parts):05d}.safetensors" for number in range(1, len(parts) + 1)]
    for part, name in zip(parts, names, strict=True):
        part.rename(folder / name)
    weight_map = {tensor: name for name, held in zip(names, shards, strict=True) for tensor in held}
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def _write_shard(path: Path, tensors: list[Tensor]) -> None:
    """Write a safetensors file: header length, JSON header, tensors back to back.

    Written here and not by the library, whose numpy side has no bfloat16 and whose raw interface changes between versions.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + len(tensor.data)],
        }
        offset += len(tensor.data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.writelines(tensor.data for tensor in tensors)
