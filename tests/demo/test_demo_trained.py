"""The shipped pair: its files fit each other and are cheap to unfold. What it writes is seen on an
engine only."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from tokenizers import Tokenizer

from pytest_gpubench.demo import models
from pytest_gpubench.demo import tokenizer as demo
from pytest_gpubench.demo.models import write_demo_models
from pytest_gpubench.load.prompts import WORDS
from pytest_gpubench.model.failures import GpubenchError

DATA = Path(str(files("pytest_gpubench.demo").joinpath("data")))
LIMIT = 8_000_000


@pytest.fixture(scope="module", name="pair")
def _pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    models.write_trained_target(folder / "target")
    models.write_trained_draft(folder / "draft")
    return folder


def _shapes(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """dtype and shape of every tensor, from the header alone."""
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    header.pop("__metadata__")
    return {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in header.items()}


def test_the_two_together_stay_small() -> None:
    assert sum(path.stat().st_size for path in DATA.glob("*.safetensors")) <= LIMIT


def test_checksums_are_those_of_the_files() -> None:
    listed = {
        name: digest
        for digest, name in (
            line.split() for line in (DATA / "SHA256SUMS").read_text().splitlines()
        )
    }
    assert listed == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in DATA.glob("*.safetensors")
    }


def test_damaged_weights_are_not_unfolded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        models,
        "_read",
        lambda name: b"x" if name.endswith(".safetensors") else (DATA / name).read_bytes(),
    )
    with pytest.raises(GpubenchError, match=r"target\.safetensors .* install the package again"):
        models.write_trained_target(tmp_path)


def test_target_tensors_fit_its_config(pair: Path) -> None:
    config = json.loads((pair / "target" / "config.json").read_text())
    hidden, heads, kv, dim = (
        config[key]
        for key in ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim")
    )
    shapes = _shapes(pair / "target" / "model.safetensors")
    assert {dtype for dtype, _ in shapes.values()} == {"BF16"}
    assert config["tie_word_embeddings"] is True
    assert "lm_head.weight" not in shapes
    assert shapes["model.embed_tokens.weight"][1] == (config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        assert shapes[f"{prefix}self_attn.q_proj.weight"][1] == (heads * dim, hidden)
        assert shapes[f"{prefix}self_attn.k_proj.weight"][1] == (kv * dim, hidden)
        assert shapes[f"{prefix}mlp.gate_proj.weight"][1] == (config["intermediate_size"], hidden)
    assert f"model.layers.{config['num_hidden_layers']}.mlp.gate_proj.weight" not in shapes


def test_draft_tensors_fit_its_config_and_its_target(pair: Path) -> None:
    config = json.loads((pair / "draft" / "config.json").read_text())
    target = json.loads((pair / "target" / "config.json").read_text())
    hidden, heads, dim = (config[key] for key in ("hidden_size", "num_attention_heads", "head_dim"))
    shapes = _shapes(pair / "draft" / "model.safetensors")
    assert hidden == target["hidden_size"] == config["target_hidden_size"]
    assert config["num_key_value_heads"] == heads, "MHA, as MiniMax-M3's head"
    assert shapes["fc.weight"][1] == (hidden, 3 * hidden)
    assert (
        len(set(config["eagle_aux_hidden_state_layer_ids"])) == config["num_aux_hidden_states"] == 3
    )
    assert max(config["eagle_aux_hidden_state_layer_ids"]) < target["num_hidden_layers"]
    for part in ("q_proj", "k_proj", "v_proj"):
        assert shapes[f"midlayer.self_attn.{part}.weight"][1] == (heads * dim, 2 * hidden)
    assert shapes["midlayer.mlp.gate_proj.weight"][1] == (config["intermediate_size"], hidden)
    assert shapes["lm_head.weight"][1] == (config["draft_vocab_size"], hidden)


def test_draft_ids_are_words_and_signs_that_the_target_writes(pair: Path) -> None:
    with safe_open(pair / "draft" / "model.safetensors", "np") as file:
        offsets = file.get_tensor("d2t")
    ids = (offsets + np.arange(len(offsets))).tolist()
    assert ids == sorted(set(ids))
    names = {index: token for token, index in demo.vocabulary().items()}
    marks = {names[index] for index in ids if not names[index].startswith("\u0120")}
    assert marks == {"<|end|>", "<|user|>", "<|assistant|>", *".,?!:"}


def test_words_of_prompts_and_corpus_are_one_token_each() -> None:
    tokenizer = Tokenizer.from_str(demo.tokenizer_files(4096)["tokenizer.json"].decode())
    assert len(tokenizer.encode(" ".join(WORDS)).ids) == len(WORDS)
    corpus = (DATA / "corpus.txt").read_text(encoding="ascii")
    signs = sum(corpus.count(sign) for sign in ".,?!:")
    assert (
        len(tokenizer.encode(corpus.replace("\n", " ").strip()).ids) == len(corpus.split()) + signs
    )


def test_card_names_licence_and_data() -> None:
    card = (DATA / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\n")
    assert "experiments/demo_pair/train_demo_pair.py" in card


def test_unfolding_takes_seconds_and_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom pytest_gpubench.demo.models import "
        "write_demo_models\n"
    )
    code += (
        "write_demo_models(Path(sys.argv[1]))\nassert 'torch' not in sys.modules and "
        "'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], check=True, timeout=600)
    times = []
    for number in range(3):
        begin = time.process_time()
        write_demo_models(tmp_path / str(number))
        times.append(time.process_time() - begin)
    assert min(times) < 5.0, "seconds of CPU time; training them would take minutes"
