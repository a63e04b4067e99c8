"""Every YAML block of README and docs/ is loaded as a user's recipes.yaml would be."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_gpubench.gate.ratios import faults
from pytest_gpubench.recipes.loading import load_recipes
from tests.docs.commands import Block, pages, read_blocks
from tests.docs.sandbox import ROOT

BASE = """
templates:
  some:
    {model: some/model, model-prefix: some, precision: bf16, framework: vllm, multinode: false, runner: h100,
     serve: {max-model-len: 2304},
     speculative: {method: eagle3, model: Inferact/MiniMax-M3-EAGLE3, num-speculative-tokens: 3}}
some-bf16-h100-vllm-mtp:
  extends: some
  scenarios:
    {fixed-seq-len: [{isl: 1024, osl: 1024, search-space: [{tp: 1, conc-list: [4], spec-decoding: mtp}]}]}
"""
"""The end of a recipe, to which a part of one is added."""


def _mapping(block: Block) -> dict[str, Any] | None:
    """What a block holds, where it is YAML of a kind that we write."""
    if block.commands() or block.info not in ("", "yaml"):
        return None
    try:
        found = yaml.safe_load("\n".join(block.lines))
    except yaml.YAMLError:
        assert block.info != "yaml", f"{block.where}: is no YAML"
        return None
    if not isinstance(found, dict) or not all(
        isinstance(value, dict | list) for value in found.values()
    ):
        return found if isinstance(found, dict) and block.info == "yaml" else None
    return found


BLOCKS = [
    (block, found)
    for page, text in pages(ROOT).items()
    for block in read_blocks(page, text)
    if (found := _mapping(block)) is not None
]


@pytest.mark.parametrize(("block", "found"), BLOCKS, ids=[block.where for block, _ in BLOCKS])
def test_a_block_is_accepted(block: Block, found: dict[str, Any], tmp_path: Path) -> None:
    if "jobs" in found:
        assert isinstance(found["jobs"], dict), block.where  # the schema of workflows is lint's
        return
    text = textwrap.dedent("\n".join(block.lines)) + "\n"
    is_part = not any("-" in name or name in ("templates", "ratios") for name in found)
    above = BASE + textwrap.indent(text, "  ") if is_part else _above(block) + text
    path = tmp_path / "recipes.yaml"
    path.write_text(above)
    if above.startswith((ROOT / "recipes.yaml").read_text()):
        (tmp_path / "recipes.d").symlink_to(ROOT / "recipes.d")
    book = load_recipes([path])
    assert not book.problems, "\n".join(map(str, book.problems))
    assert book.cases
    assert not faults(book.ratios, book.cases)


def _above(block: Block) -> str:
    """The recipes that a page builds on: what it has shown before, else this repository's."""
    if "append" not in block.notes:
        return "" if "ratios" not in "".join(block.lines) else (ROOT / "recipes.yaml").read_text()
    shown = [other for other, _ in BLOCKS if other.page == block.page and other.line < block.line]
    return "".join("\n".join(other.lines) + "\n" for other in shown)
