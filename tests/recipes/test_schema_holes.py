"""Everything that the original schema let through, and more: each is one sentence with line and
column."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_gpubench.model.cases import RecipeBook

ROW = "- {tp: 8, conc-list: [4, 16]}"
COLUMN = 9


def problems(load: Callable[..., RecipeBook], text: str) -> list[str]:
    book = load(text)
    return [f"{p.position.line}:{p.position.column}: {p.path}: {p.message}" for p in book.problems]


@pytest.mark.parametrize(
    ("row", "place", "words"),
    [
        ("- {tp: -8, conc-list: [4]}", "12:14", "must be at least 1, not -8"),
        ("- {tp: 0, conc-list: [4]}", "12:14", "must be at least 1, not 0"),
        (
            '- {tp: "8", conc-list: [4]}',
            "12:14",
            "must be an integer, not '8'; write it without quotes",
        ),
        ("- {tp: 8.0, conc-list: [4]}", "12:14", "must be an integer, not 8.0"),
        ("- {tp: true, conc-list: [4]}", "12:14", "must be an integer, not True"),
        ("- {tp: 8, ep: 16, conc-list: [4]}", "12:9", "ep 16 with tp 8"),
        ("- {tp: 8, ep: 3, conc-list: [4]}", "12:9", "ep 3 with tp 8"),
        ("- {tp: 8, dp-attn: true, conc-list: [4]}", "12:9", "write ep: 8 beside it"),
        ("- {tp: 8, dp-attn: yep, conc-list: [4]}", "12:26", "must be true or false, not 'yep'"),
        ("- {tp: 8, dcp-size: 3, conc-list: [4]}", "12:9", "dcp-size 3 does not divide tp 8"),
        ("- {tp: 8, pp: 0, conc-list: [4]}", "12:21", "must be at least 1, not 0"),
        ("- {tp: 8}", "12:9", "needs conc-list, or both conc-start and conc-end"),
        ("- {tp: 8, conc-start: 4}", "12:9", "needs conc-list, or both"),
        ("- {tp: 8, conc-list: [4], conc-start: 4}", "12:9", "exclude each other"),
        ("- {tp: 8, conc-list: [4], conc-start: 4, conc-end: 8}", "12:9", "exclude each other"),
        ("- {tp: 8, conc-start: 8, conc-end: 4}", "12:9", "conc-start 8 is above conc-end 4"),
        ("- {tp: 8, conc-start: 0, conc-end: 4}", "12:29", "must be at least 1, not 0"),
        ("- {tp: 8, conc-list: []}", "12:28", "must not be empty"),
        ("- {tp: 8, conc-list: [4, 4]}", "12:9", "names a concurrency twice"),
        ("- {tp: 8, conc-list: [99999999]}", "12:29", "must be at most 1000000"),
        ("- {conc-list: [4]}", "12:9", "missing key 'tp'"),
        (
            "- {tp: 8, conc-list: [4], spec-decoding: eagle3}",
            "12:48",
            "must be 'mtp' or 'none', not 'eagle3'",
        ),
        (
            "- {tp: 8, conc-list: [4], spec-decoding: draft_model}",
            "12:48",
            "must be 'mtp' or 'none'",
        ),
        (
            "- {tp: 8, conc-list: [4], dp_attn: true}",
            "12:33",
            "unknown key 'dp_attn'; did you mean 'dp-attn'?",
        ),
        ("- {tp: 8, conc-list: [4], tp: 4}", "12:33", "duplicate key 'tp'"),
        ("- [8]", "12:9", "must be a map"),
    ],
)
def test_row(load: Callable[..., RecipeBook], whole: str, row: str, place: str, words: str) -> None:
    found = problems(load, whole.replace(ROW, row))
    assert len(found) == 1, found
    assert found[0].startswith(
        f"{place}: m-fp8-h100-vllm.scenarios.fixed-seq-len[0].search-space[0]"
    )
    assert words in found[0]


@pytest.mark.parametrize(
    ("old", "new", "place", "words"),
    [
        ("precision: fp8", "precision: fp3", "4:14", "did you mean"),
        (
            "framework: vllm",
            "framework: vlm",
            "5:14",
            "must be 'vllm', 'sglang' or 'llamacpp', not 'vlm'; did you mean 'vllm'?",
        ),
        ("runner: h100", "runner: h1000", "6:11", "unknown runner 'h1000'; did you mean 'h100'?"),
        ("runner: h100", "runner: zz", "6:11", "declare it: `runners: {zz: {hardware: ...}}`"),
        ("runner: h100", "runner: cluster:h9-cw", "6:11", "unknown runner 'cluster:h9-cw'"),
        ("isl: 1024", "isl: 0", "9:12", "must be at least 1, not 0"),
        ("osl: 1024", "osl: 1k", "10:12", "must be an integer, not '1k'"),
        ("model-prefix: m", "model-prefix: M-1", "3:17", "lower-case letters, digits and dots"),
        ("model: org/m", "model: 7", "2:10", "must be text, not 7; quote it"),
        ("serve: {", "serv: {", "13:3", "unknown key 'serv'; did you mean 'serve'?"),
        ("serve: {block-size: 128}", "serve: [1]", "13:10", "must be a map"),
        (
            "runner: h100",
            "runner: h100\n  multinode: true",
            "7:14",
            "one server over several nodes is not supported",
        ),
        (
            "serve: {block-size: 128}",
            'command: "python \'x"',
            "13:12",
            "is not a command line: no closing quotation",
        ),
        (
            "serve: {block-size: 128}",
            "server-per: gpu",
            "13:15",
            "must be 'parallelism', 'shape' or 'point'",
        ),
        (
            "serve: {block-size: 128}",
            "requires: {vllm: newest}",
            "13:20",
            "must be a version specifier",
        ),
        ("serve: {block-size: 128}", "gates: {tput: 5%}", "13:11", "no metric is named 'tput'"),
        ("serve: {block-size: 128}", "gates: {ttft_p50: 5}", "13:11", "such as 5%, not 5"),
        ("serve: {block-size: 128}", "gates: {ttft_p50: 100%}", "13:11", "below 100%"),
        (
            "serve: {block-size: 128}",
            "gates: {ttft_p50: {at-mst: 1}}",
            "13:11",
            "did you mean 'at-most'?",
        ),
        (
            "serve: {block-size: 128}",
            "client: {range-ratio: 1.5}",
            "13:25",
            "must be a number from 0.01 to 1, not 1.5",
        ),
        (
            "serve: {block-size: 128}",
            "client: {prompts-per-conc: 0}",
            "13:30",
            "must be an integer from 1 to 10000, not 0",
        ),
        (
            "serve: {block-size: 128}",
            "client: {temperature: hot}",
            "13:25",
            "must be a number or a ${...} expression",
        ),
        ("serve: {block-size: 128}", "when: [{serve: {}}]", "13:10", "missing key 'if'"),
        ("serve: {block-size: 128}", "when: [{if: 3}]", "13:15", "must be a condition"),
        ("serve: {block-size: 128}", "when: [{if: conc, serve: {}}]", "13:15", "not true or false"),
        (
            "serve: {block-size: 128}",
            "when: [{if: spec_tokens > 1}]",
            "13:15",
            "may not read spec_tokens",
        ),
        (
            "serve: {block-size: 128}",
            "when: [{if: cnc > 1}]",
            "13:15",
            "unknown name 'cnc'; did you mean 'conc'?",
        ),
        (
            "serve: {block-size: 128}",
            "serve: {tensor-parallel-size: 8}",
            "13:11",
            "write `tp` there",
        ),
        (
            "serve: {block-size: 128}",
            "serve: {enable-expert-parallel: true}",
            "13:11",
            "write `ep` there",
        ),
        ("serve: {block-size: 128}", "serve: {port: 8000}", "13:11", "the plugin chooses it"),
        (
            "serve: {block-size: 128}",
            "serve: {speculative-config: {}}",
            "13:11",
            "write `speculative` instead",
        ),
        ("serve: {block-size: 128}", "serve: {--block-size: 1}", "13:11", "write 'block-size'"),
        (
            "serve: {block-size: 128}",
            "serve: {no-enable-prefix-caching: true}",
            "13:11",
            "write 'enable-prefix-caching: false'",
        ),
        ("serve: {block-size: 128}", "serve: {block_size: 1}", "13:11", "write 'block-size'"),
        (
            "serve: {block-size: 128}",
            "serve: {gpu-memory-utilization: 1.5}",
            "13:11",
            "from 0.01 to 1, not 1.5",
        ),
        ("serve: {block-size: 128}", "serve: {max-num-seqs: '8'}", "13:11", "must be an integer"),
        ("serve: {block-size: 128}", "serve: {x: [[1]]}", "13:11", "words and numbers only"),
        (
            "serve: {block-size: 128}",
            "serve: {extra-args: --x}",
            "13:11",
            "must be a list of words",
        ),
        (
            "serve: {block-size: 128}",
            "serve: {max-num-seqs: '${conc - 99}'}",
            "13:25",
            "from 1 to 1000000, not -95",
        ),
        (
            "serve: {block-size: 128}",
            "serve: {max-num-seqs: '${conc / 3}'}",
            "13:25",
            "must be an integer",
        ),
        (
            "serve: {block-size: 128}",
            "serve: {max-model-len: '${dp_attn}'}",
            "13:26",
            "must be an integer",
        ),
        ("serve: {block-size: 128}", "serve: {x: '${conc +}'}", "13:14", "is not an expression"),
        (
            "serve: {block-size: 128}",
            "serve: {x: '${conc / (tp - 8)}'}",
            "13:14",
            "division by zero",
        ),
        ("serve: {block-size: 128}", "env: {A: 1.5}", "13:9", "quote it: '1.5'"),
        ("serve: {block-size: 128}", "env: {A: yes}", "13:9", "quote it: 'true'"),
        (
            "serve: {block-size: 128}",
            "env: {A-B: 1}",
            "13:9",
            "not the name of an environment variable",
        ),
        (
            "serve: {block-size: 128}",
            "env: {A: {frm: B}}",
            "13:9",
            "must be {from: NAME, default: TEXT}",
        ),
        (
            "serve: {block-size: 128}",
            "env: {VLLM_API_KEY: x}",
            "13:9",
            "the plugin makes one per server",
        ),
        (
            "serve: {block-size: 128}",
            "speculative: {method: eagle3}",
            "13:16",
            "so this draft is never used",
        ),
        (
            "serve: {block-size: 128}",
            "client: {chat-template: none}",
            "13:27",
            "the chat API always applies the template",
        ),
        (
            "serve: {block-size: 128}",
            "extends: [nobody]",
            "13:13",
            "no recipe or template is named 'nobody'",
        ),
        ("model: org/m", "revision: main", "1:1", "missing key 'model'"),
        ("  scenarios:", "  scenarios: {agentic-coding: null}\n  x:", "8:3", "unknown key 'x'"),
    ],
)
def test_recipe(
    load: Callable[..., RecipeBook], whole: str, old: str, new: str, place: str, words: str
) -> None:
    found = problems(load, whole.replace(old, new))
    assert found, "accepted"
    assert found[0].startswith(f"{place}: m-fp8-h100-vllm"), found
    assert words in found[0], found


def test_everything_at_once_in_the_order_of_the_files(
    load: Callable[..., RecipeBook], whole: str
) -> None:
    first = (
        whole.replace("fp8\n", "fp3\n")
        .replace("isl: 1024", "isl: 0")
        .replace("block-size: 128", "block_size: 1")
    )
    second = whole.replace("tp: 8", "tp: 0")
    book = load(first, second.replace("m-fp8-h100-vllm", "m-fp8-h100-vllm-b"))
    places = [(p.position.file[-7:], p.position.line) for p in book.problems]
    assert places == [("r0.yaml", 4), ("r0.yaml", 9), ("r0.yaml", 13), ("r1.yaml", 12)]


def test_empty_search_space_and_scenarios(load: Callable[..., RecipeBook], whole: str) -> None:
    empty = whole.replace("search-space:\n      - {tp: 8, conc-list: [4, 16]}", "search-space: []")
    assert "must not be empty" in problems(load, empty)[0]
    misspelt = problems(load, whole.replace("search-space:", "search-spaces:"))
    assert "missing key 'search-space'" in misspelt[0]
    assert "did you mean 'search-space'?" in misspelt[1]


def test_duplicate_rows_and_cases(load: Callable[..., RecipeBook], whole: str) -> None:
    for second in (
        ROW,
        "- {tp: 8, conc-list: [16, 32]}",
        "- {tp: 8, ep: 1, conc-start: 8, conc-end: 16}",
    ):
        found = problems(load, whole.replace(ROW, f"{ROW}\n      {second}"))
        assert found
        assert all("13:9" in line and "is already in the row on line 12" in line for line in found)


def test_draft_without_template_method_or_model(
    load: Callable[..., RecipeBook], whole: str
) -> None:
    text = whole.replace("conc-list: [4, 16]", "conc-list: [4], spec-decoding: mtp").replace(
        "h100-vllm:", "h100-vllm-mtp:"
    )
    draft = "  speculative: {method: eagle3, model: org/d, num-speculative-tokens: 3}\n"
    assert problems(load, text + draft) == []
    assert (
        "through the chat template"
        in problems(load, text + draft + "  client: {api: completions, chat-template: none}\n")[0]
    )
    assert (
        "missing key 'method'"
        in problems(load, text + "  speculative: {model: org/d, num-speculative-tokens: 3}\n")[0]
    )
    assert (
        "missing key 'model'"
        in problems(load, text + "  speculative: {method: eagle3, num-speculative-tokens: 3}\n")[0]
    )
    assert (
        "missing key 'num-speculative-tokens'"
        in problems(load, text + "  speculative: {method: eagle3, model: org/d}\n")[0]
    )
    assert "from 1 to 10000, not 0" in problems(load, text + draft.replace("3}", "0}"))[0]
    assert (
        "unknown key 'num-spec-tokens'"
        in problems(load, text + "  speculative: {num-spec-tokens: 3}\n")[0]
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("m-fp8-h200-vllm", "the name says 'h200' where `runner` means 'h100'"),
        ("m-bf16-h100-vllm", "the name says 'bf16' where `precision` means 'fp8'"),
        ("n-fp8-h100-vllm", "the name says 'n' where `model-prefix` means 'm'"),
        ("m-fp8-h100", "the name stops where `framework` means 'vllm'"),
        ("m-fp8-h100-vllm-mtp", "2 of 2 rows lack `spec-decoding: mtp`"),
        ("m-fp8-h100-vllm-Long", "'Long' is not made of lower-case"),
        ("m-fp8-h100-vllm-long-mtp", "'mtp' stands right after the framework"),
        ("m-fp8-h100-vllm-not", "has a meaning of its own"),
        ("m-fp8-h100-vllm-skip", "has a meaning of its own"),
        ("m-fp8-h100-vllm-", "is not made of"),
    ],
)
def test_a_name_may_not_contradict_its_fields(
    load: Callable[..., RecipeBook], whole: str, name: str, words: str
) -> None:
    found = problems(
        load,
        whole.replace("m-fp8-h100-vllm:", f"{name}:").replace(
            ROW, f"{ROW}\n      - {{tp: 4, conc-list: [4]}}"
        ),
    )
    assert len(found) == 1
    assert found[0].startswith("1:1:")
    assert words in found[0]


def test_labelled_rows_need_the_word(load: Callable[..., RecipeBook], whole: str) -> None:
    found = problems(
        load, whole.replace("conc-list: [4, 16]", "conc-list: [4], spec-decoding: mtp")
    )
    assert "rename it to 'm-fp8-h100-vllm-mtp'" in found[0]


def test_files_that_are_no_recipe_files(load: Callable[..., RecipeBook]) -> None:
    assert "the file is empty" in problems(load, "")[0]
    assert "the file is empty" in problems(load, "# nothing\n")[0]
    assert "is a map from recipe names" in problems(load, "- a\n")[0]
    assert "a recipe is a map of keys" in problems(load, "a: 1\n")[0]
    assert "did you mean 'templates'?" in problems(load, "template: []\n")[0]
    assert "runners: must be a map" in problems(load, "runners: []\n")[0]


def test_runners_and_ratios(load: Callable[..., RecipeBook]) -> None:
    found = problems(
        load,
        "runners:\n  a: {hardware: h101}\n  b: {hw: h100}\nratios:\n- {name: x, "
        "metric: tput, of: a, over: b}\n",
    )
    assert "2:17: runners.a.hardware: unknown hardware 'h101'" in found[0]
    assert "runners.b.hw: unknown key 'hw'" in found[1]
    assert "no metric is named 'tput'" in found[-1]


def test_ratios_are_kept_as_written(load: Callable[..., RecipeBook]) -> None:
    book = load(
        "ratios:\n- {name: win, metric: output_tput, of: a-mtp, over: a, at: {conc: "
        "1}, at-least: 1.2}\n"
    )
    assert book.problems == ()
    assert book.ratios[0]["at-least"] == 1.2
    assert (
        "needs at-least or at-most"
        in problems(load, "ratios:\n- {name: w, metric: output_tput, of: a, over: b}\n")[0]
    )
