"""`client: {tool: aiperf}`: what it takes, what becomes of it, and what is refused where it
stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_gpubench.load.datasets import comparable, dataset_problem
from pytest_gpubench.load.load_run import waves_of
from pytest_gpubench.model.cases import RecipeBook
from pytest_gpubench.model.client_tools import Tool
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.workload import AGENTIC, Workload

RECIPE = """
m-fp8-h100-vllm:
  {model: org/m, model-prefix: m, precision: fp8, framework: vllm, runner: h100, serve: {}, client: {CLIENT}, scenarios: {fixed-seq-len: [{isl: 128, osl: 32, search-space: [{tp: 1, conc-list: [4]}]}]}}
"""


def of(load: Callable[..., RecipeBook], client: str) -> RecipeBook:
    return load(RECIPE.replace("CLIENT", client))


def test_a_row_becomes_the_tools_workload(load: Callable[..., RecipeBook]) -> None:
    client = (
        "tool: aiperf, prompts-per-conc: 5, arguments: {prefix-prompt-length: 9, tokenizer: null}"
    )
    book = of(load, client)
    assert [str(problem) for problem in book.problems] == []
    (case,) = book.cases
    it = case.workload
    assert it.tool == Tool("aiperf", "", FrozenMap({"prefix-prompt-length": 9}))
    assert (it.num_prompts, it.num_warmups, it.range_ratio, it.label) == (20, 8, 1.0, "128x32-c4")
    assert case.runnable


def test_a_file_is_found_from_the_recipe_and_decides_what_is_comparable(
    load: Callable[..., RecipeBook], tmp_path: Path
) -> None:
    book = of(load, "tool: aiperf, arguments: {input-file: trace.jsonl}")
    (case,) = book.cases
    assert case.workload.tool
    assert case.workload.traced
    assert (case.rounds.least, case.rounds.most) == (1, 1)
    assert Path(str(case.workload.tool.arguments["input-file"])).is_absolute()
    failure = dataset_problem(case.workload)
    assert failure
    assert "the input-file of aiperf" in failure.summary
    assert "does not exist" in failure.summary

    def with_file(path: Path) -> Workload:
        return replace(case.workload, tool=Tool("aiperf", "", FrozenMap({"input-file": str(path)})))

    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    one.write_text("{}\n")
    two.write_text("{}\n")
    assert dataset_problem(with_file(one)) is None
    assert comparable(with_file(one)) == comparable(with_file(two))
    two.write_text("{}\n{}\n")
    assert comparable(with_file(one)) != comparable(with_file(two))
    assert comparable(with_file(tmp_path))["arguments"]["input-file"].keys() >= {"one.jsonl"}


def test_numbers_of_a_tool_are_never_compared_with_ours() -> None:
    ours = Workload(128, 32, 4, 40, 8, range_ratio=1.0)
    theirs = replace(ours, tool=Tool("aiperf"))
    assert comparable(theirs)["tool"] == "aiperf 0.13"
    assert "tool" not in comparable(ours)  # what was recorded before stays comparable
    assert comparable(ours) != comparable(theirs)


def test_a_launch_is_warmed_up_by_our_own_client() -> None:
    traced = Workload(0, 0, 8, 8, 0, dataset=AGENTIC, tool=Tool("aiperf"))
    waves = waves_of([traced], 1)
    assert [(wave.isl, wave.osl, wave.tool, wave.dataset) for wave in waves] == [
        (512, 12, None, "random")
    ] * 2


@pytest.mark.parametrize(
    ("client", "path", "words"),
    [
        ("tool: aiperf2", "client.tool", "must be 'aiperf', not 'aiperf2'"),
        ("scenario: x", "client.scenario", "add `tool: aiperf`"),
        ("arguments: {x: 1}", "client.arguments", "add `tool: aiperf`"),
        ("tool: aiperf, scenario: x", "client.scenario", "is for rows of agentic-coding"),
        ("tool: aiperf, turns: 3", "client.turns", "aiperf does not take it; write its own flag"),
        ("tool: aiperf, dataset: text", "client.dataset", "aiperf does not take it"),
        ("tool: aiperf, profile: inferencex", "client.profile", "aiperf does not take it"),
        ("tool: aiperf, arrival: poisson", "client.arrival", "needs request-rate"),
        ("tool: aiperf, slo: {ttft: 1}, request-rate: 2", "client.request-rate", "has no meaning"),
        (
            "tool: aiperf, prompts-per-conc: 2, arguments: {input-file: x}",
            "client.prompts-per-conc",
            "the trace that aiperf replays says that",
        ),
        *(
            (f"tool: aiperf, arguments: {{{argument}}}", "client.arguments", words)
            for argument, words in (
                ("api-key: x", "handed over in the environment"),
                ("header: 'a: b'", "a header may hold a key"),
                ("url: x", "the server is the recipe's"),
                ("concurrency: 3", "it is the row's `conc`"),
                ("num-requests: 3", "write `client.prompts-per-conc`"),
                ("search-recipe: x", "write one row a point"),
                ("vllm-burstiness: 2", "write `client.burstiness`"),
                ("wandb-project: x", "a run is offline"),
                ("system-prompt-file: x", "no part of what is comparable"),
                ("--random-seed: 1", "without dashes before it: 'random-seed'"),
                ("random_seed: 1", "without dashes before it: 'random-seed'"),
                ("extra-inputs: 'a:1'", "write a map"),
                ("input-file: 3", "must be the path of a file"),
                ("x: [[1]]", "a list of numbers and texts"),
                ("x: 'API_TOKEN=abcdefgh12345678'", "holds a value of API_TOKEN"),
            )
        ),
    ],
)
def test_what_is_wrong_is_said_where_it_stands(
    load: Callable[..., RecipeBook], client: str, path: str, words: str
) -> None:
    found = [str(problem) for problem in of(load, client).problems]
    assert len(found) == 1, found
    assert f"m-fp8-h100-vllm.{path}" in found[0]
    assert words in found[0]
