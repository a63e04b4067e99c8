"""Files in InferenceX's own form: every entry here is ours, made up in that shape."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_gpubench.model.cases import RecipeBook
from pytest_gpubench.recipes.inferencex import hardware_of, unsupported_groups

MASTER = """
demo-fp8-h200-vllm:
  image: some/image:1
  model: org/demo
  model-prefix: demo
  runner: h200
  precision: fp8
  framework: vllm
  multinode: false
  scenarios:
    fixed-seq-len:
    - isl: 1024
      osl: 1024
      search-space:
      - { tp: 4, conc-start: 4, conc-end: 100 }
      - { tp: 8, ep: 8, dp-attn: true, conc-list: [256, 512] }
demo-fp8-h200-vllm-mtp:
  image: some/image:1
  model: org/demo
  model-prefix: demo
  runner: h200-dgxc
  precision: fp8
  framework: vllm
  multinode: false
  scenarios:
    fixed-seq-len:
    - isl: 8192
      osl: 1024
      search-space:
      - { tp: 8, conc-start: 1, conc-end: 4, spec-decoding: mtp }
    agentic-coding:
    - {search-space: [{tp: 8, kv-offloading: none, conc-list: [1, 3], spec-decoding: mtp}]}
demo-fp8-h200-sglang:
  image: i
  model: org/demo
  model-prefix: demo
  runner: h200
  precision: fp8
  framework: sglang
  multinode: false
  scenarios: {fixed-seq-len: [{isl: 1, osl: 1, search-space: [{tp: 8, conc-list: [1]}]}]}
demo-fp4-gb200-dynamo-vllm:
  image: i
  model: org/demo
  model-prefix: demo
  runner: gb200
  precision: fp4
  framework: dynamo-vllm
  multinode: true
  disagg: true
  router: {name: r, version: "1"}
  kv-p2p-transfer: nixl
  scenarios:
    fixed-seq-len:
    - {isl: 1, osl: 1, search-space: [{conc-list: [1], prefill: {num-worker: 1, tp: 4}, decode: {num-worker: 1, tp: 4}}]}
demo-fp8-h200-vllm-agentic-site-mtp:
  image: i
  model: org/demo
  model-prefix: demo
  runner: h200
  precision: fp8
  framework: vllm
  multinode: false
  scenarios: {agentic-coding: [{dram-utilization: 0.5, search-space: [{tp: 4, spec-decoding: mtp, kv-offloading: none, conc-list: [2]}, {tp: 4, ep: 4, dp-attn: true, spec-decoding: mtp, kv-offloading: dram, kv-offload-backend: {name: mooncake, version: "1"}, router: {name: vllm-router}, conc-list: [2, 8]}]}]}
demo-fp8-b300-vllm:
  image: i
  model: org/demo
  model-prefix: demo
  runner: cluster:b900-site
  precision: fp8
  framework: vllm
  multinode: false
  scenarios: {fixed-seq-len: [{isl: 1024, osl: 1024, search-space: [{tp: 8, conc-list: [1, 2]}]}]}
demo-fp8-h100-vllm:
  image: i
  model: org/demo
  model-prefix: other
  runner: h100
  precision: fp8
  framework: vllm
  multinode: false
  scenarios: {fixed-seq-len: [{isl: 1024, osl: 1024, search-space: [{tp: 8, conc-list: [1]}]}]}
"""


def test_what_can_be_expanded_is_and_the_rest_is_listed(load: Callable[..., RecipeBook]) -> None:
    book = load(MASTER)
    assert [str(problem) for problem in book.problems] == []
    assert [(case.recipe, case.topology.label, case.workload.conc) for case in book.cases] == [
        *[("demo-fp8-h200-vllm", "tp4", conc) for conc in (4, 8, 16, 32, 64, 100)],
        *[("demo-fp8-h200-vllm", "dep8", conc) for conc in (256, 512)],
        *[("demo-fp8-h200-vllm-mtp", "tp8", conc) for conc in (1, 2, 4, 1, 3)],
        ("demo-fp8-h200-sglang", "tp8", 1),
        ("demo-fp8-h200-vllm-agentic-site-mtp", "tp4", 2),
        *[("demo-fp8-h200-vllm-agentic-site-mtp", "dep4", conc) for conc in (2, 8)],
    ]
    assert [case.id for case in book.cases if case.workload.shape == "agentic"] == [
        "demo-fp8-h200-vllm-mtp-agentic-tp8:agentic-c1",
        "demo-fp8-h200-vllm-mtp-agentic-tp8:agentic-c3",
        "demo-fp8-h200-vllm-mtp-agentic-site-tp4:agentic-c2",
        "demo-fp8-h200-vllm-mtp-agentic-site-dram-dep4:agentic-c2",
        "demo-fp8-h200-vllm-mtp-agentic-site-dram-dep4:agentic-c8",
    ]
    reasons = {item.recipe: item.reason for item in book.unsupported}
    assert list(reasons) == [
        "demo-fp4-gb200-dynamo-vllm",
        "demo-fp8-b300-vllm",
        "demo-fp8-h100-vllm",
    ]
    assert "framework dynamo-vllm" in reasons["demo-fp4-gb200-dynamo-vllm"]
    assert "multi-node" in reasons["demo-fp4-gb200-dynamo-vllm"]
    assert "'cluster:b900-site' maps to no hardware" in reasons["demo-fp8-b300-vllm"]
    assert (
        "the name says 'demo' where `model-prefix` means 'other'" in reasons["demo-fp8-h100-vllm"]
    )
    assert {
        item.position.line
        for item in book.unsupported
        if item.recipe == "demo-fp4-gb200-dynamo-vllm"
    } == {42}


def test_what_is_not_run_is_listed_in_groups(load: Callable[..., RecipeBook]) -> None:
    more = """
