"""The recipes.yaml of this repository against tables that were written without it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from pytest_gpubench.model.cases import Case, RecipeBook
from pytest_gpubench.model.frozen import thaw
from pytest_gpubench.model.policies import SharingPolicy
from pytest_gpubench.model.workload import AGENTIC
from pytest_gpubench.recipes.loading import load_recipes

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "recipes.yaml"
TABLE = Path(__file__).with_name("data") / "minimaxm3-hopper.txt"
HOPPER = ("h100", "h200")


def shipped(policy: SharingPolicy | None = None) -> RecipeBook:
    return load_recipes([SHIPPED], policy=policy)


@pytest.fixture(scope="module")
def by_point() -> RecipeBook:
    return shipped("point")


def hopper(book: RecipeBook, spec: str) -> list[Case]:
    return [
        case
        for case in book.cases
        if case.identity.model == "minimaxm3"
        and case.identity.hardware in HOPPER
        and case.identity.spec == spec
        and not case.identity.variant
    ]


def test_no_problems(by_point: RecipeBook) -> None:
    assert [str(problem) for problem in by_point.problems] == []
    assert by_point.unsupported == ()


def test_counts(by_point: RecipeBook) -> None:
    counts = Counter(case.recipe for case in hopper(by_point, "") + hopper(by_point, "mtp"))
    assert counts == {
        "minimaxm3-fp8-h100-vllm": 33,
        "minimaxm3-fp8-h200-vllm": 71,
        "minimaxm3-fp8-h100-vllm-mtp": 18,
        "minimaxm3-fp8-h200-vllm-mtp": 36,
    }


@pytest.mark.parametrize(("policy", "servers"), [("parallelism", 7), ("shape", 13), ("point", 54)])
def test_servers_of_the_two_mtp_recipes(policy: SharingPolicy, servers: int) -> None:
    assert len({case.server for case in hopper(shipped(policy), "mtp")}) == servers


def test_ids(by_point: RecipeBook) -> None:
    ids = {case.id for case in shipped().cases}
    assert "minimaxm3-fp8-h100-vllm-mtp-tp8:1k1k-c64" in ids
    assert "tiny-bf16-cpu-vllm-tp1:128x32-c8" in ids
    assert "minimaxm3-fp8-h200-vllm-mtp-dep8-8k1k-c256:8k1k-c256" in {
        case.id for case in by_point.cases
    }
    assert len(ids) == len(shipped().cases)


def table() -> list[list[str]]:
    return [
        line.replace("|", "").split()
        for line in TABLE.read_text().splitlines()
        if not line.startswith("#")
    ]


def test_hopper_flags_are_those_of_the_table(by_point: RecipeBook) -> None:
    servers = dict(by_point.servers)
    seen = []
    for case in hopper(by_point, "") + hopper(by_point, "mtp"):
        spec = servers[case.server]
        draft = spec.speculative
        flags = [
            spec.serve[f]
            for f in (
                "max-model-len",
                "max-num-batched-tokens",
                "max-cudagraph-capture-size",
                "gpu-memory-utilization",
            )
        ]
        row = [
            case.recipe,
            case.workload.isl,
            case.workload.conc,
            case.topology.tp,
            case.topology.ep,
            int(case.topology.dp_attn),
        ]
        seen.append(
            [str(value) for value in (*row, *flags, draft.num_speculative_tokens if draft else 0)]
        )
    # The table has the rows of the first pull requests; those without a draft became more.
    wanted = {tuple(row) for row in table()}
    assert len(wanted) == 99
    assert wanted <= {tuple(row) for row in seen}
    assert {tuple(row) for row in seen if row[0].endswith("mtp")} == {
        row for row in wanted if row[0].endswith("mtp")
    }


def test_hopper_flags_that_never_change(by_point: RecipeBook) -> None:
    servers = dict(by_point.servers)
    computed = ("max-model-len", "max-num-batched-tokens", "max-cudagraph-capture-size")
    for case in hopper(by_point, "") + hopper(by_point, "mtp"):
        spec = servers[case.server]
        assert {flag: value for flag, value in spec.serve.items() if flag not in computed} == {
            "block-size": 128,
            "language-model-only": True,
            "enable-prefix-caching": False,
            "gpu-memory-utilization": 0.9,
            "stream-interval": 20,
            "trust-remote-code": True,
        }
        assert thaw(spec.env) == {"PYTHONNOUSERSITE": "1", "VLLM_ENGINE_READY_TIMEOUT_S": "3600"}
        assert spec.model == "MiniMaxAI/MiniMax-M3-MXFP8"
        assert spec.image == "vllm/vllm-openai:minimax-m3"
        draft = spec.speculative
        assert (draft is not None) == (case.identity.spec == "mtp")
        if draft:
            assert draft.config() == {
                "method": "eagle3",
                "model": "Inferact/MiniMax-M3-EAGLE3",
                "num_speculative_tokens": 3,
                "attention_backend": "FLASH_ATTN",
            }
        assert (case.workload.num_prompts, case.workload.num_warmups) == (
            case.workload.conc * 10,
            case.workload.conc * 2,
        )
        assert case.runnable


DRAFT_LENGTHS = {
    "minimaxm3-fp4-b200-vllm-mtp": """
        1024:4:4:0:4=4 1024:8:1:0:2=6 1024:8:1:0:4=4 8192:2:1:0:1=4 8192:2:1:0:256=4 8192:2:2:0:1=4 8192:2:2:0:16=4 8192:2:2:0:32=2
        8192:2:2:0:64=4 8192:2:2:0:128=4 8192:2:2:0:256=4 8192:2:2:0:512=2 8192:4:1:0:256=2 8192:4:4:0:256=4 8192:8:1:0:1=4
        8192:8:1:0:2=4
    """,
    "minimaxm3-fp4-b300-vllm-mtp": """
        1024:2:1:0:512=1 1024:2:2:0:512=1 1024:2:2:0:1=4 1024:4:4:0:2=4 1024:8:1:0:1=4 8192:2:1:0:2=2 8192:2:1:0:4=4 8192:2:1:0:32=2
        8192:2:1:0:256=2 8192:2:2:0:32=4 8192:2:2:0:128=2 8192:2:2:1:128=4 8192:4:1:0:1=4 8192:4:1:0:2=4 8192:4:4:0:1=4
        8192:8:1:0:1=4
    """,
}
"""isl:tp:ep:dp_attn:conc=k of the two scripts' tables; 3 elsewhere."""


