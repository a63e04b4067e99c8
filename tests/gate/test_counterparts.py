"""Servers and cases of another state of the recipes."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_gpubench.gate.baseline_key import Counterparts, counterparts
from pytest_gpubench.recipes.loading import load_recipes

BASE = """
tiny-bf16-cpu-vllm:
  model: org/tiny
  model-prefix: tiny
  precision: bf16
  framework: vllm
  multinode: false
  runner: cpu
  scenarios: {fixed-seq-len: [{isl: 1024, osl: 1024, search-space: [{tp: 1, conc-list: [1, 4]}]}]}
  serve: {max-num-seqs: 8}
  client: {dataset: jsonl, dataset-file: prompts.jsonl}
  evals:
  - {task: gsm8k, limit: 100}
"""
SERVER = "tiny-bf16-cpu-vllm-tp1"
ONE, FOUR = f"{SERVER}:1k1k-c1", f"{SERVER}:1k1k-c4"


def _matched(tmp_path: Path, old: str = "", new: str = "", prompts: str = "one") -> Counterparts:
    assert old in BASE
    books = []
    for name, text, lines in (("a", BASE, "one"), ("b", BASE.replace(old, new), prompts)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "recipes.yaml").write_text(text if old else BASE)
        (folder / "prompts.jsonl").write_text(lines)
        books.append(load_recipes([folder / "recipes.yaml"]))
        assert not books[-1].problems
    return counterparts(*books)


def test_the_same_recipes_match_whatever_folder_they_are_in(tmp_path: Path) -> None:
    found = _matched(tmp_path)
    assert found.unlike == {}
    assert list(found.servers) == [SERVER]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("max-num-seqs: 8", "max-num-seqs: 16"),
        ("model: org/tiny", "model: org/other"),
        ("  serve:", "  env: {A: '1'}\n  serve:"),
    ],
)
def test_what_is_compared_may_differ(tmp_path: Path, old: str, new: str) -> None:
    found = _matched(tmp_path, old, new)
    assert found.unlike == {}
    assert list(found.servers) == [SERVER]


@pytest.mark.parametrize(
    ("old", "new", "unlike"),
    [
        (
            "conc-list: [1, 4]",
            "conc-list: [2, 4]",
            {ONE: "there is no such case"},
        ),
        (
            "client: {",
            "client: {prompts-per-conc: 3, ",
            {
                ONE: "it asks for other work: num_prompts: 10 before, 3 now",
                FOUR: "it asks for other work: num_prompts: 40 before, 12 now",
            },
        ),
        (
            "limit: 100",
            "limit: 50",
            {
                f"{SERVER}:gsm8k": "it asks for other work: num_prompts: 100 before, 50 now; "
                "limit: 100 before, 50 now"
            },
        ),
    ],
)
def test_other_work_is_not_compared(
    tmp_path: Path, old: str, new: str, unlike: dict[str, str]
) -> None:
    found = _matched(tmp_path, old, new)
    assert found.unlike == unlike
    assert list(found.servers) == [SERVER], "the cases that match still have their server"


SPLIT = ("  client:", "  when:\n  - {if: conc == 4, serve: {block-size: 64}}\n  client:")


def test_cases_that_share_a_server_must_share_one_there(tmp_path: Path) -> None:
    found = _matched(tmp_path, *SPLIT)
    assert list(found.servers) == [SERVER], "that of the first case"
    assert ONE not in found.unlike
    assert found.unlike[FOUR].endswith("give each case its own with --gpubench-server-per=point")


def test_prompts_are_compared_by_their_contents(tmp_path: Path) -> None:
    found = _matched(tmp_path, prompts="two")
    assert set(found.unlike) == {ONE, FOUR}, "an evaluation brings its own questions"
    assert "dataset_file: " in found.unlike[ONE]
