"""Random Llama weights and an EAGLE3 draft for them, in bfloat16, without torch.

Every tensor is drawn from its own stream, keyed by seed and name, and made by integer arithmetic from the raw bits of PCG64: the
files are the same byte for byte on every machine and numpy version.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pytest_gpubench.demo.tokenizer import BOS_ID, EOS_ID, PAD_ID
from pytest_gpubench.domain.failures import GpubenchError

Floats: TypeAlias = "NDArray[np.float32]"

_BIAS_CHANNEL = 0
_BIAS = 4.0
_FORBID = -16.0


@dataclass(frozen=True, slots=True)
class LlamaShape:
    """Sizes of a Llama target, in the words of its config.json; a draft takes the hidden and head sizes of its target."""

    hidden: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    intermediate: int = 512
    vocab: int = 2048
    max_position: int = 4096

    def check(self, smallest_vocab: int) -> None:
        """Check that the sizes make a model.

        Raises:
            GpubenchError: naming the size to change.
        """
        for name, value in (
            ("hidden", self.hidden),
            ("heads", self.heads),
            ("kv-heads", self.kv_heads),
            ("head-dim", self.head_dim),
        ):
            if value < 1:
                raise GpubenchError(f"demo model: {name} is {value}; give at least 1")
        if self.intermediate < 1 or self.max_position < 1:
            raise GpubenchError(
                f"demo model: intermediate ({self.intermediate}) and max-position ({self.max_position}) must be positive"
            )
        if self.layers < 4:
            raise GpubenchError(f"demo model: layers is {self.layers}; give at least 4, a draft reads three different ones of them")
        if self.heads % self.kv_heads:
            raise GpubenchError(f"demo model: heads ({self.heads}) must be a multiple of kv-heads ({self.kv_heads})")
        if self.vocab < smallest_vocab:
            raise GpubenchError(f"demo model: vocab is {self.vocab}; the tokenizer has {smallest_vocab} ids, give at least that")

    @property
    def aux_layers(self) -> tuple[int, int, int]:
        """The layers before which the draft reads the target's hidden state: early, middle and late."""
        return (1, self.layers // 2, self.layers - 1)


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor as safetensors stores it; ``dtype`` in the spelling of safetensors' header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes


def target_tensors(shape: LlamaShape, seed: int, writable_ids: Sequence[int]) -> Iterator[Tensor]:
    """The weights of a Llama target, in the order of its layers.

    Channel 0 of the residual stream is the same constant at every position, since embeddings set it and no layer writes to it. The
    head uses it to push every id outside ``writable_ids`` out of reach, as a bias would that Llama does not have.
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
    """The weights of an EAGLE3 draft (one layer, MHA), named as vLLM's ``llama_eagle3`` loads them; embeddings are the target's."""
    hidden = shape.hidden
    offsets = np.asarray(draft_ids, dtype="<i8") - np.arange(len(draft_ids), dtype="<i8")
    yield Tensor("d2t", "I64", offsets.shape, offsets.tobytes())
    yield _bf16("fc.weight", _uniform(seed, "fc.weight", (hidden, 3 * hidden), 1 / math.sqrt(3 * hidden)))
    yield from _block(shape, seed, "midlayer.", 2 * hidden, shape.heads, 1 / math.sqrt(2))
    for norm in ("midlayer.hidden_norm", "midlayer.input_layernorm", "midlayer.post_attention_layernorm", "norm"):
        yield _ones(f"{norm}.weight", hidden)
    yield _bf16("lm_head.weight", _uniform(seed, "draft.lm_head.weight", (len(draft_ids), hidden), 1 / math.sqrt(hidden)))


def target_config(shape: LlamaShape, bos: int, eos: int) -> dict[str, Any]:
    """config.json of the target."""
    return {"architectures": ["LlamaForCausalLM"], **_llama_config(shape, bos, eos), "num_hidden_layers": shape.layers}


def draft_config(shape: LlamaShape, draft_vocab: int, bos: int, eos: int) -> dict[str, Any]:
    """config.json of the draft: one layer, as many KV heads as heads, three auxiliary hidden states."""
    return {
        "architectures": ["LlamaForCausalLMEagle3"],
        **_llama_config(shape, bos, eos),
        "num_hidden_layers": 1,
        "num_key_value_heads": shape.heads,
        "draft_vocab_size": draft_vocab,
        "target_hidden_size": shape.hidden,
        "num_aux_hidden_states": 3,
        "eagle_aux_hidden_state_layer_ids": list(shape.aux_layers),
    }


def generation_config() -> dict[str, Any]:
    """generation_config.json of a target: greedy."""
    return {"bos_token_id": BOS_ID, "eos_token_id": EOS_ID, "pad_token_id": PAD_ID, "do_sample": False}


def _llama_config(shape: LlamaShape, bos: int, eos: int) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "dtype": "bfloat16",
        "torch_dtype": "bfloat16",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocab,
        "max_position_embeddings": shape.max_position,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": bos,
        "eos_token_id": eos,
    }


def _block(shape: LlamaShape, seed: int, prefix: str, attention_input: int, kv_heads: int, out_std: float) -> Iterator[Tensor]:
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
    """The upper halves of float32 bit patterns, rounded to nearest, ties to even; values must be finite."""
    bits = np.ascontiguousarray(values, dtype="<f4").view("<u4")
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype("<u2")
