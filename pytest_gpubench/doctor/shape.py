"""What a ``config.json`` says about a model: the numbers that decide whether a server can start and
how much memory it needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_gpubench.doctor.configs import M3_TEXT_DEFAULTS
from pytest_gpubench.doctor.layer_kinds import (
    HybridLayers,
    LatentAttention,
    LinearAttention,
    SparseAttention,
    VisionTower,
    has_state,
    hybrid_layers,
    latent_attention,
    linear_layers,
    sparse_attention,
    vision_tower,
)
from pytest_gpubench.model.frozen import integers, is_number, mapping, number, word

_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_LENGTHS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_target_positions",
)
_PRESCALED_ROPE = ("su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling")
"""Rope types whose factor vLLM does not multiply into the length."""
BYTES: dict[str, float] = {
    "float32": 4.0,
    "float": 4.0,
    "bfloat16": 2.0,
    "float16": 2.0,
    "half": 2.0,
}


@dataclass(frozen=True, slots=True)
class AttentionSizes:
    """The sizes that attention weights follow from."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A model's shape. A number that config.json does not give is None; rules that need it say
    nothing."""

    model_type: str
    text_type: str
    """``model_type`` of the language model inside."""
    hidden: int | None
    layers: int | None
    heads: int | None
    kv_heads: int | None
    head_dim: int | None
    vocab: int | None
    dense_intermediate: int | None
    experts: int
    """0: the model is dense."""
    experts_per_token: int | None
    expert_intermediate: int | None
    """None also where the model is dense."""
    shared_intermediate: int | None
    """Of all shared experts of one layer together; 0: there are none."""
    moe_layers: int | None
    max_length: int | None
    """What vLLM derives as the longest context, rope scaling included."""
    max_length_key: str
    dtype: str
    tied_embeddings: bool
    quantization: str
    quant_config: Mapping[str, Any]
    vision_heads: int | None
    sparse: SparseAttention | None
    latent_dim: int | None
    """Width of the latent KV vector of a model with multi-head latent attention (rope part
    included); None: it has none."""
    latent: LatentAttention | None
    """None also where some of its sizes are not given."""
    linear: LinearAttention | None
    hybrid: HybridLayers | None
    output_gate: bool
    """Whether ordinary attention has a gate on its output, as wide as the queries."""
    vision: VisionTower | None
    full_attention_only: bool
    """False where some layers keep a window or a state instead of all tokens, or where the layout
    is not known to us."""
    has_state: bool
    """Whether some layers keep a state per sequence (Mamba, linear attention) instead of tokens."""
    draft_vocab: int | None
    target_hidden: int | None
    aux_layers: tuple[int, ...]
    eagle_aux_layers: tuple[int, ...]
    n_predict: int | None
    puzzling: bool = False
    """Whether there are keys from which other layers follow than those that we count."""

    @property
    def is_moe(self) -> bool:
        return self.experts > 0

    @property
    def is_mha(self) -> bool:
        """Whether every query head has its own KV head, so that FlashInfer's large pages cannot be
        used."""
        return self.heads is not None and self.heads == self.kv_heads

    @property
    def is_minimax_m3(self) -> bool:
        return "minimax_m3" in self.model_type or "minimax_m3" in self.text_type

    @property
    def dense_layers(self) -> int | None:
        if self.layers is None or self.moe_layers is None:
            return None
        return max(0, self.layers - self.moe_layers)

    @property
    def attention(self) -> AttentionSizes | None:
        """The sizes of its attention, None unless all are known."""
        if (
            self.hidden is None
            or self.heads is None
            or self.kv_heads is None
            or self.head_dim is None
        ):
            return None
        return AttentionSizes(self.hidden, self.heads, self.kv_heads, self.head_dim)


def shape_of(config: Mapping[str, Any]) -> ModelShape:
    """Read a config.json, whatever it holds: unknown or malformed entries count as absent, nothing
    is raised."""
    text = mapping(config.get("text_config")) or mapping(config.get("llm_config")) or config
    text_type = word(text, "model_type")
    if "minimax_m3" in text_type or "minimax_m3" in word(config, "model_type"):
        text = {**M3_TEXT_DEFAULTS, **text}
    heads = number(text, "num_attention_heads", "n_head")
    hidden = number(text, "hidden_size", "n_embd")
    layers = number(text, "num_hidden_layers", "n_layer")
    experts = number(text, *_EXPERTS) or 0
    quant = mapping(config.get("quantization_config")) or mapping(text.get("quantization_config"))
    eagle = mapping(config.get("eagle_config"))
    length, key = _max_length(text)
    expert_intermediate = number(text, "moe_intermediate_size")
    if experts and expert_intermediate is None:
        expert_intermediate = number(text, "intermediate_size")
    return ModelShape(
        model_type=word(config, "model_type"),
        text_type=text_type,
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=_kv_heads(text, heads),
        head_dim=number(text, "head_dim", "attention_head_dim")
        or (hidden and heads and hidden // heads)
        or None,
        vocab=number(text, "vocab_size"),
        dense_intermediate=number(text, "dense_intermediate_size", "intermediate_size", "n_inner")
        or (hidden and 4 * hidden),
        experts=experts,
        experts_per_token=number(text, "num_experts_per_tok", "moe_topk"),
        expert_intermediate=expert_intermediate,
        shared_intermediate=_shared_intermediate(text, experts, expert_intermediate),
        moe_layers=_moe_layers(text, experts, layers),
        max_length=length,
        max_length_key=key,
        dtype=(
            word(config, "dtype", "torch_dtype") or word(text, "dtype", "torch_dtype")
        ).removeprefix("torch."),
        tied_embeddings=text.get("tie_word_embeddings") is True,
        quantization=_quantization(quant),
        quant_config=quant,
        vision_heads=number(
            mapping(config.get("vision_config")), "num_attention_heads", "num_heads"
        ),
        sparse=sparse_attention(text),
        latent_dim=_latent_dim(text),
        latent=latent_attention(text),
        linear=linear_layers(text),
        hybrid=hybrid_layers(text),
        output_gate=text.get("attn_output_gate") is True,
        vision=vision_tower(mapping(config.get("vision_config"))),
        full_attention_only=_full_attention_only(text),
        has_state=has_state(text),
        draft_vocab=number(config, "draft_vocab_size"),
        target_hidden=number(config, "target_hidden_size"),
        aux_layers=integers(
            config.get("eagle_aux_hidden_state_layer_ids")
            or eagle.get("eagle_aux_hidden_state_layer_ids")
        ),
        eagle_aux_layers=integers(eagle.get("eagle_aux_hidden_state_layer_ids")),
        n_predict=number(text, "n_predict"),
        puzzling=hybrid_layers(text) is None and any(map(_is_puzzling, text.items())),
    )


def _kv_heads(text: Mapping[str, Any], heads: int | None) -> int | None:
    """One per query head where nothing is said of them; None where layers differ."""
    if any(text.get(name) for name in ("block_configs", "num_key_value_heads_per_layer")):
        return None
    shared = 1 if text.get("multi_query") is True else None
    given = number(text, "num_key_value_heads", "num_kv_heads", "multi_query_group_num")
    return given or shared or heads


def _is_puzzling(item: tuple[str, object]) -> bool:
    name, value = item
    if value in (None, 0, 1, [], ""):
        return False
    return (
        name in ("expert_dtype", "block_configs")
        or name.endswith("_pattern")
        or name.startswith("interleave")
        or (name in _EXPERTS and isinstance(value, list))
    )


def _quantization(quant: Mapping[str, Any]) -> str:
    """vLLM's method name: ModelOpt writes ``modelopt`` and names the format in ``quant_algo``."""
    method = word(quant, "quant_method").lower().replace("compressed_tensors", "compressed-tensors")
    if method != "modelopt":
        return method
    algorithm = (
        word(quant, "quant_algo") or word(mapping(quant.get("quantization")), "quant_algo")
    ).upper()
    return {
        "NVFP4": "modelopt_fp4",
        "MXFP8": "modelopt_mxfp8",
        "MIXED_PRECISION": "modelopt_mixed",
    }.get(algorithm, "modelopt")


