"""The pair as llama.cpp reads it: a GGUF file each with the tensors in F32, sizes and tokenizer.

The container, little-endian: magic, version, number of tensors and of facts; the facts; name, shape
and offset of every tensor; the tensors, each at a multiple of 32 bytes from where they begin.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pytest_gpubench.demo.tokenizer import CHAT_TEMPLATE, SPECIAL_TOKENS

GGUF_NAME = "tiny-llama-f32.gguf"
DRAFT_GGUF_NAME = "tiny-llama-eagle3-f32.gguf"
_VERSION = 3
_ALIGNMENT = 32
_U32, _I32, _F32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
"""The numbers by which GGUF calls the types of facts."""
_TENSOR_F32, _TENSOR_I64 = 0, 27
_NORMAL_TOKEN, _CONTROL_TOKEN = 1, 3

_TENSOR_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "norm": "output_norm",
    "fc": "fc",
    "hidden_norm": "attn_norm_2",
}
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
_DRAFT_LAYER = "midlayer."
_DRAFT_IDS = "d2t"

# The tokenizer puts a space before a text that has none and llama.cpp's does not, so its template
# does: prompts of a chat are then the same tokens on every engine.
GGUF_CHAT_TEMPLATE = CHAT_TEMPLATE.replace(
    "'|>' + message['content']",
    "'|>' + (' ' if message['content'] and message['content'][0] != ' ' else '')"
    " + message['content']",
)

_Floats = npt.NDArray[np.float32]
_Tensors = Mapping[str, npt.NDArray[np.float32] | npt.NDArray[np.int64]]


def llama_as_gguf(config: Mapping[str, Any], tokenizer: bytes, weights: bytes) -> bytes:
    """A Llama as GGUF file, byte for byte the same each time.

    Args:
        tokenizer: its tokenizer.json: byte-level BPE, every id below ``vocab_size`` has a token.
        weights: its safetensors file, in BF16 or F32.

    Returns:
        The file: tensors in F32, those of queries and keys with the two halves of each head
        interleaved, as llama.cpp rotates them.

    Raises:
        KeyError: for a tensor or a dtype that no Llama has.
    """
    return _container(_facts("llama", config, json.loads(tokenizer)), _renamed(config, weights))


def eagle3_as_gguf(config: Mapping[str, Any], tokenizer: bytes, weights: bytes) -> bytes:
    """The EAGLE3 draft of a Llama as GGUF file, byte for byte the same each time.

    Args:
        tokenizer: the tokenizer.json of its target.
        weights: its safetensors file: ``d2t`` holds how far each of the draft's ids is from the
            target's.

    Returns:
        The file: tensors as :func:`llama_as_gguf` writes them, and the target's ids themselves.

    Raises:
        KeyError: for a tensor or a dtype that no such draft has.
    """
    facts = [
        *_facts("eagle3", config, json.loads(tokenizer)),
        _fact("eagle3.target_hidden_size", _U32, struct.pack("<I", config["target_hidden_size"])),
        _fact("eagle3.norm_before_residual", _BOOL, b"\0"),
        _array(
            "eagle3.target_layers",
            _I32,
            (struct.pack("<i", layer) for layer in config["eagle_aux_hidden_state_layer_ids"]),
        ),
    ]
    return _container(facts, _renamed(config, weights))


def _renamed(config: Mapping[str, Any], weights: bytes) -> _Tensors:
    """The tensors of a safetensors file by llama.cpp's names, as llama.cpp computes with them."""
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    tensors: dict[str, npt.NDArray[np.float32] | npt.NDArray[np.int64]] = {}
    for name, dtype, shape, raw in _safetensors(weights):
        if name == _DRAFT_IDS:
            offsets = np.frombuffer(raw, "<i8").astype(np.int64)
            tensors[name] = offsets + np.arange(len(offsets))
            continue
        values = _WIDENED[dtype](raw).reshape(shape)
        for projection, count in heads.items():
            if f".{projection}." in name:
                values = _interleaved(values, count)
        tensors[_tensor_name(name)] = values
    return tensors


def _container(facts: list[bytes], tensors: _Tensors) -> bytes:
    infos, offset = [], 0
    for name, values in tensors.items():
        kind = _TENSOR_F32 if values.dtype == np.float32 else _TENSOR_I64
        # GGUF counts dimensions from the one that lies densest in memory
        infos.append(
            _string(name)
            + struct.pack(f"<I{values.ndim}Q", values.ndim, *reversed(values.shape))
            + struct.pack("<IQ", kind, offset)
        )
        offset += values.nbytes + len(_padded(values.nbytes))
    head = b"GGUF" + struct.pack("<IQQ", _VERSION, len(tensors), len(facts))
    head += b"".join((*facts, *infos))
    body = (part for v in tensors.values() for part in (v.tobytes(), _padded(v.nbytes)))
    return b"".join((head, _padded(len(head)), *body))


