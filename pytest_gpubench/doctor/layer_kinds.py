"""Kinds of layers beside ordinary attention, read from a config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_gpubench.model.frozen import mapping, number, word, words

_STATE_KEYS = ("mamba_", "ssm_", "attn_layer_period", "attn_layer_indices")
"""Beginnings of keys that only models with Mamba layers have; some (Jamba) do not name kinds."""
_STATEFUL = ("mamba", "linear_attention", "conv", "recurrent", "short_conv")


@dataclass(frozen=True, slots=True)
class SparseAttention:
    """MiniMax-M3's block-sparse attention: one KV page is one sparse block, and an index cache lies
    beside the KV cache."""

    block_size: int | None
    index_dim: int | None
    index_heads: int | None
    topk_blocks: int | None
    layers: int


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """Multi-head latent attention, in DeepSeek's words: ranks of the latent spaces, widths per
    head. ``query_rank`` 0: queries are not compressed; ``index_*`` 0: no sparse indexer."""

    query_rank: int
    kv_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    index_heads: int
    index_dim: int


@dataclass(frozen=True, slots=True)
class LinearAttention:
    """The layers that keep a state: gated delta nets, as Qwen3-Next and Qwen3.5 have them."""

    layers: int
    key_heads: int
    key_dim: int
    value_heads: int
    value_dim: int


@dataclass(frozen=True, slots=True)
class HybridLayers:
    """Layers that are one block each, as Nemotron-H writes them: how many of each kind, and the
    sizes of its Mamba blocks. Feed-forward blocks have no gate: two matrices."""

    mamba: int
    attention: int
    dense: int
    moe: int
    mamba_heads: int
    mamba_inner: int
    """Heads times their width."""
    mamba_state: int
    """Groups times the width of a state."""
    expert_hidden: int
    """What experts read: the hidden size, or a narrower latent one."""


@dataclass(frozen=True, slots=True)
class VisionTower:
    """The layers of a vision encoder."""

    layers: int
    hidden: int
    intermediate: int
    gated: bool
    """Whether its feed-forward part has a gate: three matrices, not two."""


def latent_attention(text: Mapping[str, Any]) -> LatentAttention | None:
    names = ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
    kv_rank, nope, rope, value = (number(text, name) for name in names)
    if kv_rank is None or nope is None or rope is None or value is None:
        return None
    return LatentAttention(
        query_rank=number(text, "q_lora_rank") or 0,
        kv_rank=kv_rank,
        nope_dim=nope,
        rope_dim=rope,
        value_dim=value,
        index_heads=number(text, "index_n_heads") or 0,
        index_dim=number(text, "index_head_dim") or 0,
    )


def linear_layers(text: Mapping[str, Any]) -> LinearAttention | None:
    names = (
        "linear_num_key_heads",
        "linear_key_head_dim",
        "linear_num_value_heads",
        "linear_value_head_dim",
    )
    key_heads, key_dim, value_heads, value_dim = (number(text, name) for name in names)
    layers = words(text.get("layer_types")).count("linear_attention")
    every = number(text, "full_attention_interval")
    count = number(text, "num_hidden_layers")
    if not layers and every and count:
        layers = count - count // every
    if not layers or None in (key_heads, key_dim, value_heads, value_dim):
        return None
    return LinearAttention(layers, key_heads or 0, key_dim or 0, value_heads or 0, value_dim or 0)


def hybrid_layers(text: Mapping[str, Any]) -> HybridLayers | None:
    pattern, hidden = word(text, "hybrid_override_pattern"), number(text, "hidden_size")
    names = ("mamba_num_heads", "mamba_head_dim", "n_groups", "ssm_state_size")
    heads, width, groups, state = (number(text, name) for name in names)
    if not pattern or set(pattern) - set("M*-E") or hidden is None:
        return None
    if heads is None or width is None or groups is None or state is None:
        return None
    return HybridLayers(
        mamba=pattern.count("M"),
        attention=pattern.count("*"),
        dense=pattern.count("-"),
        moe=pattern.count("E"),
        mamba_heads=heads,
        mamba_inner=heads * width,
        mamba_state=groups * state,
        expert_hidden=number(text, "moe_latent_size") or hidden,
    )


def vision_tower(config: Mapping[str, Any]) -> VisionTower | None:
    layers = number(config, "depth", "num_hidden_layers", "num_layers")
    hidden = number(config, "hidden_size", "width")
    wide = number(config, "intermediate_size") or (hidden and 4 * hidden)
    if layers is None or hidden is None or wide is None:
        return None
    return VisionTower(layers, hidden, wide, word(config, "hidden_act") == "silu")


def sparse_attention(text: Mapping[str, Any]) -> SparseAttention | None:
    entry = mapping(text.get("sparse_attention_config"))
    frequency = entry.get("sparse_attention_freq")
    if not entry.get("use_sparse_attention") or not isinstance(frequency, list | tuple):
        return None
    return SparseAttention(
        block_size=number(entry, "sparse_block_size"),
        index_dim=number(entry, "sparse_index_dim"),
        index_heads=number(entry, "sparse_num_index_heads"),
        topk_blocks=number(entry, "sparse_topk_blocks"),
        layers=sum(1 for item in frequency if item),
    )


def has_state(text: Mapping[str, Any]) -> bool:
    kinds = [*words(text.get("layer_types")), *words(text.get("layers_block_type"))]
    return (
        any(word in kind for kind in (*kinds, word(text, "model_type")) for word in _STATEFUL)
        or bool(mapping(text.get("linear_attn_config")))
        or any(name.startswith(_STATE_KEYS) for name, value in text.items() if value)
        or linear_layers(text) is not None
        or "M" in word(text, "hybrid_override_pattern")
    )
