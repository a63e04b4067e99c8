"""A random Llama of any size and an EAGLE3 draft for it, in bfloat16, without torch.

Every tensor is drawn from its own stream, keyed by seed and name, and made by integer arithmetic
from the raw bits of PCG64: the files are the same byte for byte on every machine and numpy version.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from pytest_gpubench.demo.models import LlamaShape, draft_config, generation_config, target_config
from pytest_gpubench.demo.repository import publish_repository
from pytest_gpubench.demo.tokenizer import (
    BOS_ID,
    EOS_ID,
    SPACE,
    VOCAB_SIZE,
    to_json,
    tokenizer_files,
    vocabulary,
    words,
)
from pytest_gpubench.model.failures import GpubenchError

Floats: TypeAlias = "NDArray[np.float32]"

DRAFT_SUFFIX = "-eagle3"
_DRAFT_VOCAB = 1024
_SHARD_BYTES = 2 << 30
_BIAS_CHANNEL = 0
_BIAS = 4.0
_FORBID = -16.0
_PUNCTUATION = ".,?!:"


def text_token_ids() -> list[int]:
    """Ids that a demo model may write: words and punctuation, so that any output is valid text and
    encodes back to itself."""
    table = vocabulary()
    return [table[SPACE + word] for word in words()] + [table[mark] for mark in _PUNCTUATION]


def draft_token_ids(count: int) -> list[int]:
    """The ids of the first ``count`` words, ascending: the smaller vocabulary of an EAGLE3
    draft."""
    table = vocabulary()
    return [table[SPACE + word] for word in words()[:count]]


def write_random_models(
    cache_dir: Path, repo: str, shape: LlamaShape, *, seed: int = 0
) -> dict[str, str]:
    """Write a random Llama of any size as ``repo`` (``org/name``) and its EAGLE3 draft as
    ``repo-eagle3`` into a cache.

    Returns:
        Commit by repository.

    Raises:
        GpubenchError: for impossible sizes, or a cache that cannot be written.
    """
    _check(shape)
    draft = repo + DRAFT_SUFFIX
    return {
        repo: publish_repository(
            cache_dir, repo, lambda folder: write_random_model(folder, shape, seed=seed)
        ),
        draft: publish_repository(
            cache_dir, draft, lambda folder: write_random_draft(folder, shape, seed=seed)
        ),
    }


def _check(shape: LlamaShape) -> None:
    """Check that the sizes make a model.

    Raises:
        GpubenchError: naming the size to change.
    """
    for name, value in (
        ("hidden", shape.hidden),
        ("heads", shape.heads),
        ("kv-heads", shape.kv_heads),
        ("head-dim", shape.head_dim),
    ):
        if value < 1:
            raise GpubenchError(f"demo model: {name} is {value}; give at least 1")
    if shape.intermediate < 1 or shape.max_position < 1:
        raise GpubenchError(
            f"demo model: intermediate ({shape.intermediate}) and max-position "
            f"({shape.max_position}) must be positive"
        )
    if shape.layers < 4:
        raise GpubenchError(
            f"demo model: layers is {shape.layers}; give at least 4, a draft reads "
            "three different ones of them"
        )
    if shape.heads % shape.kv_heads:
        raise GpubenchError(
            f"demo model: heads ({shape.heads}) must be a multiple of kv-heads ({shape.kv_heads})"
        )
    if shape.vocab < VOCAB_SIZE:
        raise GpubenchError(
            f"demo model: vocab is {shape.vocab}; the tokenizer has {VOCAB_SIZE} "
            "ids, give at least that"
        )


def write_random_model(
    folder: Path, shape: LlamaShape, *, seed: int = 0, shard_bytes: int = _SHARD_BYTES
) -> None:
    """Write a random Llama with tokenizer, chat template and generation config into a folder (made
    if missing).

    Memory: about one shard. Files of the same names are overwritten.

    Raises:
        GpubenchError: for impossible sizes.
    """
    _check(shape)
    folder.mkdir(parents=True, exist_ok=True)
    _write_weights(folder, target_tensors(shape, seed, text_token_ids()), shard_bytes)
    _write_files(
        folder,
        {
            "config.json": to_json(target_config(shape, BOS_ID, EOS_ID)),
            "generation_config.json": to_json(generation_config()),
            **tokenizer_files(shape.max_position),
            "README.md": _card(
                f"A Llama with random weights (seed {seed}): it writes random words."
            ),
        },
    )


def write_random_draft(folder: Path, shape: LlamaShape, *, seed: int = 0) -> None:
    """Write a random EAGLE3 draft for a target of this shape into a folder (made if missing).

    Raises:
        GpubenchError: for impossible sizes.
    """
    _check(shape)
    folder.mkdir(parents=True, exist_ok=True)
    ids = draft_token_ids(_DRAFT_VOCAB)
    _write_weights(folder, draft_tensors(shape, seed, ids), _SHARD_BYTES)
    _write_files(
        folder,
        {
            "config.json": to_json(draft_config(shape, len(ids), BOS_ID, EOS_ID)),
            "README.md": _card(
                f"An EAGLE3 draft with random weights (seed {seed}): its target accepts "
                "next to nothing of it."
            ),
        },
    )


def _card(words: str) -> bytes:
    return (
        f"---\nlicense: apache-2.0\n---\n{words}\nWritten by pytest-gpubench, for tests and "
        "demonstrations.\n"
    ).encode()


def _write_files(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _write_weights(folder: Path, tensors: Iterable[Tensor], shard_bytes: int) -> None:
    """One ``model.safetensors``, or shards with an index where they are larger than
    ``shard_bytes``."""
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
    names = [
        f"model-{number:05d}-of-{len(parts):05d}.safetensors" for number in range(1, len(parts) + 1)
    ]
    for part, name in zip(parts, names, strict=True):
        part.rename(folder / name)
    weight_map = {tensor: name for name, held in zip(names, shards, strict=True) for tensor in held}
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def _write_shard(path: Path, tensors: list[Tensor]) -> None:
    """Write a safetensors file: header length, JSON header, tensors back to back.

    Written here and not by the library, whose numpy side has no bfloat16 and whose raw interface
    changes between versions.
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


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor as safetensors stores it; ``dtype`` in the spelling of safetensors' header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes


