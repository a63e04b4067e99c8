"""Bytes of a model's weights on one rank, from its shape: what each kind of layer holds, and how
wide its format makes a weight.

Of the part of each layer that mixes tokens (ordinary attention, latent attention (MLA) with
DeepSeek's indexer, gated delta nets) and of a vision tower weights are counted: what is copied to
every rank counts whole. Norms, biases and convolutions are left out: far below one per mille.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_gpubench.doctor.layer_kinds import HybridLayers, LatentAttention, LinearAttention
from pytest_gpubench.doctor.shape import BYTES, AttentionSizes, ModelShape
from pytest_gpubench.model.frozen import entries, mapping, number
from pytest_gpubench.model.specs import Topology


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


# Bytes per weight, block scales included: one e8m0 byte per 32 (MX), one e4m3 byte per 16 (NVFP4),
# fp32 per 128 x 128 (fp8 blocks)
_WIDTHS: dict[str, float] = {
    "fp8": 1.0,
    "fbgemm_fp8": 1.0,
    "modelopt": 1.0,
    "mxfp8": 1 + 1 / 32,
    "modelopt_mxfp8": 1 + 1 / 32,
    "modelopt_fp4": 0.5 + 1 / 16,
    "mxfp4": 0.5 + 1 / 32,
    "gpt_oss_mxfp4": 0.5 + 1 / 32,
    "experts_int8": 1.0,
    "awq": 0.5 + 2.5 / 128,
    "awq_marlin": 0.5 + 2.5 / 128,
    "auto_awq": 0.5 + 2.5 / 128,
}
_LAYER = re.compile(r"layers\.(\d+)\.")
_IGNORE_KEYS = ("ignored_layers", "ignore", "exclude", "exclude_modules", "modules_to_not_convert")
DENSE_MLP = ("mlp.down_proj", "*.mlp*", "|down)_proj")
SHARED_EXPERT = ("shared_expert", "share_expert")
"""Parts of modules' names."""


@dataclass(frozen=True, slots=True)
class _Widths:
    plain: float
    attention: float
    dense: float
    shared: float
    experts: float
    mamba: float


def weight_bytes(shape: ModelShape, topology: Topology) -> float | None:
    """Bytes of the weights on the fullest rank, or None where the shape or the quantization is not
    known. Not counted: a draft, multi-token prediction, an audio encoder."""
    widths, tp = _widths(shape), topology.tensor_parallel_size
    if (
        widths is None
        or shape.hidden is None
        or shape.layers is None
        or shape.vocab is None
        or shape.puzzling
    ):
        return None
    body = _body_bytes(shape, widths, topology)
    if body is None:
        return None
    per_stage = math.ceil(shape.layers / topology.pp) / shape.layers
    embeddings = 2
    if shape.tied_embeddings or topology.pp > 1:  # one stage has the embedding, another the head
        embeddings = 1
    whole = vision_weights(shape) + embeddings * shape.vocab * shape.hidden / tp
    return body * per_stage + whole * widths.plain


def _body_bytes(shape: ModelShape, widths: _Widths, topology: Topology) -> float | None:
    if shape.hybrid is not None:
        return _hybrid_bytes(shape, shape.hybrid, widths, topology)
    feed_forward = _feed_forward_bytes(shape, widths, topology)
    mixers = mixer_weights(shape, topology.tensor_parallel_size)
    if feed_forward is None or mixers is None:
        return None
    mixers += _index_weights(shape, topology.tensor_parallel_size)
    return feed_forward + mixers * widths.attention


def _hybrid_bytes(
    shape: ModelShape, hybrid: HybridLayers, widths: _Widths, topology: Topology
) -> float | None:
    """Nemotron-H: every layer is one block, feed-forward blocks have two matrices."""
    tp, hidden, sizes = topology.tensor_parallel_size, shape.hidden or 0, shape.attention
    expert, dense = shape.expert_intermediate or 0, shape.dense_intermediate or 0
    shared = shape.shared_intermediate or 0
    if sizes is None or (hybrid.moe and not expert) or (hybrid.dense and not dense):
        return None
    total = mamba_weights(hybrid, hidden, tp) * widths.mamba
    total += hybrid.attention * attention_weights(sizes, tp) * widths.attention
    total += hybrid.dense * 2 * hidden * dense / tp * widths.dense
    experts = 2 * hybrid.expert_hidden * expert * shape.experts / topology.expert_ranks
    latent = 2 * hidden * hybrid.expert_hidden if hybrid.expert_hidden != hidden else 0
    routed = experts * widths.experts + latent * widths.plain + hidden * shape.experts * 4
    return total + hybrid.moe * (routed + 2 * hidden * shared / tp * widths.shared)


