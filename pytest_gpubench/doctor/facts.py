"""Facts about models whose config.json need not be at hand: what planning knows without a download.

Sources: the defaults of vLLM 0.32's ``MiniMaxM3TextConfig`` (the released checkpoints override the context length and the number of
MTP modules), and the published description of the drafts: one dense Llama layer with 64 query heads of 128, each with its own KV
head, or 4 KV heads in the GQA retrain. What the FP4 checkpoints leave unquantized is an assumption. The vision tower is left
out: its head count is not known to us, so no rule speaks of it. A config.json at hand always wins over these.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

_DENSE_THEN_SPARSE = [0] * 3 + [1] * 57
M3_TEXT_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "model_type": "minimax_m3_text",
        "vocab_size": 200064,
        "hidden_size": 6144,
        "intermediate_size": 3072,
        "dense_intermediate_size": 12288,
        "shared_intermediate_size": 3072,
        "num_hidden_layers": 60,
        "num_attention_heads": 64,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "max_position_embeddings": 524288,
        "num_local_experts": 128,
        "num_experts_per_tok": 4,
        "n_shared_experts": 1,
        "num_mtp_modules": 1,
        "moe_layer_freq": _DENSE_THEN_SPARSE,
        "tie_word_embeddings": False,
        "sparse_attention_config": {
            "use_sparse_attention": True,
            "sparse_index_dim": 128,
            "sparse_num_index_heads": 4,
            "sparse_topk_blocks": 16,
            "sparse_block_size": 128,
            "sparse_attention_freq": _DENSE_THEN_SPARSE,
        },
    }
)

_NOT_QUANTIZED = ["lm_head", "embed_tokens", "vision_tower", "multi_modal_projector", "patch_merge_mlp", "block_sparse_moe.gate"]


def _m3(quantization: dict[str, Any] | None = None) -> dict[str, Any]:
    config: dict[str, Any] = {
        "architectures": ["MiniMaxM3SparseForConditionalGeneration"],
        "model_type": "minimax_m3_vl",
        "dtype": "bfloat16",
        "text_config": {**M3_TEXT_DEFAULTS, "max_position_embeddings": 1048576, "num_mtp_modules": 7},
    }
    return config if quantization is None else {**config, "quantization_config": quantization}


def _draft(kv_heads: int) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLMEagle3"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "hidden_size": 6144,
        "target_hidden_size": 6144,
        "num_hidden_layers": 1,
        "num_attention_heads": 64,
        "num_key_value_heads": kv_heads,
        "head_dim": 128,
        "vocab_size": 200064,
        "draft_vocab_size": 200064,
        "eagle_aux_hidden_state_layer_ids": [2, 30, 57],
        "num_aux_hidden_states": 3,
        "tie_word_embeddings": False,
    }


_KNOWN: dict[str, dict[str, Any]] = {
    "MiniMaxAI/MiniMax-M3": _m3(),
    "MiniMaxAI/MiniMax-M3-MXFP8": _m3({"quant_method": "mxfp8", "weight_block_size": [1, 32], "ignored_layers": _NOT_QUANTIZED}),
    "nvidia/MiniMax-M3-NVFP4": _m3({"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": [*_NOT_QUANTIZED, "self_attn"]}),
    "amd/MiniMax-M3-MXFP4": _m3({"quant_method": "quark", "quant_algo": "MXFP4", "exclude": [*_NOT_QUANTIZED, "self_attn"]}),
    "Inferact/MiniMax-M3-EAGLE3": _draft(kv_heads=64),
    "Inferact/MiniMax-M3-EAGLE3-GQA": _draft(kv_heads=4),
}


def known_config(repository: str) -> dict[str, Any] | None:
    """The facts about a repository in the form of its config.json (only the keys that rules read), or None if we have none."""
    return _KNOWN.get(repository)
