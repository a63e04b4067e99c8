"""What values read decides which points may share a result: a name that is overlooked would be a
wrong server."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_gpubench.model.cases import RecipeBook
from pytest_gpubench.recipes.inheritance import names_read, server_reads
from pytest_gpubench.recipes.problems import ProblemLog
from pytest_gpubench.recipes.yaml_tree import Node, read_tree


def tree(text: str) -> Node:
    node = read_tree("r.yaml", text.encode(), ProblemLog())
    assert node is not None
    return node


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("{a: [1, {b: 'x${isl}-${tp * 2}'}], c: '$${osl}'}", {"isl", "tp"}),
        ("'${conc if ep > 1 else 8}'", {"conc", "ep"}),
        ("[conc, 3, true]", set()),
    ],
)
def test_names_that_a_value_reads(text: str, names: set[str]) -> None:
    assert names_read(tree(text)) == names


def test_what_is_not_valid_may_read_everything() -> None:
    assert {"conc", "isl", "spec_tokens"} <= names_read(tree("'${conc +}'"))


@pytest.mark.parametrize(
    ("recipe", "names"),
    [
        (
            "{serve: {x: '${isl}'}, env: {A: '${tp}'}, speculative: {x: '${osl}'}, "
            "client: {seed: '${conc}'}}",
            {"isl", "tp", "osl"},
        ),
        (
            "{when: [{if: conc > 8, serve: {x: '${isl}'}}, {if: '${ep > 1}', env: {A: '${pp}'}}]}",
            {"conc", "isl", "ep", "pp"},
        ),
        ("{when: [{if: true, client: {seed: '${conc}'}}]}", set()),
    ],
)
def test_names_that_decide_a_server(recipe: str, names: set[str]) -> None:
    assert server_reads(tree(recipe)) == names


@pytest.mark.parametrize(
    ("serve", "split"),
    [
        ("serve: {x: 1}", False),
        ("serve: {x: '${conc}'}", True),
        ("serve: {x: {y: [1, '${conc + isl}']}}", True),
        ("env: {X: '${conc}'}\n  serve: {}", True),
        ("when:\n  - {if: conc > 8, serve: {x: 1}}\n  serve: {}", True),
        ("client: {temperature: '${conc / 100}'}\n  serve: {x: 1}", False),
    ],
)
def test_a_concurrency_that_is_read_makes_servers_differ(
    load: Callable[..., RecipeBook], whole: str, serve: str, split: bool
) -> None:
    book = load(whole.replace("serve: {block-size: 128}", serve))
    assert [str(problem) for problem in book.problems] == []
    assert len(book.servers) == (2 if split else 1)


def test_a_client_that_reads_the_concurrency_keeps_its_own_values(
    load: Callable[..., RecipeBook], whole: str
) -> None:
    client = "client: {temperature: '${conc / 100}', prompts-per-conc: '${conc}'}\n  serve: {x: 1}"
    book = load(whole.replace("serve: {block-size: 128}", client))
    assert [
        (case.workload.conc, case.workload.temperature, case.workload.num_prompts)
        for case in book.cases
    ] == [
        (4, 0.04, 16),
        (16, 0.16, 256),
    ]
