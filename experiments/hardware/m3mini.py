"""MiniMax-M3 shrunk until one GPU holds it: config, tokenizer and chat template, without weights
(``load-format: dummy``).

What makes MiniMax-M3 what it is for an engine is kept: its architecture, sparse attention with an
index of 128 dimensions and blocks of 128 tokens, grouped queries, experts with a shared one, MXFP8
in one of the two, and an EAGLE3 draft with full multi-head attention. Numbers of layers, heads and
experts are small. Weights are whatever the engine makes up, so no draft token is accepted, and the
text means nothing: good for starts, kernels, throughput and faults, not for acceptance.

    python experiments/hardware/m3mini.py CACHE
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytest_gpubench.demo.repository import publish_repository
from pytest_gpubench.demo.tokenizer import (
    BOS_ID,
    EOS_ID,
    PAD_ID,
    VOCAB_SIZE,
    to_json,
    tokenizer_files,
)

M3MINI = "pytest-gpubench/m3mini"
M3MINI_MXFP8 = "pytest-gpubench/m3mini-mxfp8"
M3MINI_DRAFT = "pytest-gpubench/m3mini-eagle3"
M3MINI_REPOSITORIES = (M3MINI, M3MINI_MXFP8, M3MINI_DRAFT)

MAX_POSITION = 16384
_HIDDEN = 1024
_LAYERS, _DENSE = 6, 3
_SPARSE_LAYERS = [0] * _DENSE + [1] * (_LAYERS - _DENSE)
_HEAD_DIM = _SPARSE_BLOCK = 128
"""Fixed by the kernels."""
_EXPERT = 1024
"""Width of an expert. Eight ranks have 128 each, the least that Marlin's MXFP8 kernel takes."""
_TOP_BLOCKS = 16
"""A context of more than so many blocks, 2048 tokens, is one from which the sparse attention really
chooses."""


def write_m3mini(cache_dir: Path) -> dict[str, str]:
    """Write the bf16 model, the MXFP8 one and their draft into a Hugging Face cache; commits by
    repository, the same everywhere.

    Safe to call at any time, from several processes at once.

    Raises:
        GpubenchError: if the cache cannot be written.
    """
    parts: dict[str, Callable[[Path], None]] = {
        M3MINI: lambda folder: _write_target(folder, m3mini_config()),
        M3MINI_MXFP8: lambda folder: _write_target(
            folder, m3mini_config() | {"quantization_config": _MXFP8}
        ),
        M3MINI_DRAFT: lambda folder: write_files(
            folder, {"config.json": to_json(m3mini_draft_config())}
        ),
    }
    return {
        repository: publish_repository(cache_dir, repository, write)
        for repository, write in parts.items()
    }


