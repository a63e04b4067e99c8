"""Bytes of a model's weights on one GPU, counted from its shape."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from pytest_gpubench.doctor.shape import BYTES, ModelShape

# Bytes per weight, block scales included: one e8m0 byte per 32 (MX), one e4m3 byte per 16 (NVFP4), fp32 per 128 x 128 (fp8 blocks)
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
_IGNORE_KEYS = ("ignored_layers", "ignore", "exclude", "exclude_modules", "modules_to_not_convert")


@dataclass(frozen=True, slots=True)
class Ranks:
    """How weights are spread: over tensor-parallel ranks, pipeline stages, and the ranks that share the experts."""

    tp: int = 1
    pp: int = 1
    expert_ranks: int = 1
    """Ranks that share the experts, whether each expert is cut or the experts are spread."""


@dataclass(frozen=True, slots=True)
class _Widths:
    plain: float
    attention: float
    dense: float
    shared: float
    experts: float


def weight_bytes(shape: ModelShape, ranks: Ranks) -> float | None:
    """Bytes of the language model's weights on the fullest rank, or None where the shape or the quantization is not known."""
    widths = _widths(shape)
    if widths is None or not all((shape.hidden, shape.layers, shape.heads, shape.vocab)) or shape.latent_dim:
        return None
    per_stage = math.ceil(shape.layers / ranks.pp) / shape.layers
    body = (
        shape.layers * _attention(shape, ranks.tp) * widths.attention
        + shape.dense_layers * 3 * shape.hidden * shape.dense_intermediate / ranks.tp * widths.dense
        + shape.moe_layers * 3 * shape.hidden * shape.shared_intermediate / ranks.tp * widths.shared
        + shape.moe_layers * 3 * shape.hidden * shape.expert_intermediate * shape.experts / ranks.expert_ranks * widths.experts
        + shape.moe_layers * shape.hidden * shape.experts * 4  # router, fp32, on every rank
        + (shape.sparse.layers if shape.sparse else 0) * _index(shape, ranks.tp) * widths.attention
    )
    embeddings = 1 if shape.tied_embeddings or ranks.pp > 1 else 2
    return body * per_stage + embeddings * shape.vocab * shape.hidden / ranks.tp * widths.plain


def draft_bytes(draft: ModelShape, target: ModelShape, tp: int) -> float | None:
    """Bytes of an EAGLE3 head on one rank: it shares the target's embedding, its first layer reads two hidden states at once."""
    widths = _widths(draft)
    if widths is None or not all((draft.hidden, draft.layers, draft.heads)):
        return None
    aux = len(draft.aux_layers) or 3
    qkv_twice = draft.hidden * (draft.heads + 2 * max(draft.kv_heads, tp)) * draft.head_dim / tp
    per_layer = _attention(draft, tp) * widths.attention + 3 * draft.hidden * draft.dense_intermediate / tp * widths.dense
    fusion = aux * (draft.target_hidden or target.hidden) * draft.hidden
    head = (draft.draft_vocab or draft.vocab or target.vocab) * draft.hidden / tp
    return draft.layers * per_layer + qkv_twice * widths.attention + (fusion + head) * widths.plain


def kv_heads_per_rank(shape: ModelShape, tp: int) -> int:
    """KV heads that one rank keeps: a head is copied where there are more ranks than heads."""
    return max(1, shape.kv_heads // tp)


def _attention(shape: ModelShape, tp: int) -> float:
    query_and_output = 2 * shape.hidden * shape.heads * shape.head_dim / tp
    return query_and_output + 2 * shape.hidden * kv_heads_per_rank(shape, tp) * shape.head_dim


def _index(shape: ModelShape, tp: int) -> float:
    """MiniMax-M3's index projections: queries ride with the KV heads, the one key head is copied to every rank."""
    width = shape.sparse.index_dim if shape.sparse else 0
    return shape.hidden * width * (kv_heads_per_rank(shape, tp) + 1)


def _widths(shape: ModelShape) -> _Widths | None:
    plain = BYTES.get(shape.dtype or "bfloat16")
    if plain is None:
        return None
    if not shape.quantization:
        return _Widths(plain, plain, plain, plain, plain)
    width = _quantized_width(shape)
    if width is None:
        return None
    ignored = [entry for key in _IGNORE_KEYS for entry in _words(shape.quant_config.get(key))]

    def of(*modules: str) -> float:
        return plain if any(module in entry for entry in ignored for module in modules) else width

    return _Widths(
        plain=plain,
        attention=plain if shape.quantization in ("mxfp4", "gpt_oss_mxfp4", "experts_int8") else of("self_attn", "attention"),
        dense=plain if shape.quantization in ("mxfp4", "gpt_oss_mxfp4", "experts_int8") else of("mlp.down_proj", "*.mlp*"),
        shared=of("shared_expert"),
        experts=width,
    )


def _quantized_width(shape: ModelShape) -> float | None:
    config = shape.quant_config
    if shape.quantization in ("gptq", "gptq_marlin", "auto_gptq"):
        bits = config.get("bits")
        return bits / 8 + 2.5 / 128 if isinstance(bits, int) and bits in (2, 3, 4, 8) else None
    if shape.quantization == "quark":
        return 0.5 + 1 / 32 if config.get("quant_algo") == "MXFP4" else None
    return _WIDTHS.get(shape.quantization)


def _words(value: object) -> Iterable[str]:
    return (item for item in value if isinstance(item, str)) if isinstance(value, list | tuple) else ()
