"""Models' config.json: read from the folders that are at hand, or what is known beforehand without
a download.

The doctor's one edge: nothing else in it reads files.

Sources of what is known: the defaults of vLLM 0.32's ``MiniMaxM3TextConfig`` (the released
checkpoints override the context length and the number of MTP modules), and the published
description of the drafts: one dense Llama layer with 64 query heads of 128, each with its own KV
head, or 4 KV heads in the GQA retrain. What the FP4 checkpoints leave unquantized is an assumption.
The vision tower is left out: its head count is not known to us, so no rule speaks of it. A
config.json at hand always wins over these.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pytest_gpubench.host.hub.local import weight_size
from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.model.frozen import mapping

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

_NOT_QUANTIZED = [
    "lm_head",
    "embed_tokens",
    "vision_tower",
    "multi_modal_projector",
    "patch_merge_mlp",
    "block_sparse_moe.gate",
]


def _m3(quantization: dict[str, Any] | None = None) -> dict[str, Any]:
    config: dict[str, Any] = {
        "architectures": ["MiniMaxM3SparseForConditionalGeneration"],
        "model_type": "minimax_m3_vl",
        "dtype": "bfloat16",
        "text_config": {
            **M3_TEXT_DEFAULTS,
            "max_position_embeddings": 1048576,
            "num_mtp_modules": 7,
        },
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
    "MiniMaxAI/MiniMax-M3-MXFP8": _m3(
        {"quant_method": "mxfp8", "weight_block_size": [1, 32], "ignored_layers": _NOT_QUANTIZED}
    ),
    "nvidia/MiniMax-M3-NVFP4": _m3(
        {
            "quant_method": "modelopt",
            "quant_algo": "NVFP4",
            "ignore": [*_NOT_QUANTIZED, "self_attn"],
        }
    ),
    "amd/MiniMax-M3-MXFP4": _m3(
        {"quant_method": "quark", "quant_algo": "MXFP4", "exclude": [*_NOT_QUANTIZED, "self_attn"]}
    ),
    "Inferact/MiniMax-M3-EAGLE3": _draft(kv_heads=64),
    "Inferact/MiniMax-M3-EAGLE3-GQA": _draft(kv_heads=4),
}


def known_config(repository: str) -> dict[str, Any] | None:
    """The facts about a repository in the form of its config.json (only the keys that rules read),
    or None if we have none."""
    return _KNOWN.get(repository)


_LARGEST = 8 * 1024**2


@dataclass(frozen=True, slots=True)
class ModelConfigs:
    """What the folders of a model and its draft say; None: not known."""

    target: Mapping[str, Any] | None = None
    draft: Mapping[str, Any] | None = None
    chat_template: bool | None = None
    weights: int | None = None
    """Bytes of the model's weight files; None where they are not all there."""


def read_model_configs(target: Path | None, draft: Path | None = None) -> ModelConfigs:
    """Read the config.json of a model and of its draft, and whether the model's folder holds a chat
    template.

    A folder is a local model or a snapshot in the Hugging Face cache. Where a folder is None or has
    no config.json, the answer is None; the chat template is unknown where the tokenizer's files are
    not there.

    Raises:
        GpubenchError: if a config.json is there and cannot be read as a JSON object.
    """
    return ModelConfigs(
        _described(target),
        _described(draft),
        _chat_template(target),
        weight_size(target) if target is not None else None,
    )


def _described(folder: Path | None) -> Mapping[str, Any] | None:
    """The config.json; ModelOpt's older checkpoints describe their quantization beside it."""
    config = _json_object(folder, "config.json")
    if config is None or "quantization_config" in config:
        return config
    beside = mapping((_json_object(folder, "hf_quant_config.json") or {}).get("quantization"))
    if not beside:
        return config
    return {**config, "quantization_config": {"quant_method": "modelopt", **beside}}


def _chat_template(folder: Path | None) -> bool | None:
    if folder and any(
        (folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json")
    ):
        return True
    tokenizer = _json_object(folder, "tokenizer_config.json")
    return None if tokenizer is None else bool(tokenizer.get("chat_template"))


def _json_object(folder: Path | None, name: str) -> Mapping[str, Any] | None:
    if folder is None or not (folder / name).is_file():
        return None
    path = folder / name
    try:
        if path.stat().st_size > _LARGEST:
            raise GpubenchError(
                f"{path} is larger than {_LARGEST // 1024**2} MiB and no model's "
                "description: put the right file there."
            )
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise GpubenchError(
            f"{path} cannot be read ({error.strerror}): give access to it or fetch the model again."
        ) from None
    except (ValueError, RecursionError) as error:
        raise GpubenchError(f"{path} is not JSON ({error}): fetch the model again.") from None
    if not isinstance(value, dict):
        raise GpubenchError(f"{path} holds no JSON object: fetch the model again.")
    return value
