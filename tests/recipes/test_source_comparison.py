"""Recipes against the official ones that they follow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.recipes.importing.official_entries import entry_path
from pytest_gpubench.recipes.loading import load_recipes
from pytest_gpubench.recipes.source_comparison import (
    Comparison,
    compare,
    idle_everywhere,
    lines_of,
)

ADDRESS = "https://recipes.vllm.ai/org/Model"
ENTRY: dict[str, Any] = yaml.safe_load("""
model: {model_id: org/Model, base_args: ["--block-size", "128"], base_env: {A: "1"}}
features:
  tools: {args: ["--tool-call-parser", "x"]}
  text_only: {args: ["--language-model-only"]}
  spec_decoding:
    args: ["--speculative-config", '{"method": "eagle3", "model": "o/d", "num_speculative_tokens": 3}']
opt_in_features: [text_only]
variants:
  default: {precision: bf16, vram_minimum_gb: 600}
  fp8: {model_id: org/Model-FP8, precision: fp8, vram_minimum_gb: 300, extra_args: ["--attention_config.backend", "X"]}
compatible_strategies: [single_node_tp, single_node_tep, single_node_dep]
strategy_overrides: {single_node_dep: {extra_args: ["--dep"]}}
""")
RECIPE = """
model-fp8-h200-vllm{mtp}:
  model: {model}
  model-prefix: model
  precision: fp8
  framework: vllm
  runner: h200
  source: {source}
  scenarios:
    fixed-seq-len:
    - {{isl: 128, osl: 32, search-space: {rows}}}
