from __future__ import annotations

import re
from collections.abc import Callable

from pytest_gpubench.model.cases import RecipeBook
from pytest_gpubench.model.policies import SHARING_POLICIES

ROW = "- {tp: 8, conc-list: [4, 16]}"


def sound(book: RecipeBook) -> RecipeBook:
    assert [str(problem) for problem in book.problems] == []
    return book


def test_expansion_doubles_and_always_ends_on_the_end(
    load: Callable[..., RecipeBook], whole: str
) -> None:
    rows = (
        "- {tp: 8, conc-start: 4, conc-end: 100}\n      - {tp: 4, conc-start: 7, conc-end: "
        "7}\n      - {tp: 2, conc-list: [9, 3]}"
    )
    book = sound(load(whole.replace(ROW, rows)))
    assert [case.workload.conc for case in book.cases] == [4, 8, 16, 32, 64, 100, 7, 9, 3]
    assert {case.max_model_len for case in book.cases} == {2304}


def test_position_is_that_of_the_row(load: Callable[..., RecipeBook], whole: str) -> None:
    case = sound(load(whole)).cases[0]
    assert (case.position.line, case.position.column) == (12, 9)
    assert case.position.file.endswith("r0.yaml")


def test_keys_by_policy(load: Callable[..., RecipeBook], whole: str) -> None:
    text = whole.replace("serve:", "when:\n  - {if: isl == 8192, serve: {x: 1}}\n  serve:")
    keys = {
        policy: [case.id for case in sound(load(text, policy=policy)).cases]
        for policy in SHARING_POLICIES
    }
    assert keys == {
        "parallelism": ["m-fp8-h100-vllm-tp8:1k1k-c4", "m-fp8-h100-vllm-tp8:1k1k-c16"],
        "shape": ["m-fp8-h100-vllm-tp8-1k1k:1k1k-c4", "m-fp8-h100-vllm-tp8-1k1k:1k1k-c16"],
        "point": ["m-fp8-h100-vllm-tp8-1k1k-c4:1k1k-c4", "m-fp8-h100-vllm-tp8-1k1k-c16:1k1k-c16"],
    }


def test_the_recipes_own_policy_and_who_overrides_it(
    load: Callable[..., RecipeBook], whole: str
) -> None:
    text = whole + "  server-per: point\n"
    assert load(text).policy == "point"
    assert {case.policy for case in load(text).cases} == {"point"}
    assert load(text, policy="shape").policy == "shape"
    assert len(load(text, policy="parallelism").servers) == 1


def test_capacities_are_shared_by_maximum(load: Callable[..., RecipeBook], whole: str) -> None:
    serve = """serve:
    max-num-seqs: ${conc * 2}
    max-num-batched-tokens: ${8192 - conc}
    max-cudagraph-capture-size: ${conc}"""
    both = (
        "- isl: 8192\n      osl: 1024\n      search-space:\n      - {tp: 8, conc-list: "
        "[2]}\n    - isl: 1024"
    )
    text = whole.replace("serve: {block-size: 128}", serve).replace("- isl: 1024", both)
    book = sound(load(text))
    ((key, spec),) = book.servers
    assert key == "m-fp8-h100-vllm-tp8"
    assert [
        spec.serve[flag]
        for flag in (
            "max-model-len",
            "max-num-seqs",
            "max-num-batched-tokens",
            "max-cudagraph-capture-size",
        )
    ] == [
        9472,
        32,
        8190,
        16,
    ]
    assert [case.max_model_len for case in book.cases] == [9472, 2304, 2304]


def test_any_other_difference_splits_and_the_parts_get_stable_names(
    load: Callable[..., RecipeBook], whole: str
) -> None:
    text = whole.replace("[4, 16]", "[4, 8, 16]").replace(
        "serve: {", "when:\n  - {if: conc >= 16, serve: {stream-interval: 2}}\n  serve: {"
    )
    book = sound(load(text))
    keys = [case.server for case in book.cases]
    assert keys[0] == keys[1] != keys[2]
    assert all(re.fullmatch(r"m-fp8-h100-vllm-tp8-[0-9a-f]{6}", key) for key in keys)
    fewer = sound(load(text.replace("[4, 8, 16]", "[8, 16]")))
    assert {case.server for case in fewer.cases} == set(keys), (
        "a name depends on the values, not on the other rows"
    )


def test_a_capacity_that_only_some_cases_set_splits(
    load: Callable[..., RecipeBook], whole: str
) -> None:
    text = whole.replace(
        "serve: {", "when:\n  - {if: conc >= 16, serve: {max-num-seqs: 64}}\n  serve: {"
    )
    assert len(sound(load(text)).servers) == 2


def test_environment_draft_image_and_requirements_split_too(
    load: Callable[..., RecipeBook], whole: str
) -> None:
    for part in ("env: {A: 1}", "image: other", "requires: {vllm: '>=1'}"):
        text = whole.replace("serve: {", f"when:\n  - {{if: conc >= 16, {part}}}\n  serve: {{")
        assert len(sound(load(text)).servers) == 2, part
        assert len({case.server for case in load(text).cases}) == 2


