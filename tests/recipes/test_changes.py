"""What changed between two states of the recipes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_gpubench.model.cases import RecipeBook
from pytest_gpubench.recipes.changes import Change, changelog, changes, lines

Load = Callable[..., RecipeBook]

BASE = """
templates:
  base: {serve: {block-size: 128, max-model-len: 4096}, client: {range-ratio: 0.8}}
tiny-bf16-cpu-vllm:
  extends: base
  model: org/tiny
  model-prefix: tiny
  precision: bf16
  framework: vllm
  multinode: false
  runner: cpu
  scenarios: {fixed-seq-len: [{isl: 1024, osl: 1024, search-space: [{tp: 1, conc-list: [1, 4]}]}]}
  env: {HF_TOKEN: "hf_secret", LEVEL: "1"}
"""
ONE, FOUR = "tiny-bf16-cpu-vllm-tp1:1k1k-c1", "tiny-bf16-cpu-vllm-tp1:1k1k-c4"


@pytest.fixture
def differ(load: Load) -> Callable[[str, str], tuple[Change, ...]]:
    """The changes from the base to it with one text replaced."""

    def _differ(old: str, new: str) -> tuple[Change, ...]:
        assert old in BASE
        assert load(BASE).problems == load(BASE.replace(old, new)).problems == ()
        return changes(load(BASE), load(BASE.replace(old, new)))

    return _differ


def test_nothing_changes_by_moving_lines_or_links(load: Load) -> None:
    moved = "# a comment\n\n" + BASE.replace(
        "  runner: cpu\n", "  runner: cpu\n  source: https://example.org/recipe\n"
    )
    assert changes(load(BASE), load(moved)) == ()


@pytest.mark.parametrize(
    ("old", "new", "detail"),
    [
        ("block-size: 128", "block-size: 64", "serve.block-size: 128 -> 64"),
        ("range-ratio: 0.8", "range-ratio: 0.5", "workload.range-ratio: 0.8 -> 0.5"),
        ("runner: cpu", "runner: cpu\n  gates: {tpot_p50: 3%}", "gates.tpot_p50: not set -> 3%"),
        (
            "block-size: 128",
            "block-size: 128, enforce-eager: true",
            "serve.enforce-eager: not set -> true",
        ),
        ("model: org/tiny", "model: org/tinier", "model: org/tiny -> org/tinier"),
    ],
)
def test_every_case_that_a_change_reaches_is_named_with_it(
    differ: Callable[[str, str], tuple[Change, ...]], old: str, new: str, detail: str
) -> None:
    found = differ(old, new)
    assert [(change.case, change.kind) for change in found] == [(ONE, "changed"), (FOUR, "changed")]
    assert all(detail in change.details for change in found)
    assert lines(found) == [f"tiny-bf16-cpu-vllm: 2 cases changed: {', '.join(found[0].details)}"]


def test_values_of_variables_are_not_shown(
    differ: Callable[[str, str], tuple[Change, ...]],
) -> None:
    found = differ("hf_secret", "hf_other")
    assert found[0].details == ("env.HF_TOKEN changed",)
    assert "hf_" not in "".join(lines(found)) + changelog(found, "v1")


def test_new_and_removed_cases(differ: Callable[[str, str], tuple[Change, ...]]) -> None:
    found = differ("conc-list: [1, 4]", "conc-list: [1, 8]")
    assert [(change.case.rpartition("-")[2], change.kind) for change in found] == [
        ("c8", "new"),
        ("c4", "removed"),
    ]


def test_the_changelog_is_markdown(load: Load) -> None:
    after = load(BASE.replace("block-size: 128", "block-size: 64").replace("[1, 4]", "[1, 8]"))
    text = changelog(changes(load(BASE), after), "v1.2")
    assert text.splitlines() == [
        "## Recipes since v1.2",
        "",
        "### New",
        "",
        "- `tiny-bf16-cpu-vllm` (1 case: tp1:1k1k-c8)",
        "",
        "### Changed",
        "",
        "- `tiny-bf16-cpu-vllm` (1 case: tp1:1k1k-c1)",
        "    - serve.block-size: 128 -> 64",
        "",
        "### Removed",
        "",
        "- `tiny-bf16-cpu-vllm` (1 case: tp1:1k1k-c4)",
    ]
    assert changelog((), "v1.2") == "## Recipes since v1.2\n\nNo case changed."


def test_without_an_earlier_state_everything_is_new(load: Load) -> None:
    assert [change.kind for change in changes(RecipeBook(), load(BASE))] == ["new", "new"]


def test_secrets_that_differ_are_a_change_and_not_shown(load: Load) -> None:
    before, after = (
        load(BASE.replace("block-size: 128", f'block-size: 128, endpoint: "http://u:{word}@h"'))
        for word in ("one1", "two2")
    )
    found = changes(before, after)
    assert {change.details for change in found} == {("serve.endpoint changed",)}