def draft_bytes(draft: ModelShape, target: ModelShape, tp: int) -> float | None:
    """Bytes of an EAGLE3 head on one rank: it shares the target's embedding, its first layer reads
    two hidden states at once."""
    widths, sizes = _widths(draft), draft.attention
    vocab = draft.draft_vocab or draft.vocab or target.vocab
    target_hidden = draft.target_hidden or target.hidden
    if widths is None or sizes is None or draft.layers is None or draft.dense_intermediate is None:
        return None
    if vocab is None or target_hidden is None:
        return None
    feed_forward = 3 * sizes.hidden * draft.dense_intermediate / tp
    per_layer = attention_weights(sizes, tp) * widths.attention + feed_forward * widths.dense
    qkv_twice = sizes.hidden * (sizes.heads + 2 * max(sizes.kv_heads, tp)) * sizes.head_dim / tp
    fusion = (len(draft.aux_layers) or 3) * target_hidden * sizes.hidden
    head = vocab * sizes.hidden / tp
    return draft.layers * per_layer + qkv_twice * widths.attention + (fusion + head) * widths.plain


def _feed_forward_bytes(shape: ModelShape, widths: _Widths, topology: Topology) -> float | None:
    """Of all layers, each width with its gate, up and down matrix; None where a size that counts is
    not known."""
    dense_layers, moe_layers, dense = shape.dense_layers, shape.moe_layers, shape.dense_intermediate
    if shape.hidden is None or dense_layers is None or moe_layers is None or dense is None:
        return None
    tp = topology.tensor_parallel_size
    total = dense_layers * 3 * shape.hidden * dense / tp * widths.dense
    if not moe_layers:
        return total
    if shape.shared_intermediate is None or shape.expert_intermediate is None:
        return None
    shared = 3 * shape.hidden * shape.shared_intermediate / tp * widths.shared
    experts = (
        3
        * shape.hidden
        * shape.expert_intermediate
        * shape.experts
        / topology.expert_ranks
        * widths.experts
    )
    router = shape.hidden * shape.experts * 4  # fp32, on every rank
    return total + moe_layers * (shared + experts + router)


def _index_weights(shape: ModelShape, tp: int) -> float:
    """MiniMax-M3's index projections: queries ride with the KV heads, the one key head is copied to
    every rank."""
    sizes = shape.attention
    if sizes is None or shape.sparse is None or shape.sparse.index_dim is None:
        return 0  # where its size is not given it is left out: it is small beside the rest
    return (
        shape.sparse.layers
        * sizes.hidden
        * shape.sparse.index_dim
        * (kv_heads_per_rank(sizes.kv_heads, tp) + 1)
    )


def _widths(shape: ModelShape) -> _Widths | None:
    plain = BYTES.get(shape.dtype or "bfloat16")
    if plain is None:
        return None
    if not shape.quantization:
        return _Widths(plain, plain, plain, plain, plain, plain)
    width = _quantized_width(shape)
    if width is None:
        return None
    experts_only = shape.quantization in ("mxfp4", "gpt_oss_mxfp4", "experts_int8")

    def of(*modules: str) -> float:
        share = unquantized_share(shape, *modules)
        return plain * share + width * (1 - share)

    return _Widths(
        plain=plain,
        attention=plain if experts_only else of("self_attn", "attention"),
        dense=plain if experts_only else of(*DENSE_MLP),
        shared=of(*SHARED_EXPERT),
        experts=width,
        mamba=of("mixer.in_proj", "mamba"),
    )


def unquantized_share(shape: ModelShape, *modules: str) -> float:
    """The share of layers whose modules the checkpoint leaves unquantized, by their names."""
    ignored = [
        entry
        for key in _IGNORE_KEYS
        for entry in entries(shape.quant_config.get(key))
        if isinstance(entry, str) and any(module in entry for module in modules)
    ]
    return _share_of_layers(ignored, shape.layers)


def _share_of_layers(ignored: Sequence[str], layers: int | None) -> float:
    """How many of the layers these entries name, as a share; one without a number is of all."""
    numbers = [_LAYER.search(entry) for entry in ignored]
    if not all(numbers) or not layers:
        return 1.0 if ignored else 0.0
    return min(1.0, len({found[1] for found in numbers if found}) / layers)


def _quantized_width(shape: ModelShape) -> float | None:
    config = shape.quant_config
    if shape.quantization in ("gptq", "gptq_marlin", "auto_gptq"):
        bits = config.get("bits")
        return bits / 8 + 2.5 / 128 if isinstance(bits, int) and bits in (2, 3, 4, 8) else None
    if shape.quantization == "quark":
        return 0.5 + 1 / 32 if config.get("quant_algo") == "MXFP4" else None
    if shape.quantization == "compressed-tensors":
        return _compressed_width(config)
    return _WIDTHS.get(shape.quantization)


def _compressed_width(config: Mapping[str, Any]) -> float | None:
    """Of one group of compressed-tensors: bits, and a bf16 scale (one byte in MX formats) per
    group."""
    groups = [mapping(group) for group in mapping(config.get("config_groups")).values()]
    weights = mapping(groups[0].get("weights")) if len(groups) == 1 else {}
    bits, size = weights.get("num_bits"), number(weights, "group_size")
    if bits not in (4, 8):
        return None
    scale = 1 if "mxfp" in str(config.get("format")) or "nvfp4" in str(config.get("format")) else 2
    return float(bits / 8 + (scale / size if size else 0))