"""
TP = "[{tp: 8, conc-list: [1]}]"


def comparison(
    folder: Path,
    more: str = "",
    *,
    source: str = ADDRESS,
    rows: str = TP,
    mtp: str = "",
    model: str = "org/Model-FP8",
) -> Comparison:
    file = folder / "recipes.yaml"
    text = RECIPE.format(source=source, rows=rows, mtp=mtp, model=model) + more
    file.write_text(text)
    book = load_recipes([file])
    assert not book.problems, book.problems
    return compare(book.cases, dict(book.servers), ENTRY, {})


def names(made: Comparison) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    return {one.name: (one.ours, one.theirs) for one in made.differences}


def test_differences_are_flags_with_both_values(tmp_path: Path) -> None:
    more = "  serve: {block-size: 64, attention-config: {backend: X}, trust: true}\n  env: {A: 1, B: 2}\n"
    made = comparison(tmp_path, more)
    assert names(made) == {
        "block-size": (("64",), ("128",)),
        "tool-call-parser": (("none",), ("x",)),
        "trust": (("true",), ("none",)),
        "max-model-len": (("416",), ("none",)),
        "B": (("2",), ("none",)),
    }
    assert made.meant == ("fp8, single_node_tp on h200",)
    assert len(made.unexplained) == 5


def test_a_recipe_explains_a_difference(tmp_path: Path) -> None:
    more = (
        "  serve: {block-size: 64, attention-config: {backend: Y, other: 1}}\n"
        "  differs: {block-size: measured, attention-config: both, A: none, dtype: idle}\n"
    )
    made = comparison(tmp_path, more)
    assert {one.name: one.why for one in made.differences if one.why} == {
        "block-size": "measured",
        "attention-config.backend": "both",
        "attention-config.other": "both",
        "A": "none",
    }
    assert made.idle == ("dtype",)
    assert idle_everywhere([made]) == ["dtype"]
    lines = list(lines_of(made))
    assert lines[0] == f"model-fp8-h200-vllm: {ADDRESS} (fp8, single_node_tp on h200)"
    assert "  explained: block-size: ours 64, official 128" in lines
    assert "    measured" in lines
    assert "  NOT EXPLAINED: tool-call-parser: ours none, official x" in lines


def test_a_strategy_is_the_rows(tmp_path: Path) -> None:
    rows = "[{tp: 8, conc-list: [1]}, {tp: 8, ep: 8, dp-attn: true, conc-list: [1]}]"
    made = comparison(tmp_path, rows=rows)
    (dep,) = (one for one in made.differences if one.name == "dep")
    assert (dep.theirs, dep.servers, made.servers) == (("true",), 1, 2)
    assert any("(1 of 2 servers)" in line for line in lines_of(made))
    assert "tensor-parallel-size" not in names(made)


def test_a_draft_is_compared_key_by_key(tmp_path: Path) -> None:
    rows = "[{tp: 8, conc-list: [1], spec-decoding: mtp}]"
    more = "  speculative: {method: eagle3, model: o/d, num-speculative-tokens: 2}\n"
    made = comparison(tmp_path, more, rows=rows, mtp="-mtp")
    assert names(made)["speculative.num-speculative-tokens"] == (("2",), ("3",))
    assert "speculative" not in names(comparison(tmp_path))  # a feature of drafted servers only


def test_what_is_meant_of_the_official_recipe_can_be_said(tmp_path: Path) -> None:
    source = (
        f"{{at: {ADDRESS}, variant: default, strategy: single_node_dep, features: [text_only]}}"
    )
    made = comparison(tmp_path, source=source, model="somebody/Else")
    assert made.meant == ("default, single_node_dep on h200",)
    assert names(made)["model"] == (("somebody/Else",), ("org/Model",))
    assert names(made)["language-model-only"] == (("none",), ("true",))


@pytest.mark.parametrize(
    ("source", "model", "says"),
    [
        (ADDRESS, "somebody/Else", "no variant of the entry serves somebody/Else"),
        (
            f"{{at: {ADDRESS}, variant: x}}",
            "org/Model",
            "no variant 'x'; the entry has default, fp8",
        ),
        (f"{{at: {ADDRESS}, strategy: pd}}", "org/Model", "no strategy 'pd' for one node"),
        (f"{{at: {ADDRESS}, features: [x]}}", "org/Model", "no feature 'x'; the entry has tools"),
    ],
)
def test_what_the_entry_has_not_is_an_error(
    tmp_path: Path, source: str, model: str, says: str
) -> None:
    with pytest.raises(GpubenchError, match=f"model-fp8-h200-vllm: {says}"):
        comparison(tmp_path, source=source, model=model)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("{variant: x}", "missing key 'at'"),
        ("{at: x, variants: y}", "did you mean 'variant'"),
        ("[x]", "must be"),
        ("5", "must be"),
    ],
)
def test_a_wrong_source_is_a_sentence(tmp_path: Path, source: str, says: str) -> None:
    file = tmp_path / "recipes.yaml"
    file.write_text(RECIPE.format(source=source, rows=TP, mtp="", model="m"))
    problems = [str(one) for one in load_recipes([file]).problems]
    assert len(problems) == 1
    assert says in problems[0]
    assert ".source" in problems[0]


def test_a_reason_is_text(tmp_path: Path) -> None:
    file = tmp_path / "recipes.yaml"
    file.write_text(RECIPE.format(source="x", rows=TP, mtp="", model="m") + "  differs: {a: 5}\n")
    (problem,) = load_recipes([file]).problems
    assert "differs.a: must be text" in str(problem)


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("https://recipes.vllm.ai/org/Model-1.5", "models/org/Model-1.5.yaml"),
        ("https://recipes.vllm.ai/org/Model?variant=fp8", "models/org/Model.yaml"),
        ("https://recipes.vllm.ai/org/Model/", "models/org/Model.yaml"),
        ("https://github.com/vllm-project/recipes/blob/main/models/o/m.yaml", "models/o/m.yaml"),
        ("https://recipes.vllm.ai/../x", ""),
        ("https://recipes.vllm.ai/org/..", ""),
        ("https://example.org/org/Model", ""),
        ("", ""),
    ],
)
def test_addresses_of_official_recipes(address: str, path: str) -> None:
    assert entry_path(address) == path


def test_the_shipped_recipes_name_an_official_one_and_give_reasons() -> None:
    """Whether they are enough, `gpubench compare-source` says: the official file is not ours."""
    book = load_recipes([Path(__file__).parents[2] / "recipes.yaml"])
    cases = [case for case in book.cases if case.recipe.startswith("minimaxm3")]
    cases = [case for case in cases if case.workload.dataset != "agentic"]
    assert len({case.recipe for case in cases}) >= 20
    for case in cases:
        assert entry_path(case.source) == "models/MiniMaxAI/MiniMax-M3.yaml"
        assert "max-model-len" in case.differs
