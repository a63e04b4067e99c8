"""What a recipe states of a model that is not at hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_gpubench.cli import main
from pytest_gpubench.doctor.context import memory_of
from pytest_gpubench.doctor.findings import Finding
from pytest_gpubench.doctor.rules import examine
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.hardware import HARDWARE
from pytest_gpubench.recipes.loading import load_recipes
from tests.doctor.doctor_support import TINY_DRAFT, TINY_LLAMA, eagle3, server

MARK = "(From the recipe's facts.)"
RECIPE = """
far-bf16-h100-vllm:
  model: {model}
  model-prefix: far
  precision: bf16
  framework: vllm
  runner: h100
  serve: {{max-model-len: 2304}}
  facts:
    config: {config}
    weight-bytes: {size}
  scenarios:
    fixed-seq-len:
    - {{isl: 1024, osl: 1024, search-space: [{{tp: 16, conc-list: [4]}}]}}
"""


def found(facts: dict[str, Any], *, tp: int = 16, **files: Any) -> dict[str, Finding]:
    findings = examine(server(tp=tp), hardware=HARDWARE["h100"], facts=FrozenMap(facts), **files)
    return {finding.rule: finding for finding in findings}


def test_facts_stand_for_files_and_are_named() -> None:
    assert "heads-by-tp" not in found({})
    told = found({"config": TINY_LLAMA})
    assert told["heads-by-tp"].message.endswith(MARK)
    assert "the recipe's facts stand for it" in told["unknown-model"].message
    assert MARK not in told["unknown-model"].message
    assert MARK not in told["gpus-above-node"].message, "it does not rest on them"


def test_stated_weights_count() -> None:
    spec, facts = server(tp=8), {"config": TINY_LLAMA, "weight-bytes": 2e12}
    estimate = memory_of(spec, hardware=HARDWARE["h100"], facts=FrozenMap(facts))
    assert estimate is not None
    assert estimate.weights_gib == pytest.approx(2e12 / 8 / 2**30, rel=0.01)
    assert found(facts, tp=8)["weights-above-memory"].message.endswith(MARK)


def test_a_drafts_facts() -> None:
    spec = server(draft=eagle3())
    facts = FrozenMap({"draft-config": {**TINY_DRAFT, "hidden_size": 512}})
    told = examine(spec, hardware=HARDWARE["h100"], target=TINY_LLAMA, facts=facts)
    assert any(one.rule == "draft-hidden-size" and MARK in one.message for one in told)


def test_files_that_are_there_count_and_contradictions_are_told() -> None:
    facts = {
        "config": {"num_attention_heads": 5, "hidden_size": 256, "rope_scaling": {"factor": 2}},
        "weight-bytes": 1e9,
    }
    told = examine(
        server(tp=2),
        hardware=HARDWARE["h100"],
        target={**TINY_LLAMA, "rope_scaling": {"factor": 4}},
        weights=2_000_000_000,
        facts=FrozenMap(facts),
    )
    assert not any(MARK in one.message or one.rule == "heads-by-tp" for one in told)
    assert [one.message for one in told if one.rule == "facts-contradict"] == [
        "facts.config.num_attention_heads is 5, the model's file says 8.",
        "facts.config.rope_scaling.factor is 2, the model's file says 4.",
        "facts.weight-bytes is 1,000,000,000, the weight files have 2,000,000,000 bytes.",
    ]
    close = examine(
        server(), hardware=HARDWARE["h100"], target=TINY_LLAMA, weights=1_004_000_000,
        facts=FrozenMap({"config": TINY_LLAMA, "weight-bytes": 1e9}),
    )  # fmt: skip
    assert not any(one.rule == "facts-contradict" for one in close)


def write(folder: Path, model: str, size: str) -> Path:
    path = folder / "recipes.yaml"
    path.write_text(RECIPE.format(model=model, config=json.dumps(TINY_LLAMA), size=size))
    return path


def test_a_recipe_states_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert main(["doctor", str(write(tmp_path, "org/far", "957.3e9"))]) == 1
    said = capsys.readouterr().out
    assert f"8 attention heads cannot be divided by tensor parallel size 16. {MARK}" in said
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({**TINY_LLAMA, "num_attention_heads": 16}))
    main(["doctor", str(write(tmp_path, str(model), "1000000"))])
    said = capsys.readouterr().out
    assert "facts.config.num_attention_heads is 8, the model's file says 16." in said


def test_they_do_not_change_the_server(tmp_path: Path) -> None:
    before = load_recipes([write(tmp_path, "org/far", "1e9")])
    after = load_recipes([write(tmp_path, "org/far", "2e9")])
    assert before.servers == after.servers
    assert before.cases[0].facts["weight-bytes"] == 1e9


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("weight-bytes: 1e9", "weight-bytes: big", "must be a number"),
        ("weight-bytes", "weight-byte", "did you mean 'weight-bytes'"),
        ("weight-bytes: 1e9", "weight-bytes: 0", "weight-bytes"),
        ("weight-bytes: 1e9", "draft-config: [1]", "draft-config: must be a map"),
    ],
)
def test_wrong_facts_are_one_sentence(tmp_path: Path, old: str, new: str, words: str) -> None:
    path = write(tmp_path, "org/far", "1e9")
    path.write_text(path.read_text().replace(old, new))
    [problem] = load_recipes([path]).problems
    assert words in str(problem)
    assert "recipes.yaml:11:" in str(problem)
