"""Rows of traces of coding sessions: sized by the host's memory, run where a tool replays them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_gpubench.model.cases import RecipeBook
from pytest_gpubench.recipes.expansion import dram_budget_gb

RECIPE = """
runners:
  cluster:b300-nv: {hardware: b300, dram-mib: 2964436}
m-fp8-b300-vllm-agentic-mtp:
  model: org/m
  model-prefix: m
  precision: fp8
  framework: vllm
  runner: cluster:b300-nv
  serve: {seed: "${dram_gb + conc}"}                          # a number that shows both
  speculative: {method: eagle3, model: Inferact/MiniMax-M3-EAGLE3, num-speculative-tokens: 3, synthetic-acceptance-length: golden}
  when:
    - {if: kv_offloading == 'dram', env: {A: "${dram_gb}"}, serve: {kv-offloading-size: 9}}
    - {if: kv_offload_backend == 'mooncake', env: {B: 1}}
  scenarios:
    agentic-coding:
      - dram-utilization: 0.95
        search-space:
          - {tp: 8, kv-offloading: none, conc-list: [1], spec-decoding: mtp}
          - {tp: 4, kv-offloading: dram, kv-offload-backend: {name: mooncake}, conc-list: [1, 5], spec-decoding: mtp}
"""


def test_rows_are_planned_and_not_run_without_a_tool(load: Callable[..., RecipeBook]) -> None:
    book = load(RECIPE)
    assert [str(problem) for problem in book.problems] == []
    assert [case.workload.conc for case in book.cases] == [1, 1, 5]
    assert {case.server for case in book.cases} >= {"m-fp8-b300-vllm-mtp-agentic-tp8"}
    assert all(
        not case.runnable and "are replayed by AIPerf: write" in case.why_not for case in book.cases
    )
    assert {(case.workload.label, case.workload.duration) for case in book.cases} == {
        ("agentic-c1", 3600.0),
        ("agentic-c5", 3600.0),
    }
    assert {case.max_model_len for case in book.cases} == {None}
    assert "dram" in book.cases[1].tags
    assert "dram" not in book.cases[0].tags


TOOL = """
  client: {tool: aiperf, scenario: s, arguments: {public-dataset: p, extra: "${conc}"}, ignore-eos: true}
  serve:"""


def test_a_tool_makes_rows_runnable_where_nothing_else_is_needed(
    load: Callable[..., RecipeBook],
) -> None:
    book = load(RECIPE.replace("\n  serve:", TOOL, 1))
    assert [str(problem) for problem in book.problems] == []
    assert [case.why_not for case in book.cases] == [
        "",
        *["its row needs mooncake_master beside the engine, which is not started here"] * 2,
    ]
    tools = [case.workload.tool for case in book.cases]
    assert [tool and (tool.scenario, tool.arguments["extra"]) for tool in tools] == [
        ("s", 1),
        ("s", 1),
        ("s", 5),
    ]
    assert {(case.rounds.least, case.rounds.most) for case in book.cases} == {(1, 1)}
    routed = RECIPE.replace("none, conc", "none, router: {name: vllm-router}, conc")
    first, *_ = load(routed.replace("\n  serve:", TOOL, 1)).cases
    assert first.why_not.startswith("its row needs vllm-router beside the engine")


def test_our_client_replays_a_trace_of_ones_own(load: Callable[..., RecipeBook]) -> None:
    ours = "\n  client: {dataset: sessions, dataset-file: s.jsonl, sessions-per-conc: 2}\n  serve:"
    book = load(RECIPE.replace("\n  serve:", ours, 1))
    assert [str(problem) for problem in book.problems] == []
    first, *others = book.cases
    assert first.runnable
    assert first.why_not == ""
    assert all("its row needs mooncake_master" in case.why_not for case in others)
    load_of = first.workload
    assert (load_of.label, load_of.dataset, load_of.duration) == ("agentic-c1", "sessions", None)
    assert [case.workload.sessions for case in book.cases] == [2, 2, 10]
    assert (first.rounds.least, first.rounds.most) == (1, 1)
    wrong = load(RECIPE.replace("\n  serve:", ours.replace("sessions-per-conc: 2", "turns: 2"), 1))
    assert "with dataset sessions it is 1" in str(wrong.problems[0])


def test_a_tool_without_a_trace(load: Callable[..., RecipeBook]) -> None:
    book = load(RECIPE.replace("\n  serve:", TOOL.replace("public-dataset: p, ", ""), 1))
    assert "AIPerf is told no trace" in book.cases[0].why_not


def test_flags_read_the_rows_offloading_and_the_hosts_memory(
    load: Callable[..., RecipeBook],
) -> None:
    specs = [load(RECIPE).server(case.server) for case in load(RECIPE).cases]
    assert [spec.serve["seed"] for spec in specs] == [1, 1425, 1429]
    assert [spec.serve.get("kv-offloading-size") for spec in specs] == [None, 9, 9]
    assert [dict(spec.env) for spec in specs] == [{}, *[{"A": "1424", "B": "1"}] * 2]
    drafts = [dict(spec.speculative.options) for spec in specs if spec.speculative]
    assert drafts == [{"synthetic_acceptance_length": 2.83}] * 3


@pytest.mark.parametrize(
    ("mib", "share", "gpus", "budget"),
    [  # from their generator
        (2_063_837, 0.8, 8, 1731),
        (1_471_356, 0.8, 8, 1234),
        (2_964_436, 0.95, 4, 1424),
        (3_095_781, 0.95, 8, 2849),
        (2_964_436, 1.0, 2, 749),
    ],
)
def test_the_budget_is_a_share_of_the_host(mib: int, share: float, gpus: int, budget: int) -> None:
    assert dram_budget_gb(mib, share, gpus, 8) == budget


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (", dram-mib: 2964436", "", "which runner 'cluster:b300-nv' does not say"),
        ("- dram-utilization: 0.95\n        search", "- search", "needs dram-utilization"),
        (", kv-offload-backend: {name: mooncake}", "", "kv-offload-backend goes with"),
        ("kv-offloading: none", "kv-offloading: disk", "must be 'none' or 'dram', not 'disk'"),
        ("kv-offloading: none, ", "", "missing key 'kv-offloading'"),
        ("kv-offloading: none", "kv-offload: none", "unknown key 'kv-offload'"),
        ("{name: mooncake}", "{nam: mooncake}", "did you mean 'name'?"),
        ("[1, 5]", "[1, 1]", "conc-list names a concurrency twice"),
        ("[1, 5]", "[]", "must not be empty"),
        ("{name: mooncake}, conc-list: [1, 5]", "{name: x}, conc-list: [1], ep: 3", "must divide"),
        ("tp: 8, kv", "tp: 8, dp-attn: true, kv", "write ep: 8 beside it"),
        ("${dram_gb + conc}", "${isl}", "at an agentic row, without lengths"),
        ("${dram_gb + conc}", "${max_model_len}", "unknown name 'max_model_len'"),
        (", serve: {kv-offloading-size: 9}", "", "says kv-offloading dram, and no flag offloads"),
        ("{seed:", "{kv-transfer-config: {a: 1}, seed:", "and kv-transfer-config offloads"),
        ("{seed:", "{extra-args: [--kv-offloading-size=9], seed:", "kv-offloading-size offloads"),
        ("EAGLE3, num", "EAGLE9, num", "no acceptance length is published for this draft"),
        ("length: golden", "length: silver", "must be a number or a ${...} expression"),
        ("agentic-coding:", "agentic:", "did you mean 'agentic-coding'?"),
        ("vllm-agentic-mtp", "vllm-agentic-MTP", "cannot be used in test ids"),
    ],
)
def test_what_is_wrong_is_said(
    load: Callable[..., RecipeBook], old: str, new: str, words: str
) -> None:
    assert old in RECIPE
    found = [str(problem) for problem in load(RECIPE.replace(old, new, 1)).problems]
    assert any(words in text for text in found), found


def test_a_row_twice(load: Callable[..., RecipeBook]) -> None:
    row = "          - {tp: 8, kv-offloading: none, conc-list: [1], spec-decoding: mtp}\n"
    problems = [str(one) for one in load(RECIPE.replace(row, row + row)).problems]
    assert len(problems) == 1
    assert "duplicate case: tp8 agentic conc 1 is already in the row on line 19" in problems[0]


def test_a_foreign_row_that_no_server_has_is_listed(load: Callable[..., RecipeBook]) -> None:
    text = """