def m3mini_config(*, heads: int = 16, experts: int = 16, vision_heads: int = 8) -> dict[str, Any]:
    """The target's config.json; other sizes than these are for servers that are meant to die."""
    text = {
        "model_type": "minimax_m3_text",
        "architectures": ["MiniMaxM3SparseForCausalLM"],
        "vocab_size": VOCAB_SIZE,
        "hidden_size": _HIDDEN,
        "intermediate_size": _EXPERT,
        "dense_intermediate_size": 2 * _EXPERT,
        "shared_intermediate_size": _EXPERT,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": heads,
        # As MiniMax-M3: each is on two of eight ranks.
        "num_key_value_heads": 4,
        "head_dim": _HEAD_DIM,
        "max_position_embeddings": MAX_POSITION,
        "rms_norm_eps": 1e-6,
        "use_gemma_norm": True,
        "rope_theta": 5000000,
        "rotary_dim": 64,
        "partial_rotary_factor": 0.5,
        "hidden_act": "swigluoai",
        "swiglu_alpha": 1.702,
        "swiglu_limit": 7.0,
        "use_qk_norm": True,
        "qk_norm_type": "per_head",
        "num_local_experts": experts,
        "num_experts_per_tok": min(4, experts),
        "n_shared_experts": 1,
        "scoring_func": "sigmoid",
        "use_routing_bias": True,
        "routed_scaling_factor": 2.0,
        "num_mtp_modules": 0,
        "moe_layer_freq": _SPARSE_LAYERS,
        "sparse_attention_config": {
            "use_sparse_attention": True,
            "sparse_index_dim": _HEAD_DIM,
            "sparse_num_index_heads": 4,
            "sparse_topk_blocks": _TOP_BLOCKS,
            "sparse_block_size": _SPARSE_BLOCK,
            "sparse_disable_index_value": _SPARSE_LAYERS,
            "sparse_score_type": "max",
            "sparse_init_block": 0,
            "sparse_local_block": 1,
            "sparse_attention_freq": _SPARSE_LAYERS,
        },
        "tie_word_embeddings": False,
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
        "dtype": "bfloat16",
    }
    return {
        "model_type": "minimax_m3_vl",
        "architectures": ["MiniMaxM3SparseForConditionalGeneration"],
        "text_config": text,
        # Its constructor runs even in a server that takes text only; heads must divide by TP.
        "vision_config": {
            "model_type": "minimax_m3_vl_vision",
            "hidden_size": 64 * vision_heads,
            "intermediate_size": 1024,
            "num_hidden_layers": 1,
            "num_attention_heads": vision_heads,
            "num_channels": 3,
            "image_size": 224,
            "patch_size": 14,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
            "layer_norm_eps": 1e-5,
            "hidden_act": "gelu",
            "rope_theta": 10000.0,
            "img_token_compression_config": {"spatial_merge_size": 2, "temporal_patch_size": 2},
        },
        "projector_hidden_size": _HIDDEN,
        "image_token_index": PAD_ID,
        "video_token_index": PAD_ID + 1,
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
        "dtype": "bfloat16",
    }


def m3mini_draft_config() -> dict[str, Any]:
    """The draft's config.json: a dense Llama layer whose heads all have keys and values of their
    own, as the published draft's."""
    return {
        "architectures": ["LlamaForCausalLMEagle3"],
        "model_type": "llama",
        "hidden_size": _HIDDEN,
        "target_hidden_size": _HIDDEN,
        "intermediate_size": 2048,
        "num_hidden_layers": 1,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "head_dim": _HEAD_DIM,
        "vocab_size": VOCAB_SIZE,
        "draft_vocab_size": VOCAB_SIZE,
        "max_position_embeddings": MAX_POSITION,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "dtype": "bfloat16",
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
        "eagle_aux_hidden_state_layer_ids": [1, 3, 5],
        "num_aux_hidden_states": 3,
        "rope_theta": 5000000,
        "tie_word_embeddings": False,
    }


_MXFP8: dict[str, Any] = {
    "quant_method": "mxfp8",
    "activation_scheme": "dynamic",
    "weight_block_size": [1, 32],
    "ignored_layers": [
        *("lm_head", "embed_tokens", "vision_tower", "multi_modal_projector", "patch_merge_mlp"),
        "block_sparse_moe.gate",
    ],
}
_CARD = (
    "---\nlicense: apache-2.0\n---\nThe architecture of MiniMax-M3 in a small size, without "
    "weights (`--load-format dummy`).\n"
    "Written by pytest-gpubench, for tests on GPUs.\n"
)


def _write_target(folder: Path, config: dict[str, Any]) -> None:
    write_files(folder, {"config.json": to_json(config), **tokenizer_files(MAX_POSITION)})


_HEADER = b'{"none": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}'
_ONE_BYTE = len(_HEADER).to_bytes(8, "little") + _HEADER + b"\0"
"""A safetensors file that holds one byte: by it everybody who looks for a complete repository finds
one."""


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    """A repository without weights: these files, and what makes it look complete."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {
        **files,
        "model.safetensors": _ONE_BYTE,
        "README.md": _CARD.encode(),
    }.items():
        (folder / name).write_bytes(content)


if __name__ == "__main__":
    for repository, commit in write_m3mini(Path(sys.argv[1])).items():
        print(repository, commit)
