"""The GGUF files of the pair, read back by a reader of its own and by the package gguf, against the
safetensors that they were made from."""

from __future__ import annotations

import importlib.util
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from jinja2 import Environment
from tokenizers import Tokenizer

from pytest_gpubench.demo import models
from pytest_gpubench.demo.gguf_files import DRAFT_GGUF_NAME, GGUF_CHAT_TEMPLATE, GGUF_NAME
from pytest_gpubench.demo.tokenizer import CHAT_TEMPLATE, tokenizer_files, vocabulary
from pytest_gpubench.host.hub.local import Snapshot, find_snapshot

NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class Reader:
    """The few types of GGUF that the file has, from a position that moves on."""

    def __init__(self, content: bytes) -> None:
        self.content, self.position = content, 0

    def number(self, code: str) -> Any:
        (value,) = struct.unpack_from(f"<{code}", self.content, self.position)
        self.position += struct.calcsize(f"<{code}")
        return value

    def text(self) -> str:
        length = self.number("Q")
        self.position += length
        return self.content[self.position - length : self.position].decode()

    def value(self, kind: int) -> Any:
        plain: dict[int, Callable[[], Any]] = {
            4: lambda: self.number("I"),
            5: lambda: self.number("i"),
            6: lambda: self.number("f"),
            7: lambda: self.number("?"),
            8: self.text,
        }
        if kind == 9:
            inner, count = self.number("I"), self.number("Q")
            return [plain[inner]() for _ in range(count)]
        return plain[kind]()