def _max_length(text: Mapping[str, Any]) -> tuple[int | None, str]:
    known = [(length, key) for key in _LENGTHS if (length := number(text, key))]
    if not known:
        return None, ""
    length, key = min(known)
    rope = mapping(text.get("rope_scaling")) or mapping(text.get("rope_parameters"))
    kind = word(rope, "rope_type", "type")
    factor = rope.get("factor")
    if kind not in _PRESCALED_ROPE and is_number(factor) and 0 < factor < 1e6:
        length = int(length * factor)
    return length, key


def _latent_dim(text: Mapping[str, Any]) -> int | None:
    rank = number(text, "kv_lora_rank")
    return rank and rank + (number(text, "qk_rope_head_dim") or 0)


def _shared_intermediate(
    text: Mapping[str, Any], experts: int, expert_intermediate: int | None
) -> int | None:
    if not experts:
        return 0
    names = (
        "shared_expert_intermediate_size",
        "shared_intermediate_size",
        "moe_shared_expert_intermediate_size",
    )
    width = number(text, *names)
    if width is None and word(text, "model_type").startswith("llama4"):
        width = number(text, "intermediate_size")  # a shared expert beside the routed ones
    count = number(text, "n_shared_experts", "num_shared_experts") or 0
    if width is not None or not count:
        return width or 0
    return expert_intermediate and count * expert_intermediate


def _moe_layers(text: Mapping[str, Any], experts: int, layers: int | None) -> int | None:
    if not experts:
        return 0
    if layers is None:
        return None
    frequency = text.get("moe_layer_freq")
    if isinstance(frequency, list | tuple):
        return sum(1 for item in frequency[:layers] if item)
    start = number(text, "first_k_dense_replace") or 0
    step = number(text, "moe_layer_freq", "decoder_sparse_step") or 1
    return len(range(start, layers, step))


def _full_attention_only(text: Mapping[str, Any]) -> bool:
    kinds = text.get("layer_types")
    if isinstance(kinds, list | tuple) and any(kind != "full_attention" for kind in kinds):
        return False
    window = (
        number(text, "sliding_window") is not None and text.get("use_sliding_window") is not False
    )
    return not window and not has_state(text) and "index_topk" not in text