def test_client_and_gates_do_not_split(load: Callable[..., RecipeBook], whole: str) -> None:
    part = "client: {prompts-per-conc: 3, warmups-per-conc: 0, seed: 7}, gates: {ttft_p50: 15%}"
    book = sound(
        load(whole.replace("serve: {", f"when:\n  - {{if: conc >= 16, {part}}}\n  serve: {{"))
    )
    assert len(book.servers) == 1
    few, many = book.cases
    assert (
        few.workload.num_prompts,
        few.workload.num_warmups,
        few.workload.seed,
        dict(few.gates),
    ) == (40, 8, 0, {})
    assert (
        many.workload.num_prompts,
        many.workload.num_warmups,
        many.workload.seed,
        dict(many.gates),
    ) == (
        48,
        0,
        7,
        {"ttft_p50": "15%"},
    )


def test_ids_of_topologies_variants_and_lengths(
    load: Callable[..., RecipeBook], whole: str
) -> None:
    rows = """- {tp: 8, ep: 8, conc-list: [1]}
      - {tp: 8, ep: 8, dp-attn: true, conc-list: [1]}
      - {tp: 4, pp: 2, conc-list: [1]}
      - {tp: 4, pcp-size: 2, dcp-size: 4, conc-list: [1]}"""
    text = (
        whole.replace(ROW, rows)
        .replace("h100-vllm:", "h100-vllm-long-run:")
        .replace("isl: 1024", "isl: 1000")
    )
    book = sound(load(text))
    assert [case.id for case in book.cases] == [
        f"m-fp8-h100-vllm-long-run-{topology}:1000x1024-c1"
        for topology in ("tep8", "dep8", "tp4.pp2", "tp4.pcp2.dcp4")
    ]
    assert book.cases[2].tags == (
        "m",
        "fp8",
        "h100",
        "vllm",
        "long",
        "run",
        "tp4.pp2",
        "1000x1024",
        "c1",
    )
    assert book.cases[2].identity.variant == "long-run"
    assert [case.gpus for case in book.cases] == [8, 8, 8, 8]


def test_a_recipe_with_both_kinds_of_rows(load: Callable[..., RecipeBook], whole: str) -> None:
    rows = f"{ROW}\n      - {{tp: 8, conc-list: [4], spec-decoding: mtp}}"
    draft = "  speculative: {method: ngram, num-speculative-tokens: 4, prompt-lookup-max: 4}\n"
    book = sound(load(whole.replace(ROW, rows) + draft))
    specs = dict(book.servers)
    assert sorted(specs) == ["m-fp8-h100-vllm-mtp-tp8", "m-fp8-h100-vllm-tp8"]
    assert specs["m-fp8-h100-vllm-tp8"].speculative is None
    mtp = specs["m-fp8-h100-vllm-mtp-tp8"].speculative
    assert mtp is not None
    assert (mtp.method, mtp.model, mtp.attention_backend) == ("ngram", None, None)
    other = (
        whole.replace("h100-vllm:", "h100-vllm-mtp:").replace(
            "[4, 16]}", "[1], spec-decoding: mtp}"
        )
        + draft
    )
    clash = load(whole.replace(ROW, rows) + draft, other)
    assert ["same ids" in problem.message for problem in clash.problems] == [True]


def test_hardware_decides_the_draft_backend_and_what_can_run(
    load: Callable[..., RecipeBook], whole: str
) -> None:
    def draft_on(
        runner: str, hardware: str, serve: str = "{block-size: 128}"
    ) -> tuple[str | None, bool]:
        text = (
            whole.replace("{block-size: 128}", serve)
            .replace("[4, 16]}", "[4], spec-decoding: mtp}")
            .replace("h100-vllm:", f"{hardware}-vllm-mtp:")
        )
        text = (
            text.replace("runner: h100", f"runner: {runner}")
            + "  speculative: {method: eagle3, model: d, num-speculative-tokens: 1}\n"
        )
        book = sound(load(text, "runners: {mine: {hardware: b300}}\n"))
        spec = book.servers[0][1].speculative
        assert spec is not None
        assert book.cases[0].runner == runner
        return spec.attention_backend, book.cases[0].runnable

    assert draft_on("h200", "h200") == ("FLASH_ATTN", True)
    assert draft_on("b200-dgxc", "b200") == ("FLASH_ATTN", True)
    assert draft_on("mine", "b300") == ("FLASH_ATTN", True)
    assert draft_on("h200", "h200", "{}") == (None, True), "vLLM finds a common block size"
    assert draft_on("h200", "h200", "{block-size: 64}") == (None, True)
    assert draft_on("cpu", "cpu") == (None, True)
    assert draft_on("mi300x", "mi300x") == (None, False)


def test_flags_keep_their_order_and_extra_args(load: Callable[..., RecipeBook], whole: str) -> None:
    more = "revision: main\n  command: python -m 'a b'\n"
    serve = more + (
        "  serve: {z: 1, a: '${conc}', max-model-len: 4096, extra-args: [--x, 5, 'y ${tp}']}"
    )
    spec = sound(load(whole.replace("serve: {block-size: 128}", serve), policy="point")).servers[0][
        1
    ]
    assert list(spec.serve.items()) == [("max-model-len", 4096), ("z", 1), ("a", 4)]
    assert spec.extra_args == ("--x", "5", "y 8")
    assert spec.command == ("python", "-m", "a b")
    assert spec.revision == "main"