demo-fp4-b200-trt: &trt
  {image: i, model: org/demo, model-prefix: demo, runner: b200, precision: fp4, framework: trt, multinode: false, scenarios: {}}
demo-fp8-b200-trt: *trt
"""
    groups = unsupported_groups(load(MASTER + more).unsupported)
    assert groups == {
        "framework trt": ["demo-fp4-b200-trt", "demo-fp8-b200-trt"],
        "multi-node": ["demo-fp4-gb200-dynamo-vllm"],
        "runner label 'cluster:b900-site' maps to no hardware": ["demo-fp8-b300-vllm"],
        "a name that contradicts its fields": ["demo-fp8-h100-vllm"],
    }


def test_its_flags_live_in_a_shell_script(load: Callable[..., RecipeBook]) -> None:
    book = load(MASTER)
    assert {case.runnable for case in book.cases} == {False}
    assert "agentic" in {case.workload.shape for case in book.cases}
    assert all("its flags live in a shell script" in case.why_not for case in book.cases)
    specs = [spec for _, spec in book.servers]
    assert [dict(spec.serve) for spec in specs] == [
        {"max-model-len": 2304},
        {"max-model-len": 2304},
        {"max-model-len": 9472},
        {},
        {"context-length": 258},
        {},
        {},
    ]
    assert [spec.image for spec in specs] == [*["some/image:1"] * 4, *["i"] * 3]


def test_a_second_file_may_map_the_runner(load: Callable[..., RecipeBook]) -> None:
    book = load(MASTER, "runners:\n  cluster:b900-site: {hardware: b300}\n")
    assert [case.workload.conc for case in book.cases if case.recipe == "demo-fp8-b300-vllm"] == [
        1,
        2,
    ]
    assert "demo-fp8-b300-vllm" not in {item.recipe for item in book.unsupported}


@pytest.mark.parametrize(
    ("label", "hardware"),
    [
        ("h200", "h200"),
        ("cluster:b300-nv", "b300"),
        ("cluster:mi355x-amds", "mi355x"),
        ("b200-dgxc", "b200"),
        ("gb300-nv_0", "gb300"),
        ("cluster:rtx6000pro-lat", "rtxpro6000"),
        ("rtx6000pro", "rtxpro6000"),
        ("cluster:", None),
        ("cluster:b900-site", None),
        ("site-h100", None),
        ("h100x-site", None),
    ],
)
def test_a_label_names_its_hardware_by_itself(label: str, hardware: str | None) -> None:
    assert hardware_of(label, {}) == hardware
    assert hardware_of(label, {label: "h20"}) == "h20"


def test_the_name_may_say_the_hardware_in_their_words(load: Callable[..., RecipeBook]) -> None:
    book = load(
        MASTER.replace("demo-fp8-h200-vllm:", "demo-fp8-rtx6000pro-vllm:", 1).replace(
            "runner: h200", "runner: rtx6000pro-lat", 1
        )
    )
    assert [str(problem) for problem in book.problems] == []
    assert "demo-fp8-rtxpro6000-vllm-tp4" in dict(book.servers)


def test_attention_alone_may_be_data_parallel_where_the_engine_can(
    load: Callable[..., RecipeBook],
) -> None:
    row = "[{tp: 8, conc-list: [1]}]}]}\ndemo-fp4"
    text = MASTER.replace(row, row.replace("[1]}", "[1]}, {tp: 8, dp-attn: true, conc-list: [1]}"))
    book = load(text)
    assert [str(problem) for problem in book.problems] == []
    labels = [case.topology.label for case in book.cases if case.identity.framework == "sglang"]
    assert labels == ["tp8", "dpa8"]
    words = MASTER.replace("ep: 8, dp-attn", "dp-attn")
    assert [problem.message for problem in load(words).problems] == [
        "dp-attn: true spreads the experts over all ranks; write ep: 8 beside it"
    ]


def test_a_foreign_file_is_still_checked(load: Callable[..., RecipeBook]) -> None:
    book = load(
        MASTER.replace("{ tp: 4, conc-start: 4", "{ tp: -8, conc-start: 4").replace(
            "precision: fp8\n  framework: vllm", "precision: fp3\n  framework: vllm", 1
        )
    )
    assert [(p.position.line, p.position.column) for p in book.problems] == [(7, 14), (15, 15)]
    assert {case.recipe for case in book.cases} == {
        "demo-fp8-h200-vllm-mtp",
        "demo-fp8-h200-sglang",
        "demo-fp8-h200-vllm-agentic-site-mtp",
    }


def test_a_pasted_entry_with_a_draft_but_no_flags(
    load: Callable[..., RecipeBook], whole: str
) -> None:
    text = whole.replace("[4, 16]}", "[4], spec-decoding: mtp}").replace(
        "h100-vllm:", "h100-vllm-mtp:"
    )
    case = load(text).cases[0]
    assert not case.runnable
    assert "has no `speculative`" in case.why_not
