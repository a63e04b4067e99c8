"""The target as llama.cpp reads it: one GGUF file with the tensors in F32, sizes and tokenizer.

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
_VERSION = 3
_ALIGNMENT = 32
_U32, _I32, _F32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
"""The numbers by which GGUF calls the types of facts."""
_TENSOR_F32 = 0
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
}
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")

# The tokenizer puts a space before a text that has none and llama.cpp's does not, so its template
# does: prompts of a chat are then the same tokens on every engine.
GGUF_CHAT_TEMPLATE = CHAT_TEMPLATE.replace(
    "'|>' + message['content']",
    "'|>' + (' ' if message['content'] and message['content'][0] != ' ' else '')"
    " + message['content']",
)

_Floats = npt.NDArray[np.float32]


def llama_as_gguf(config: Mapping[str, Any], tokenizer: bytes, weights: bytes) -> bytes:
    """A Llama as GGUF file, byte for byte the same each time.

    Args:
        config: its config.json.
        tokenizer: its tokenizer.json: byte-level BPE, every id below ``vocab_size`` has a token.
        weights: its safetensors file, in BF16 or F32.

    Returns:
        The file: tensors in F32, those of queries and keys with the two halves of each head
        interleaved, as llama.cpp rotates them.

    Raises:
        KeyError: for a tensor or a dtype that no Llama has.
    """
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    tensors: dict[str, _Floats] = {}
    for name, values in _safetensors(weights):
        for projection, count in heads.items():
            if f".{projection}." in name:
                values = _interleaved(values, count)
        tensors[_tensor_name(name)] = values
    facts = _facts(config, json.loads(tokenizer))
    infos, offset = [], 0
    for name, values in tensors.items():
        # GGUF counts dimensions from the one that lies densest in memory
        infos.append(
            _string(name)
            + struct.pack(f"<I{values.ndim}Q", values.ndim, *reversed(values.shape))
            + struct.pack("<IQ", _TENSOR_F32, offset)
        )
        offset += len(_padded(values.nbytes)) + values.nbytes
    head = b"GGUF" + struct.pack("<IQQ", _VERSION, len(tensors), len(facts))
    head += b"".join((*facts, *infos))
    body = (part for v in tensors.values() for part in (v.tobytes(), _padded(v.nbytes)))
    return b"".join((head, _padded(len(head)), *body))


def _facts(config: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> list[bytes]:
    """What a file says of its model, each as name, type and value."""
    model = tokenizer["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    kinds = [_CONTROL_TOKEN if token in SPECIAL_TOKENS else _NORMAL_TOKEN for token in tokens]
    numbers = {
        "llama.context_length": config["max_position_embeddings"],
        "llama.embedding_length": config["hidden_size"],
        "llama.block_count": config["num_hidden_layers"],
        "llama.feed_forward_length": config["intermediate_size"],
        "llama.attention.head_count": config["num_attention_heads"],
        "llama.attention.head_count_kv": config["num_key_value_heads"],
        "llama.attention.key_length": config["head_dim"],
        "llama.attention.value_length": config["head_dim"],
        "llama.rope.dimension_count": config["head_dim"],
        "llama.vocab_size": config["vocab_size"],
        "general.file_type": _TENSOR_F32,
        "tokenizer.ggml.bos_token_id": config["bos_token_id"],
        "tokenizer.ggml.eos_token_id": config["eos_token_id"],
    }
    texts = {
        "general.name": "tiny-llama",
        "tokenizer.ggml.model": "gpt2",
        # of the byte-level ones the one by which a listed word is its token without any merge
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.chat_template": GGUF_CHAT_TEMPLATE,
    }
    floats = {
        "llama.attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "llama.rope.freq_base": config["rope_theta"],
    }
    return [
        # readers want this one first
        _fact("general.architecture", _STRING, _string("llama")),
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
    layer = _LAYER.fullmatch(stem)
    if layer is None:
        return f"{_TENSOR_NAMES[stem]}.{kind}"
    return f"blk.{layer[1]}.{_TENSOR_NAMES[layer[2]]}.{kind}"


def _interleaved(values: _Floats, heads: int) -> _Floats:
    """Rows of a projection, per head first half and second half, as pairs of one of each."""
    halves = values.reshape(heads, 2, -1, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)


def _safetensors(content: bytes) -> Iterable[tuple[str, _Floats]]:
    """Name and values of every tensor, in the order of their bytes."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"][0]):
        begin, end = entry["data_offsets"]
        raw = content[8 + length + begin : 8 + length + end]
        yield name, _WIDENED[entry["dtype"]](raw).reshape(entry["shape"])


def _from_bf16(raw: bytes) -> _Floats:
    """BF16 is the upper half of an F32."""
    return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)


def _from_f32(raw: bytes) -> _Floats:
    return np.frombuffer(raw, "<f4").astype(np.float32)


_WIDENED = {"BF16": _from_bf16, "F32": _from_f32}
