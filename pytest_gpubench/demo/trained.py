"""The trained pair: weights that come with the package, unfolded into the files of two model repositories.

``tools/train_demo_pair.py`` made the weights; ``data/README.md`` is their model card.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path

from pytest_gpubench.demo.tokenizer import BOS_ID, EOS_ID, to_json, tokenizer_files
from pytest_gpubench.demo.weights import LlamaShape, draft_config, generation_config, target_config
from pytest_gpubench.domain.failures import GpubenchError

TARGET_SHAPE = LlamaShape()
_DRAFT_INTERMEDIATE = 256
_DRAFT_VOCAB = 320


def write_trained_target(folder: Path) -> None:
    """Write the trained Llama with tokenizer, chat template and model card into a folder (made if missing).

    Raises:
        GpubenchError: if the package's own copy is damaged.
    """
    config = {**target_config(TARGET_SHAPE, BOS_ID, EOS_ID), "tie_word_embeddings": True}
    _write(
        folder,
        {
            "model.safetensors": _weights("target.safetensors"),
            "config.json": to_json(config),
            "generation_config.json": to_json(generation_config()),
            **tokenizer_files(TARGET_SHAPE.max_position),
        },
    )


def write_trained_draft(folder: Path) -> None:
    """Write the trained EAGLE3 draft of that Llama into a folder (made if missing).

    Raises:
        GpubenchError: if the package's own copy is damaged.
    """
    shape = replace(TARGET_SHAPE, intermediate=_DRAFT_INTERMEDIATE)
    config = draft_config(shape, _DRAFT_VOCAB, BOS_ID, EOS_ID)
    _write(folder, {"model.safetensors": _weights("draft.safetensors"), "config.json": to_json(config)})


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
            f"{name} in the installed package pytest-gpubench is damaged (its checksum is wrong); install the package again"
        )
    return content
