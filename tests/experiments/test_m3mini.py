from __future__ import annotations

import json
from pathlib import Path

from m3mini import (
    M3MINI,
    M3MINI_DRAFT,
    M3MINI_MXFP8,
    M3MINI_REPOSITORIES,
    m3mini_config,
    write_m3mini,
)

from pytest_gpubench.demo.tokenizer import EOS_ID
from pytest_gpubench.host.hub.local import Snapshot, find_snapshot


def _config(cache: Path, repository: str) -> dict[str, object]:
    found = find_snapshot(repository, None, cache, tokenizer=repository != M3MINI_DRAFT)
    assert isinstance(found, Snapshot), found
    config: dict[str, object] = json.loads((found.path / "config.json").read_text())
    return config


def test_a_server_finds_three_complete_repositories(tmp_path: Path) -> None:
    commits = write_m3mini(tmp_path)
    assert tuple(commits) == M3MINI_REPOSITORIES
    plain, quantized = _config(tmp_path, M3MINI), _config(tmp_path, M3MINI_MXFP8)
    assert {key for key in quantized if quantized[key] != plain.get(key)} == {"quantization_config"}
    assert _config(tmp_path, M3MINI_DRAFT)["architectures"] == ["LlamaForCausalLMEagle3"]
    assert write_m3mini(tmp_path) == commits


def test_what_the_kernels_of_minimax_m3_ask_for() -> None:
    text = m3mini_config()["text_config"]
    sparse = text["sparse_attention_config"]
    assert text["head_dim"] == sparse["sparse_index_dim"] == sparse["sparse_block_size"] == 128
    assert sparse["sparse_num_index_heads"] == text["num_key_value_heads"]
    assert all(
        size % 4 == 0
        for size in (
            text["num_attention_heads"],
            text["num_key_value_heads"],
            text["num_local_experts"],
        )
    )
    assert text["intermediate_size"] // 4 % 32 == 0  # of an expert, on one of four GPUs
    assert text["eos_token_id"] == EOS_ID
