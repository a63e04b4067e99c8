"""The embedded pair: weights that come with the package, unfolded into four model repositories of a
Hugging Face cache: target and draft as safetensors and as GGUF.

``experiments/demo_pair/train_demo_pair.py`` made the weights; ``data/README.md`` is their model
card.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from pytest_gpubench.demo.gguf_files import (
    DRAFT_GGUF_NAME,
    GGUF_NAME,
    eagle3_as_gguf,
    llama_as_gguf,
)
from pytest_gpubench.demo.repository import Content, publish_repository
from pytest_gpubench.demo.tokenizer import BOS_ID, EOS_ID, PAD_ID, to_json, tokenizer_files
from pytest_gpubench.model.evaluation import EMBEDDED_TASK
from pytest_gpubench.model.failures import GpubenchError

DEMO_TARGET = "pytest-gpubench/tiny-llama"
DEMO_DRAFT = "pytest-gpubench/tiny-llama-eagle3"
DEMO_TARGET_GGUF = "pytest-gpubench/tiny-llama-gguf"
DEMO_DRAFT_GGUF = "pytest-gpubench/tiny-llama-eagle3-gguf"
DEMO_REPOSITORIES = (DEMO_TARGET, DEMO_DRAFT, DEMO_TARGET_GGUF, DEMO_DRAFT_GGUF)


@dataclass(frozen=True, slots=True)
class LlamaShape:
    """Sizes of a Llama, in the words of its config.json; a draft takes those of its target."""

    hidden: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    intermediate: int = 512
    vocab: int = 2048
    max_position: int = 4096

    @property
    def aux_layers(self) -> tuple[int, int, int]:
        """The layers before which the draft reads the target's state: early, middle and late."""
        return (1, self.layers // 2, self.layers - 1)


TARGET_SHAPE = LlamaShape()
_DRAFT_INTERMEDIATE = 256
_DRAFT_VOCAB = 320
_F32_CONFIG = {"dtype": "float32", "torch_dtype": "float32"}


_WRITTEN: dict[str, Content] = {}
"""By this process: each server of a run asks for the pair."""


def write_demo_models(cache_dir: Path) -> dict[str, str]:
    """Write the trained pair, as safetensors and as GGUF, into a Hugging Face cache, where an
    engine with ``HF_HUB_OFFLINE=1`` finds them.

    Safe to call at any time, from several processes at once: what is there and intact stays, what
        is damaged is replaced.

    Returns:
        Commit by repository; the same on every machine.

    Raises:
        GpubenchError: if the cache cannot be written, or the package's own copy of the weights is
            damaged.
    """
    writers = {
        DEMO_TARGET: write_trained_target,
        DEMO_DRAFT: write_trained_draft,
        DEMO_TARGET_GGUF: write_trained_gguf,
        DEMO_DRAFT_GGUF: write_trained_draft_gguf,
    }
    return {
        repo: publish_repository(cache_dir, repo, write, _WRITTEN)
        for repo, write in writers.items()
    }


def write_trained_target(folder: Path) -> None:
    """Write the trained Llama with tokenizer, chat template and model card into a folder (made if
    missing).

    Raises:
        GpubenchError: if the package's own copy is damaged.
    """
    _write(
        folder,
        {
            "model.safetensors": _weights("target.safetensors"),
            "config.json": to_json(_trained_config()),
            "generation_config.json": to_json(generation_config()),
            **tokenizer_files(TARGET_SHAPE.max_position),
        },
    )


def write_trained_gguf(folder: Path) -> None:
    """Write the same Llama as one GGUF file in F32 into a folder (made if missing), beside the
    descriptions and the tokenizer that others than llama.cpp read.

    Raises:
        GpubenchError: if the package's own copy is damaged.
    """
    config = {**_trained_config(), **_F32_CONFIG}
    tokenizer = tokenizer_files(TARGET_SHAPE.max_position)
    weights = _weights("target.safetensors")
    _write(
        folder,
        {
            GGUF_NAME: llama_as_gguf(config, tokenizer["tokenizer.json"], weights),
            "config.json": to_json(config),
            "generation_config.json": to_json(generation_config()),
            **tokenizer,
        },
    )


def _trained_config() -> dict[str, Any]:
    return {**target_config(TARGET_SHAPE, BOS_ID, EOS_ID), "tie_word_embeddings": True}


def write_trained_draft(folder: Path) -> None:
    """Write the trained EAGLE3 draft of that Llama into a folder (made if missing).

    Raises:
        GpubenchError: if the package's own copy is damaged.
    """
    config = to_json(_trained_draft_config())
    _write(folder, {"model.safetensors": _weights("draft.safetensors"), "config.json": config})


def write_trained_draft_gguf(folder: Path) -> None:
    """Write the same draft as one GGUF file in F32 into a folder (made if missing).

    Raises:
        GpubenchError: if the package's own copy is damaged.
    """
    config = {**_trained_draft_config(), **_F32_CONFIG}
    tokenizer = tokenizer_files(TARGET_SHAPE.max_position)["tokenizer.json"]
    weights = _weights("draft.safetensors")
    content = eagle3_as_gguf(config, tokenizer, weights)
    _write(folder, {DRAFT_GGUF_NAME: content, "config.json": to_json(config)})


def _trained_draft_config() -> dict[str, Any]:
    shape = replace(TARGET_SHAPE, intermediate=_DRAFT_INTERMEDIATE)
    return draft_config(shape, _DRAFT_VOCAB, BOS_ID, EOS_ID)


def _write(folder: Path, contents: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {**contents, "README.md": _read("README.md")}.items():
        (folder / name).write_bytes(content)


def _read(name: str) -> bytes:
    return files(__package__).joinpath("data", name).read_bytes()


@cache
def _checksums() -> dict[str, str]:
    lines = _read("SHA256SUMS").decode("ascii").splitlines()
    return {name: digest for digest, name in (line.split() for line in lines)}


def _weights(name: str) -> bytes:
    content = _read(name)
    if hashlib.sha256(content).hexdigest() != _checksums()[name]:
        raise GpubenchError(
            f"{name} in the installed package pytest-gpubench is damaged (its checksum "
            "is wrong); install the package again"
        )
    return content


def target_config(shape: LlamaShape, bos: int, eos: int) -> dict[str, Any]:
    """config.json of the target."""
    return {
        "architectures": ["LlamaForCausalLM"],
        **_llama_config(shape, bos, eos),
        "num_hidden_layers": shape.layers,
    }


def draft_config(shape: LlamaShape, draft_vocab: int, bos: int, eos: int) -> dict[str, Any]:
    """config.json of the draft: one layer, as many KV heads as heads, three auxiliary hidden
    states."""
    return {
        "architectures": ["LlamaForCausalLMEagle3"],
        **_llama_config(shape, bos, eos),
        "num_hidden_layers": 1,
        "num_key_value_heads": shape.heads,
        "draft_vocab_size": draft_vocab,
        "target_hidden_size": shape.hidden,
        "num_aux_hidden_states": 3,
        "eagle_aux_hidden_state_layer_ids": list(shape.aux_layers),
        # SGLang looks here only, and counts one lower.
        "eagle_config": {
            "eagle_aux_hidden_state_layer_ids": [layer - 1 for layer in shape.aux_layers],
            "use_aux_hidden_state": True,
        },
    }


def generation_config() -> dict[str, Any]:
    """generation_config.json of a target: greedy."""
    return {
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
        "pad_token_id": PAD_ID,
        "do_sample": False,
    }


def _llama_config(shape: LlamaShape, bos: int, eos: int) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "dtype": "bfloat16",
        "torch_dtype": "bfloat16",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocab,
        "max_position_embeddings": shape.max_position,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": bos,
        "eos_token_id": eos,
    }


_QUESTIONS = "recall.jsonl"
_TASK = f"""\
task: {EMBEDDED_TASK}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {_QUESTIONS}
output_type: generate_until
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs:
  until: ["\\n"]
  max_gen_toks: 48
filter_list:
- name: first-sentence
  filter:
  - function: regex
    regex_pattern: "^\\\\s*([^.]*\\\\.)"
  - function: take_first
metric_list:
- metric: exact_match
  aggregation: mean
  higher_is_better: true
metadata:
  version: 1
"""


def write_task(folder: Path) -> Path:
    """Write the task and its questions into a folder; returns the path of its YAML file."""
    folder.mkdir(parents=True, exist_ok=True)
    questions = files("pytest_gpubench.demo").joinpath("data", _QUESTIONS)
    (folder / _QUESTIONS).write_bytes(questions.read_bytes())
    path = folder / f"{EMBEDDED_TASK}.yaml"
    path.write_text(_TASK, encoding="utf-8")
    return path
