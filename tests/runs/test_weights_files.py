"""Which file of weights an engine is given that takes files instead of repositories."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_gpubench.dialects.command_line import DRAFT_WEIGHTS, WEIGHTS
from pytest_gpubench.model.failures import BenchmarkError
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.specs import ServerSpec, Speculative, Topology
from pytest_gpubench.runs.model_files import (
    fetch_weights,
    files_of_weights,
    models_of,
    weights_files,
)


def spec(model: str, serve: dict[str, object] | None = None, draft: str = "") -> ServerSpec:
    speculative = Speculative("eagle3", 3, draft) if draft else None
    return ServerSpec(
        "llamacpp", model, "cpu", Topology(), FrozenMap(serve or {}), speculative=speculative
    )


def test_a_folder_with_one_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + bytes(100))
    served = spec(str(tmp_path))
    assert not models_of(served)[0].tokenizer
    assert fetch_weights(served, tmp_path / "cache") == {str(tmp_path): None}
    assert weights_files(served, None) == {WEIGHTS: str(tmp_path / "m.gguf")}


def test_the_embedded_pair(tmp_path: Path) -> None:
    served = spec("pytest-gpubench/tiny-llama-gguf", draft="pytest-gpubench/tiny-llama-eagle3-gguf")
    fetch_weights(served, tmp_path)
    files = weights_files(served, tmp_path)
    assert sorted(files) == sorted((WEIGHTS, DRAFT_WEIGHTS))
    assert all(Path(file).is_file() and file.endswith(".gguf") for file in files.values())


def test_several_files_need_a_word(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(BenchmarkError, match=r"it holds a\.gguf, b\.gguf") as caught:
        weights_files(spec(str(tmp_path)), None)
    assert "serve.hf-file" in caught.value.failure.remedy
    chosen = weights_files(spec(str(tmp_path), {"hf-file": "b.gguf"}), None)
    assert chosen == {WEIGHTS: str(tmp_path / "b.gguf")}


def test_other_engines_are_given_repositories() -> None:
    assert weights_files(ServerSpec("vllm", "m", "cpu", Topology(), FrozenMap()), None) == {}


def test_what_a_server_will_read(tmp_path: Path) -> None:
    pair = ServerSpec(
        "vllm",
        "pytest-gpubench/tiny-llama",
        "cpu",
        Topology(),
        FrozenMap(),
        speculative=Speculative("eagle3", 3, "pytest-gpubench/tiny-llama-eagle3"),
    )
    assert files_of_weights(pair, tmp_path) == ()
    fetch_weights(pair, tmp_path)
    target, draft = files_of_weights(pair, tmp_path)
    assert target.name == draft.name == "model.safetensors"
    assert "eagle3" in str(draft)
    dummy = ServerSpec("vllm", pair.model, "cpu", Topology(), FrozenMap({"load-format": "dummy"}))
    assert files_of_weights(dummy, tmp_path) == ()
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + bytes(100))
    assert files_of_weights(spec(str(tmp_path)), None) == (tmp_path / "m.gguf",)
