from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_models import (
    Tensor,
    draft_tensors,
    draft_token_ids,
    target_tensors,
    text_token_ids,
    to_bf16,
    write_random_draft,
    write_random_model,
)
from safetensors import safe_open
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from pytest_gpubench.demo.models import LlamaShape
from pytest_gpubench.demo.tokenizer import tokenizer_files
from pytest_gpubench.host.hub.local import Snapshot, find_snapshot
from pytest_gpubench.model.failures import GpubenchError

SMALL = LlamaShape(hidden=64, layers=4, heads=2, kv_heads=1, head_dim=32, intermediate=96)


def _floats(tensor: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    assert tensor.dtype == "BF16"
    bits = np.frombuffer(tensor.data, dtype="<u2").astype(np.uint32) << 16
    return bits.view(np.float32).reshape(tensor.shape)


@given(
    st.floats(
        width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**100), max_value=2.0**100
    )
)
def test_bf16_is_the_nearest_of_its_neighbours(value: float) -> None:
    bits = int(to_bf16(np.array([value], dtype=np.float32))[0])

    def of(pattern: int) -> float:
        return float(np.array([pattern << 16], dtype=np.uint32).view(np.float32)[0])

    distance = abs(of(bits) - value)
    assert distance <= abs(of(bits + 1) - value)
    if bits & 0x7FFF:
        assert distance <= abs(of(bits - 1) - value)


def test_bf16_ties_go_to_even() -> None:
    halfway = np.array([0x3F808000, 0x3F818000], dtype=np.uint32).view(np.float32)
    assert to_bf16(halfway).tolist() == [0x3F80, 0x3F82]


def test_weights_depend_on_seed_and_name_only() -> None:
    first = {tensor.name: tensor.data for tensor in target_tensors(SMALL, 0, text_token_ids())}
    again = {tensor.name: tensor.data for tensor in target_tensors(SMALL, 0, text_token_ids())}
    other = {tensor.name: tensor.data for tensor in target_tensors(SMALL, 1, text_token_ids())}
    assert first == again
    changed = [name for name in first if "norm" not in name]
    assert all(first[name] != other[name] for name in changed)
    assert len({first[name][-64:] for name in changed}) == len(changed)


def test_scales_keep_activations_sane() -> None:
    tensors = {
        tensor.name: _floats(tensor) for tensor in target_tensors(SMALL, 0, text_token_ids())
    }
    assert tensors["model.embed_tokens.weight"][:, 1:].std() == pytest.approx(1.0, rel=0.02)
    assert tensors["model.layers.0.mlp.up_proj.weight"].std() == pytest.approx(1 / 8, rel=0.05)
    assert tensors["lm_head.weight"][:, 1:].mean() == pytest.approx(0.0, abs=0.002)


def test_ids_that_are_no_text_are_out_of_reach() -> None:
    """A head over any hidden state that the layers can make prefers every writable id to every
    other one."""
    tensors = {
        tensor.name: _floats(tensor) for tensor in target_tensors(SMALL, 0, text_token_ids())
    }
    for layer in range(SMALL.layers):
        assert not tensors[f"model.layers.{layer}.self_attn.o_proj.weight"][0].any()
        assert not tensors[f"model.layers.{layer}.mlp.down_proj.weight"][0].any()
    hidden = np.random.default_rng(3).normal(size=(200, SMALL.hidden)).astype(np.float32)
    hidden[:, 0] = tensors["model.embed_tokens.weight"][0, 0]
    hidden /= np.sqrt((hidden**2).mean(axis=1, keepdims=True))
    logits = hidden @ tensors["lm_head.weight"].T
    writable = np.zeros(SMALL.vocab, dtype=bool)
    writable[text_token_ids()] = True
    assert (logits[:, writable].min(axis=1) > logits[:, ~writable].max(axis=1) + 10).all()