m-fp8-mi355x-vllm-agentic-mtp:
  {image: i, model: org/m, model-prefix: m, precision: fp8, framework: vllm, runner: mi355x, scenarios: {agentic-coding: [{search-space: [
    {tp: 8, kv-offloading: none, conc-list: [1], spec-decoding: mtp},
    {tp: 8, dp-attn: true, kv-offloading: none, conc-list: [1], spec-decoding: mtp}]}]}}
"""
    book = load(text)
    assert [str(problem) for problem in book.problems] == []
    assert [case.topology.label for case in book.cases] == ["tp8"]
    assert [one.reason.split(" (")[0] for one in book.unsupported] == ["agentic-coding row dpa8"]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("m-fp8-h100-vllm-agentic-dspark", "m-fp8-h100-vllm-mtp-agentic-dspark"),
        ("m-fp8-h100-vllm-agentic-hicache-mtp", "m-fp8-h100-vllm-mtp-agentic-hicache"),
        ("m-fp8-h100-vllm-agentic-power-ab", "m-fp8-h100-vllm-mtp-agentic-power-ab"),
    ],
)
def test_after_their_word_the_others_stand_in_any_order(
    load: Callable[..., RecipeBook], name: str, key: str
) -> None:
    text = f"""
{name}:
  {{image: i, model: org/m, model-prefix: m, precision: fp8, framework: vllm, runner: h100, scenarios: {{agentic-coding: [{{search-space: [
    {{tp: 8, kv-offloading: none, conc-list: [1], spec-decoding: mtp}}]}}]}}}}
"""
    book = load(text)
    assert book.unsupported == ()
    assert [case.server for case in book.cases] == [f"{key}-tp8"]