@pytest.mark.parametrize("recipe", sorted(DRAFT_LENGTHS))
def test_draft_lengths(by_point: RecipeBook, recipe: str) -> None:
    known = dict(entry.split("=") for entry in DRAFT_LENGTHS[recipe].split())
    servers = dict(by_point.servers)
    found = {}
    for case in by_point.cases:
        if case.recipe == recipe:
            it, draft = case.topology, servers[case.server].speculative
            assert draft is not None
            key = f"{case.workload.isl}:{it.tp}:{it.ep}:{int(it.dp_attn)}:{case.workload.conc}"
            found[key] = str(draft.num_speculative_tokens)
    assert set(known) <= set(found)
    assert found == {key: known.get(key, "3") for key in found}


def test_fp4_without_chunked_prefill_holds_its_context_where_the_original_ran(
    by_point: RecipeBook,
) -> None:
    servers = dict(by_point.servers)
    unchunked = {
        case: spec
        for case in by_point.cases
        if (spec := servers[case.server]).serve.get("enable-chunked-prefill") is False
    }
    refused = [
        case
        for case, spec in unchunked.items()
        if int(str(spec.serve["max-num-batched-tokens"])) < int(str(spec.serve["max-model-len"]))
    ]
    assert len(unchunked) > len(refused) == 19
    assert not any(case.runnable for case in refused)
    assert all(case.runnable for case in unchunked if case not in refused)
    assert {str(thaw(spec.serve["attention-config"])) for spec in unchunked.values()} == {
        "{'indexer_kv_dtype': 'fp8', 'minimax_m3_msa_decode_backend': 'cutlass'}"
    }
    assert {(case.workload.isl, case.identity.precision) for case in refused} == {(1024, "fp4")}


def test_amd_is_plan_only_and_nothing_else_is_but_what_refuses_to_start(
    by_point: RecipeBook,
) -> None:
    for case in by_point.cases:
        if case.why_not.startswith("vLLM refuses to start") or case.workload.shape == AGENTIC:
            continue
        assert case.runnable == (not case.identity.hardware.startswith("mi"))
        assert bool(case.why_not) != case.runnable


def test_traces_are_run_where_the_engine_is_all_that_they_need(by_point: RecipeBook) -> None:
    traces = [case for case in by_point.cases if case.workload.shape == AGENTIC]
    run = {case.recipe for case in traces if case.runnable}
    assert {case.recipe for case in traces} - run == {"kimik3-fp4-b300-vllm-agentic-dspark"}
    assert len(run) == 6
    assert {
        case.why_not.split(" needs ")[-1].split(" ")[0]
        for case in traces
        if case.why_not.startswith("its row")
    } == {"mooncake_master", "vllm-router"}


def test_tiny_pair_fits_a_minute(by_point: RecipeBook) -> None:
    tiny = [
        case
        for case in by_point.loads
        if case.identity.model == "tiny"
        and case.identity.hardware == "cpu"
        and not case.identity.variant
    ]
    assert [case.workload.conc for case in tiny] == [1, 4, 8] * 4
    assert (
        sum(
            (case.workload.num_prompts + case.workload.num_warmups) * case.workload.osl
            for case in tiny
        )
        < 10_000
    )
    assert {case.max_model_len for case in tiny} == {512}


def test_modeline_names_the_schema() -> None:
    assert SHIPPED.read_text().startswith("# yaml-language-server: $schema=")
