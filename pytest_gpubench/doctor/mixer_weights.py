"""Weights of the part of each layer that mixes tokens: ordinary attention, latent attention (MLA)
with DeepSeek's indexer, gated delta nets (linear attention), and of a vision tower.

Counts of weights on one tensor-parallel rank; what is copied to every rank counts whole. Norms,
biases and convolutions are left out: far below one per mille.
"""

from __future__ import annotations

from pytest_gpubench.doctor.layer_kinds import HybridLayers, LatentAttention, LinearAttention
from pytest_gpubench.doctor.shape import AttentionSizes, ModelShape


def kv_heads_per_rank(kv_heads: int, tp: int) -> int:
    """KV heads that one rank keeps: a head is copied where there are more ranks than heads."""
    return max(1, kv_heads // tp)


def attention_weights(sizes: AttentionSizes, tp: int, *, gate: bool = False) -> float:
    """One layer of ordinary attention: query, key, value, output, and the gate on the output where
    there is one."""
    query_and_output = (3 if gate else 2) * sizes.hidden * sizes.heads * sizes.head_dim / tp
    return (
        query_and_output + 2 * sizes.hidden * kv_heads_per_rank(sizes.kv_heads, tp) * sizes.head_dim
    )


def mixer_weights(shape: ModelShape, tp: int) -> float | None:
    """All layers of a model; None where a layer's kind or a size is not known."""
    if shape.layers is None or shape.hidden is None or shape.heads is None:
        return None
    if shape.latent_dim:
        if shape.latent is None:
            return None
        return shape.layers * _latent(shape.latent, shape.hidden, shape.heads, tp)
    if shape.attention is None:
        return None
    linear = 0.0
    ordinary = shape.layers
    if shape.has_state:
        if shape.linear is None:
            return None
        ordinary -= shape.linear.layers
        linear = shape.linear.layers * _linear(shape.linear, shape.hidden, tp)
    return linear + ordinary * attention_weights(shape.attention, tp, gate=shape.output_gate)


def mamba_weights(hybrid: HybridLayers, hidden: int, tp: int) -> float:
    """The Mamba-2 blocks of a hybrid model: input, gate, state projections and step, output."""
    into = 2 * hybrid.mamba_inner + 2 * hybrid.mamba_state + hybrid.mamba_heads
    return hybrid.mamba * hidden * (into + hybrid.mamba_inner) / tp


def _latent(latent: LatentAttention, hidden: int, heads: int, tp: int) -> float:
    """DeepSeek-V2's paper, 2.1: the projections into the latent spaces are on every rank."""
    query = heads * (latent.nope_dim + latent.rope_dim)
    into = latent.query_rank or hidden
    weights = float(hidden * (latent.kv_rank + latent.rope_dim))
    weights += hidden * latent.query_rank + into * query / tp
    weights += latent.kv_rank * heads * (latent.nope_dim + latent.value_dim) / tp
    weights += heads * latent.value_dim * hidden / tp
    index = latent.index_heads * latent.index_dim
    return weights + into * index + hidden * (latent.index_dim + latent.index_heads)


def _linear(linear: LinearAttention, hidden: int, tp: int) -> float:
    """A gated delta net, as Qwen3-Next has it: query, key, value, gate, two scalars per head,
    output."""
    keys, values = linear.key_heads * linear.key_dim, linear.value_heads * linear.value_dim
    return hidden * (2 * keys + 3 * values + 2 * linear.value_heads) / tp


def vision_weights(shape: ModelShape) -> float:
    """The tower's layers; vLLM cuts it over the ranks or copies it, this counts it whole."""
    tower = shape.vision
    if tower is None:
        return 0.0
    matrices = 3 if tower.gated else 2
    return tower.layers * tower.hidden * (4 * tower.hidden + matrices * tower.intermediate)