def _facts(kind: str, config: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> list[bytes]:
    """What a file says of its model, an architecture of this kind, each as name, type and value."""
    model = tokenizer["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    kinds = [_CONTROL_TOKEN if token in SPECIAL_TOKENS else _NORMAL_TOKEN for token in tokens]
    numbers = {
        f"{kind}.context_length": config["max_position_embeddings"],
        f"{kind}.embedding_length": config["hidden_size"],
        f"{kind}.block_count": config["num_hidden_layers"],
        f"{kind}.feed_forward_length": config["intermediate_size"],
        f"{kind}.attention.head_count": config["num_attention_heads"],
        f"{kind}.attention.head_count_kv": config["num_key_value_heads"],
        f"{kind}.attention.key_length": config["head_dim"],
        f"{kind}.attention.value_length": config["head_dim"],
        f"{kind}.rope.dimension_count": config["head_dim"],
        f"{kind}.vocab_size": config["vocab_size"],
        "general.file_type": _TENSOR_F32,
        "tokenizer.ggml.bos_token_id": config["bos_token_id"],
        "tokenizer.ggml.eos_token_id": config["eos_token_id"],
    }
    texts = {
        "general.name": f"tiny-{kind}",
        "tokenizer.ggml.model": "gpt2",
        # of the byte-level ones the one by which a listed word is its token without any merge
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.chat_template": GGUF_CHAT_TEMPLATE,
    }
    floats = {
        f"{kind}.attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        f"{kind}.rope.freq_base": config["rope_theta"],
    }
    return [
        # readers want this one first
        _fact("general.architecture", _STRING, _string(kind)),
        *(_fact(name, _U32, struct.pack("<I", value)) for name, value in numbers.items()),
        *(_fact(name, _F32, struct.pack("<f", value)) for name, value in floats.items()),
        *(_fact(name, _STRING, _string(value)) for name, value in texts.items()),
        _fact("tokenizer.ggml.add_bos_token", _BOOL, b"\0"),
        _array("tokenizer.ggml.tokens", _STRING, map(_string, tokens)),
        _array("tokenizer.ggml.token_type", _I32, (struct.pack("<i", kind) for kind in kinds)),
        _array("tokenizer.ggml.merges", _STRING, map(_string, model["merges"])),
    ]


def _fact(name: str, kind: int, value: bytes) -> bytes:
    return _string(name) + struct.pack("<I", kind) + value


def _array(name: str, kind: int, values: Iterable[bytes]) -> bytes:
    items = list(values)
    return _fact(name, _ARRAY, struct.pack("<IQ", kind, len(items)) + b"".join(items))


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _padded(length: int) -> bytes:
    """The zeros between what has this length and the next part."""
    return bytes(-length % _ALIGNMENT)


def _tensor_name(name: str) -> str:
    stem, _, kind = name.rpartition(".")
    if stem.startswith(_DRAFT_LAYER):
        return f"blk.0.{_TENSOR_NAMES[stem.removeprefix(_DRAFT_LAYER)]}.{kind}"
    layer = _LAYER.fullmatch(stem)
    if layer is None:
        return f"{_TENSOR_NAMES[stem]}.{kind}"
    return f"blk.{layer[1]}.{_TENSOR_NAMES[layer[2]]}.{kind}"


def _interleaved(values: _Floats, heads: int) -> _Floats:
    """Rows of a projection, per head first half and second half, as pairs of one of each."""
    halves = values.reshape(heads, 2, -1, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)


def _safetensors(content: bytes) -> Iterable[tuple[str, str, list[int], bytes]]:
    """Name, dtype, shape and bytes of every tensor, in the order of their bytes."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"][0]):
        begin, end = entry["data_offsets"]
        raw = content[8 + length + begin : 8 + length + end]
        yield name, entry["dtype"], entry["shape"], raw


def _from_bf16(raw: bytes) -> _Floats:
    """BF16 is the upper half of an F32."""
    return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)


def _from_f32(raw: bytes) -> _Floats:
    return np.frombuffer(raw, "<f4").astype(np.float32)


_WIDENED = {"BF16": _from_bf16, "F32": _from_f32}
