"""A plain Llama of 8B sizes: config, tokenizer and chat template, without weights
(``load-format: dummy``). The vocabulary is the embedded pair's.

    python experiments/hardware/llama8b.py CACHE
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from m3mini import MAX_POSITION, write_files

from pytest_gpubench.demo.repository import publish_repository
from pytest_gpubench.demo.tokenizer import (
    BOS_ID,
    EOS_ID,
    PAD_ID,
    VOCAB_SIZE,
    to_json,
    tokenizer_files,
)

LLAMA8B = "pytest-gpubench/llama-8b-sizes"


def llama8b_config() -> dict[str, Any]:
    """Llama 3.1 8B's sizes, with a small vocabulary."""
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "hidden_act": "silu",
        "max_position_embeddings": MAX_POSITION,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
        "pad_token_id": PAD_ID,
        "dtype": "bfloat16",
    }


def write_llama8b(cache_dir: Path) -> str:
    """Write it into a Hugging Face cache; its commit.

    Raises:
        GpubenchError: if the cache cannot be written.
    """
    return publish_repository(cache_dir, LLAMA8B, _write)


def _write(folder: Path) -> None:
    write_files(folder, {"config.json": to_json(llama8b_config()), **tokenizer_files(MAX_POSITION)})


if __name__ == "__main__":
    print(write_llama8b(Path(sys.argv[1])))