def test_draft_has_the_parts_of_an_eagle3_head() -> None:
    ids = draft_token_ids(100)
    tensors = {tensor.name: tensor for tensor in draft_tensors(SMALL, 0, ids)}
    assert tensors["fc.weight"].shape == (64, 192)
    assert tensors["midlayer.self_attn.q_proj.weight"].shape == (64, 128)
    assert tensors["midlayer.self_attn.k_proj.weight"].shape == (64, 128), (
        "as many KV heads as heads"
    )
    assert tensors["lm_head.weight"].shape == (100, 64)
    offsets = np.frombuffer(tensors["d2t"].data, dtype="<i8")
    assert (offsets + np.arange(100)).tolist() == ids


def test_files_read_back_with_safetensors(tmp_path: Path) -> None:
    write_random_model(tmp_path / "target", SMALL)
    write_random_draft(tmp_path / "draft", SMALL)
    with safe_open(tmp_path / "target" / "model.safetensors", "np") as file:
        assert file.get_slice("lm_head.weight").get_dtype() == "BF16"
        assert file.get_slice("lm_head.weight").get_shape() == [SMALL.vocab, SMALL.hidden]
    with safe_open(tmp_path / "draft" / "model.safetensors", "np") as file:
        assert file.get_tensor("d2t").dtype == np.int64
    config = json.loads((tmp_path / "draft" / "config.json").read_text())
    assert config["num_key_value_heads"] == config["num_attention_heads"] == SMALL.heads
    assert len(set(config["eagle_aux_hidden_state_layer_ids"])) == 3
    assert all(0 < layer < SMALL.layers for layer in config["eagle_aux_hidden_state_layer_ids"])


def test_large_models_are_cut_into_shards(tmp_path: Path) -> None:
    write_random_model(tmp_path / "whole", SMALL)
    write_random_model(tmp_path / "cut", SMALL, shard_bytes=200_000)
    index = json.loads((tmp_path / "cut" / "model.safetensors.index.json").read_text())
    assert (
        len(set(index["weight_map"].values()))
        == len(list((tmp_path / "cut").glob("model-*.safetensors")))
        > 1
    )
    assert isinstance(
        find_snapshot(str(tmp_path / "cut"), None, tmp_path, tokenizer=True), Snapshot
    )
    with safe_open(tmp_path / "whole" / "model.safetensors", "np") as whole:
        assert set(whole.keys()) == set(index["weight_map"])
        for name, shard in index["weight_map"].items():
            with safe_open(tmp_path / "cut" / shard, "np") as part:
                assert part.get_slice(name).get_shape() == whole.get_slice(name).get_shape()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layers": 3}, "layers is 3"),
        ({"kv_heads": 3, "heads": 4}, "heads (4) must be a multiple of kv-heads (3)"),
        ({"kv_heads": 0}, "kv-heads is 0"),
        ({"vocab": 100}, "vocab is 100; the tokenizer has 2048 ids"),
        ({"intermediate": 0}, "intermediate (0)"),
    ],
)
def test_impossible_sizes_are_named(tmp_path: Path, change: dict[str, int], words: str) -> None:
    with pytest.raises(GpubenchError) as caught:
        write_random_model(tmp_path / "model", replace(SMALL, **change))
    assert words in str(caught.value)
    assert not (tmp_path / "model").exists()


def test_what_the_model_may_write_is_valid_text_token_by_token() -> None:
    tokenizer = Tokenizer.from_str(tokenizer_files(4096)["tokenizer.json"].decode())
    ids = text_token_ids()
    stream = DecodeStream(skip_special_tokens=True)
    pieces = [stream.step(tokenizer, token) for token in ids]
    assert all(piece and piece.isascii() and piece.isprintable() for piece in pieces)
    assert tokenizer.encode("".join(piece or "" for piece in pieces).lstrip()).ids == ids


def test_draft_ids_ascend_and_can_be_written_by_the_target() -> None:
    ids = draft_token_ids(1024)
    assert len(ids) == 1024
    assert ids == sorted(ids)
    assert set(ids) <= set(text_token_ids())