def target_tensors(shape: LlamaShape, seed: int, writable_ids: Sequence[int]) -> Iterator[Tensor]:
    """The weights of a Llama target, in the order of its layers.

    Channel 0 of the residual stream is the same constant at every position, since embeddings set it
    and no layer writes to it. The head uses it to push every id outside ``writable_ids`` out of
    reach, as a bias would that Llama does not have.
    """
    hidden, out_std = shape.hidden, 1 / math.sqrt(2 * shape.layers)
    embed = _uniform(seed, "model.embed_tokens.weight", (shape.vocab, hidden), 1.0)
    embed[:, _BIAS_CHANNEL] = _BIAS
    yield _bf16("model.embed_tokens.weight", embed)
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}."
        yield from _block(shape, seed, prefix, hidden, shape.kv_heads, out_std)
        yield _ones(f"{prefix}input_layernorm.weight", hidden)
        yield _ones(f"{prefix}post_attention_layernorm.weight", hidden)
    yield _ones("model.norm.weight", hidden)
    head = _uniform(seed, "lm_head.weight", (shape.vocab, hidden), 1 / math.sqrt(hidden))
    head[:, _BIAS_CHANNEL] = _FORBID
    head[list(writable_ids), _BIAS_CHANNEL] = 0.0
    yield _bf16("lm_head.weight", head)


def draft_tensors(shape: LlamaShape, seed: int, draft_ids: Sequence[int]) -> Iterator[Tensor]:
    """The weights of an EAGLE3 draft (one layer, MHA), named as vLLM's ``llama_eagle3`` loads them;
    embeddings are the target's."""
    hidden = shape.hidden
    offsets = np.asarray(draft_ids, dtype="<i8") - np.arange(len(draft_ids), dtype="<i8")
    yield Tensor("d2t", "I64", offsets.shape, offsets.tobytes())
    yield _bf16(
        "fc.weight", _uniform(seed, "fc.weight", (hidden, 3 * hidden), 1 / math.sqrt(3 * hidden))
    )
    yield from _block(shape, seed, "midlayer.", 2 * hidden, shape.heads, 1 / math.sqrt(2))
    for norm in (
        "midlayer.hidden_norm",
        "midlayer.input_layernorm",
        "midlayer.post_attention_layernorm",
        "norm",
    ):
        yield _ones(f"{norm}.weight", hidden)
    yield _bf16(
        "lm_head.weight",
        _uniform(seed, "draft.lm_head.weight", (len(draft_ids), hidden), 1 / math.sqrt(hidden)),
    )


def _block(
    shape: LlamaShape, seed: int, prefix: str, attention_input: int, kv_heads: int, out_std: float
) -> Iterator[Tensor]:
    hidden, wide = shape.hidden, shape.heads * shape.head_dim
    into = 1 / math.sqrt(attention_input)
    sizes = {
        "self_attn.q_proj": (wide, attention_input, into),
        "self_attn.k_proj": (kv_heads * shape.head_dim, attention_input, into),
        "self_attn.v_proj": (kv_heads * shape.head_dim, attention_input, into),
        "self_attn.o_proj": (hidden, wide, out_std / math.sqrt(wide)),
        "mlp.gate_proj": (shape.intermediate, hidden, 1 / math.sqrt(hidden)),
        "mlp.up_proj": (shape.intermediate, hidden, 1 / math.sqrt(hidden)),
        "mlp.down_proj": (hidden, shape.intermediate, out_std / math.sqrt(shape.intermediate)),
    }
    for part, (rows, columns, std) in sizes.items():
        values = _uniform(seed, f"{prefix}{part}.weight", (rows, columns), std)
        if part.endswith(("o_proj", "down_proj")):
            values[_BIAS_CHANNEL] = 0.0
        yield _bf16(f"{prefix}{part}.weight", values)


def _uniform(seed: int, name: str, shape: tuple[int, int], std: float) -> Floats:
    """Values spread evenly over ``±std * sqrt(3)``, so of standard deviation ``std``."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    count = math.prod(shape)
    raw = np.random.PCG64(int.from_bytes(digest[:16], "big")).random_raw(-(-count // 4))
    draws = np.asarray(raw, dtype="<u8").view("<u2")[:count].astype(np.float32)
    return ((draws - np.float32(32767.5)) * np.float32(std * math.sqrt(3) / 32768)).reshape(shape)


def _ones(name: str, size: int) -> Tensor:
    return _bf16(name, np.ones(size, dtype=np.float32))


def _bf16(name: str, values: Floats) -> Tensor:
    return Tensor(name, "BF16", values.shape, to_bf16(values).tobytes())


def to_bf16(values: Floats) -> NDArray[np.uint16]:
    """The upper halves of float32 bit patterns, rounded to nearest, ties to even; values must be
    finite."""
    bits = np.ascontiguousarray(values, dtype="<f4").view("<u4")
    return (
        (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    ).astype("<u2")