def read(content: bytes) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    reader = Reader(content)
    assert content[:4] == b"GGUF"
    reader.position = 4
    assert reader.number("I") == 3
    tensors, count = reader.number("Q"), reader.number("Q")
    facts = {}
    for _ in range(count):
        name = reader.text()
        facts[name] = reader.value(reader.number("I"))
    infos = []
    for _ in range(tensors):
        name = reader.text()
        shape = [reader.number("Q") for _ in range(reader.number("I"))][::-1]
        dtype = {0: "<f4", 27: "<i8"}[reader.number("I")]
        infos.append((name, shape, dtype, reader.number("Q")))
    begin = -(-reader.position // 32) * 32
    assert not any(content[reader.position : begin])
    assert all(offset % 32 == 0 for _, _, _, offset in infos)
    values = {
        name: np.frombuffer(content, dtype, int(np.prod(shape)), begin + offset).reshape(shape)
        for name, shape, dtype, offset in infos
    }
    last, _, _, offset = infos[-1]
    assert len(content) == begin + offset + -(-values[last].nbytes // 32) * 32
    return facts, values


def safetensors_of(path: Path) -> dict[str, npt.NDArray[Any]]:
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__")
    found = {}
    for name, entry in header.items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        if entry["dtype"] == "I64":
            found[name] = np.frombuffer(content[begin:end], "<i8")
            continue
        assert entry["dtype"] == "BF16"
        halves = np.frombuffer(content[begin:end], "<u2").reshape(entry["shape"])
        found[name] = (halves.astype("<u4") << 16).view("<f4")
    return found


def halves_apart(values: npt.NDArray[np.float32], heads: int) -> npt.NDArray[np.float32]:
    """Rows in pairs, as llama.cpp rotates them, back to two halves of each head."""
    per_head = values.shape[0] // heads
    rows = [
        head * per_head + pair * 2 + half
        for head in range(heads)
        for half in range(2)
        for pair in range(per_head // 2)
    ]
    return values[rows]


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    models.write_trained_gguf(folder / "gguf")
    models.write_trained_target(folder / "target")
    models.write_trained_draft_gguf(folder / "gguf")
    models.write_trained_draft(folder / "draft")
    return folder


def test_every_tensor_is_that_of_the_safetensors(folder: Path) -> None:
    _, tensors = read((folder / "gguf" / GGUF_NAME).read_bytes())
    expected = safetensors_of(folder / "target" / "model.safetensors")
    config = json.loads((folder / "target" / "config.json").read_text())
    names = {"token_embd.weight": "model.embed_tokens.weight"}
    names["output_norm.weight"] = "model.norm.weight"
    for layer in range(config["num_hidden_layers"]):
        for short, long in NAMES.items():
            names[f"blk.{layer}.{short}.weight"] = f"model.layers.{layer}.{long}.weight"
    assert set(names) == set(tensors)
    assert set(names.values()) == set(expected)
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    for name, values in tensors.items():
        for part, count in heads.items():
            if f".{part}." in name:
                assert not np.array_equal(values, expected[names[name]])
                values = halves_apart(values, count)
        assert np.array_equal(values, expected[names[name]]), name


def test_the_draft_is_that_of_the_safetensors_with_the_ids_of_the_target(folder: Path) -> None:
    facts, tensors = read((folder / "gguf" / DRAFT_GGUF_NAME).read_bytes())
    expected = safetensors_of(folder / "draft" / "model.safetensors")
    config = json.loads((folder / "draft" / "config.json").read_text())
    names = {f"blk.0.{short}.weight": f"midlayer.{long}.weight" for short, long in NAMES.items()}
    names["blk.0.attn_norm_2.weight"] = "midlayer.hidden_norm.weight"
    names |= {"fc.weight": "fc.weight", "output_norm.weight": "norm.weight", "d2t": "d2t"}
    names["output.weight"] = "lm_head.weight"
    assert set(names) == set(tensors)
    assert set(names.values()) == set(expected)
    for name, values in tensors.items():
        if name == "d2t":
            values = values - np.arange(len(values))
        elif ".attn_q." in name or ".attn_k." in name:
            values = halves_apart(values, config["num_attention_heads"])
        assert np.array_equal(values, expected[names[name]]), name
    assert facts["general.architecture"] == "eagle3"
    assert facts["eagle3.target_layers"] == config["eagle_aux_hidden_state_layer_ids"]
    assert facts["eagle3.target_hidden_size"] == config["target_hidden_size"]
    assert facts["eagle3.norm_before_residual"] is False


def test_facts_are_those_of_the_config_and_the_tokenizer(folder: Path) -> None:
    facts, _ = read((folder / "gguf" / GGUF_NAME).read_bytes())
    config = json.loads((folder / "target" / "config.json").read_text())
    assert next(iter(facts)) == "general.architecture"
    for name, key in {
        "llama.context_length": "max_position_embeddings",
        "llama.embedding_length": "hidden_size",
        "llama.block_count": "num_hidden_layers",
        "llama.feed_forward_length": "intermediate_size",
        "llama.attention.head_count": "num_attention_heads",
        "llama.attention.head_count_kv": "num_key_value_heads",
        "llama.attention.key_length": "head_dim",
        "llama.rope.dimension_count": "head_dim",
        "llama.vocab_size": "vocab_size",
        "tokenizer.ggml.bos_token_id": "bos_token_id",
        "tokenizer.ggml.eos_token_id": "eos_token_id",
    }.items():
        assert facts[name] == config[key], name
    assert facts["llama.rope.freq_base"] == config["rope_theta"]
    assert facts["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(config["rms_norm_eps"])
    assert {t: i for i, t in enumerate(facts["tokenizer.ggml.tokens"])} == vocabulary()
    assert [i for i, kind in enumerate(facts["tokenizer.ggml.token_type"]) if kind == 3] == [
        *range(6)
    ]
    merges = json.loads((folder / "target" / "tokenizer.json").read_text())["model"]["merges"]
    assert facts["tokenizer.ggml.merges"] == merges


@pytest.mark.parametrize("content", ["Once upon a time", " Once", "word", "", "a b, c. d?"])
def test_its_chat_template_writes_the_space_that_the_tokenizer_adds(content: str) -> None:
    turns = [{"role": "system", "content": content}, {"role": "user", "content": content}]

    def render(template: str) -> str:
        return (
            Environment(autoescape=False)
            .from_string(template)
            .render(messages=turns, bos_token="<|begin|>", add_generation_prompt=True)
        )

    written = render(GGUF_CHAT_TEMPLATE)
    tokenizer = Tokenizer.from_str(tokenizer_files(64)["tokenizer.json"].decode())
    assert tokenizer.encode(written).ids == tokenizer.encode(render(CHAT_TEMPLATE)).ids
    assert GGUF_CHAT_TEMPLATE != CHAT_TEMPLATE
    assert written.count("|> ") == (2 if content else 0)


def test_the_repository_is_a_whole_model_with_a_tokenizer(tmp_path: Path) -> None:
    commits = models.write_demo_models(tmp_path)
    found = find_snapshot(models.DEMO_TARGET_GGUF, None, tmp_path, tokenizer=True)
    assert isinstance(found, Snapshot)
    assert found.commit == commits[models.DEMO_TARGET_GGUF]
    assert (found.path / GGUF_NAME).read_bytes()[:4] == b"GGUF"
    assert json.loads((found.path / "config.json").read_text())["dtype"] == "float32"


@pytest.mark.parametrize("name", [GGUF_NAME, DRAFT_GGUF_NAME])
@pytest.mark.skipif(
    importlib.util.find_spec("gguf") is None, reason="the package gguf is not installed"
)
def test_the_package_gguf_reads_the_same(folder: Path, name: str) -> None:
    gguf = importlib.import_module("gguf")
    path = folder / "gguf" / name
    _, expected = read(path.read_bytes())
    reader = gguf.GGUFReader(path)
    assert {tensor.name: tensor.data.shape for tensor in reader.tensors} == {
        name: values.shape for name, values in expected.items()
    }
    for tensor in reader.tensors:
        assert np.array_equal(tensor.data, expected[tensor.name]), tensor.name
    assert reader.get_field("tokenizer.chat_template").contents() == GGUF_CHAT_TEMPLATE
    assert len(reader.get_field("tokenizer.ggml.tokens").contents()) == len(vocabulary())
