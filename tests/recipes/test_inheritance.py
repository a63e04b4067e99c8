from __future__ import annotations

from collections.abc import Callable

from pytest_gpubench.model.cases import Case, RecipeBook
from pytest_gpubench.model.frozen import thaw
from pytest_gpubench.model.specs import ServerSpec

TEMPLATES = """
templates:
  base:
    model: org/m
    model-prefix: m
    precision: fp8
    framework: vllm
    runner: h100
    scenarios:
      fixed-seq-len:
      - isl: 1024
        osl: 1024
        search-space:
        - {tp: 8, conc-list: [4, 64]}
    serve:
      block-size: 128
      enforce-eager: true
      compilation-config: {mode: 3, pass_config: {fuse: true}}
      tags: [a, b]
    env: {KEPT: x, GONE: y}
    when:
    - {if: conc >= 64, serve: {stream-interval: 64, who: parent}}
"""


def one(book: RecipeBook, conc: int = 4) -> ServerSpec:
    assert [str(problem) for problem in book.problems] == []
    return dict(book.servers)[
        next(case.server for case in book.cases if case.workload.conc == conc)
    ]


def load_child(load: Callable[..., RecipeBook], child: str) -> RecipeBook:
    return load(TEMPLATES + "m-fp8-h100-vllm:\n  extends: base\n" + child, policy="point")


def test_maps_merge_lists_replace_null_removes(load: Callable[..., RecipeBook]) -> None:
    book = load_child(
        load,
        """\
  serve:
    block-size: 64
    enforce-eager: null
    compilation-config: {pass_config: {fuse: null, noop: true}}
    tags: [c]
""",
    )
    assert thaw(one(book).serve) == {
        "max-model-len": 2304,
        "block-size": 64,
        "compilation-config": {"mode": 3, "pass_config": {"noop": True}},
        "tags": ["c"],
    }


def test_null_in_env_stays_and_unsets(load: Callable[..., RecipeBook]) -> None:
    assert thaw(one(load_child(load, "  env: {GONE: null, N: 3}\n")).env) == {
        "KEPT": "x",
        "GONE": None,
        "N": "3",
    }


def test_env_from_the_host(load: Callable[..., RecipeBook]) -> None:
    env = thaw(
        one(
            load_child(
                load, '  env: {A: {from: HOST_A, default: 112}, B: {from: B}, C: "${conc}-x"}\n'
            )
        ).env
    )
    assert env["A"] == {"from": "HOST_A", "default": "112"}
    assert env["B"] == {"from": "B", "default": None}
    assert env["C"] == "4-x"


def test_when_concatenates_parent_first_and_later_wins(load: Callable[..., RecipeBook]) -> None:
    child = """\
  when:
  - {if: conc >= 64, serve: {who: child}}
  - {if: conc < 64, serve: {enforce-eager: null}}
"""
    book = load_child(load, child)
    assert one(book, 64).serve["who"] == "child"
    assert one(book, 64).serve["stream-interval"] == 64
    assert one(book, 64).serve["enforce-eager"] is True
    assert "enforce-eager" not in one(book, 4).serve
    assert "who" not in one(book, 4).serve


def test_when_may_change_the_draft_and_the_draft_decides_spec_tokens(
    load: Callable[..., RecipeBook],
) -> None:
    text = (
        TEMPLATES
        + """
m-fp8-h100-vllm-mtp:
  extends: base
  scenarios:
    fixed-seq-len:
    - {isl: 1024, osl: 1024, search-space: [{tp: 8, conc-list: [4, 64], spec-decoding: mtp}]}
  speculative: {method: eagle3, model: org/d, num-speculative-tokens: 3}
  serve: {max-cudagraph-capture-size: "${conc * (1 + spec_tokens)}"}
  when:
  - {if: conc >= 64, speculative: {num-speculative-tokens: 1, attention-backend: auto, draft-tensor-parallel-size: 1}}
"""
    )
    book = load(text, policy="point")
    few, many = one(book, 4), one(book, 64)
    assert few.speculative is not None
    assert many.speculative is not None
    assert (few.speculative.num_speculative_tokens, few.serve["max-cudagraph-capture-size"]) == (
        3,
        16,
    )
    assert (many.speculative.num_speculative_tokens, many.serve["max-cudagraph-capture-size"]) == (
        1,
        128,
    )
    assert (few.speculative.attention_backend, many.speculative.attention_backend) == (
        "FLASH_ATTN",
        None,
    )
    assert thaw(many.speculative.options) == {"draft_tensor_parallel_size": 1}


def test_when_sees_the_context_that_the_recipe_sets(load: Callable[..., RecipeBook]) -> None:
    child = (
        "  serve: {max-model-len: '${isl * 4}'}\n  when:\n  - {if: max_model_len == 4096, "
        "serve: {seen: true}}\n"
    )
    spec = one(load_child(load, child))
    assert spec.serve["seen"] is True
    assert spec.serve["max-model-len"] == 4096


def test_all_names_can_be_read(load: Callable[..., RecipeBook]) -> None:
    text = (
        TEMPLATES
        + """
m-fp8-h100-vllm:
  extends: base
  scenarios:
    fixed-seq-len:
    - {isl: 2048, osl: 1024, search-space: [{tp: 4, ep: 4, dp-attn: true, pp: 2, pcp-size: 1, dcp-size: 2, conc-list: [30]}]}
  env:
    ROW: "${isl} ${osl} ${conc} ${tp} ${ep} ${pp} ${pcp} ${dcp} ${dp_attn}"
    DERIVED: "${gpus} ${dp} ${tensor_parallel_size} ${expert_parallel} ${max_model_len} ${spec_tokens} ${ceil(conc / dp)}"
    WHERE: "${hardware == 'h100' and precision == 'fp8' and framework == 'vllm'}"
"""
    )
    spec = one(load(text), 30)
    assert thaw(spec.env) == {
        "KEPT": "x",
        "GONE": "y",
        "ROW": "2048 1024 30 4 4 2 1 2 true",
        "DERIVED": "8 4 1 true 3328 0 8",
        "WHERE": "true",
    }
    assert spec.topology.label == "dep4.pp2.dcp2"


def test_parents_in_other_files_several_parents_and_recipes_as_parents(
    load: Callable[..., RecipeBook],
) -> None:
    extra = "templates:\n  fast: {serve: {block-size: 32, stream-interval: 1}}\n"
    children = """
m-fp8-h100-vllm:
  extends: [base, fast]
m-fp8-h100-vllm-slow:
  extends: m-fp8-h100-vllm
  serve: {stream-interval: 9}
"""
    book = load(children, TEMPLATES, extra)
    assert [str(problem) for problem in book.problems] == []
    specs = dict(book.servers)
    assert (
        specs["m-fp8-h100-vllm-tp8-" + _digest(book, "m-fp8-h100-vllm")].serve["block-size"] == 32
    )
    slow = [spec for key, spec in book.servers if "-slow-" in key]
    assert {spec.serve["block-size"] for spec in slow} == {32}
    assert slow[0].serve["stream-interval"] == 9


def _digest(book: RecipeBook, recipe: str) -> str:
    case: Case = next(case for case in book.cases if case.recipe == recipe)
    return case.server.rsplit("-", 1)[1]


def test_cycles_unknown_parents_and_long_chains(load: Callable[..., RecipeBook]) -> None:
    book = load(
        "templates:\n  a: {extends: b}\n  b: {extends: c}\n  c: {extends: a}\n  d: "
        "{extends: bas}\n  base: {}\n"
    )
    assert [(p.position.line, p.message.split(";")[0]) for p in book.problems] == [
        (4, "extends itself: a -> b -> c -> a"),
        (5, "no recipe or template is named 'bas'"),
    ]
    assert book.problems[1].message.endswith("did you mean 'base'?")
    chain = "templates:\n  t0: {}\n" + "".join(
        f"  t{i}: {{extends: t{i - 1}}}\n" for i in range(1, 60)
    )
    reversed_chain = (
        "templates:\n"
        + "".join(f"  t{i}: {{extends: t{i - 1}}}\n" for i in range(59, 0, -1))
        + "  t0: {}\n"
    )
    assert load(chain).problems == ()
    assert "generations" in load(reversed_chain).problems[0].message


def test_a_broken_parent_is_reported_once(load: Callable[..., RecipeBook]) -> None:
    text = (
        TEMPLATES.replace("block-size: 128", "block_size: 128")
        + "m-fp8-h100-vllm: {extends: base}\nm-fp8-h100-vllm-b: {extends: base}\n"
    )
    book = load(text)
    assert [problem.path for problem in book.problems] == ["templates.base.serve.block_size"]
    assert book.cases == ()


def test_a_name_taken_twice(load: Callable[..., RecipeBook], whole: str) -> None:
    book = load(whole, whole)
    assert len(book.problems) == 1
    assert book.problems[0].position.file.endswith("r1.yaml")
    assert "the name is taken by" in book.problems[0].message
    assert len(book.cases) == 2


def test_one_anchored_value_in_two_places(load: Callable[..., RecipeBook]) -> None:
    child = (
        "  client: &empty {}\n  gates: *empty\n  env: &same {vllm: '>=0.2'}\n  requires: "
        "*same\n  serve: {a: &n 5, b: *n}\n"
    )
    book = load_child(load, child)
    spec = one(book)
    assert (dict(book.cases[0].gates), book.cases[0].workload.num_prompts) == ({}, 40)
    assert thaw(spec.requires) == {"vllm": ">=0.2"}
    assert (spec.serve["a"], spec.serve["b"]) == (5, 5)
