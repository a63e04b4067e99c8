"""What a recipe leaves to the host or to the engine: flags, variables, declared facts; and branches
that exclude each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_gpubench.dialects.command_line import CommandLine
from pytest_gpubench.dialects.registry import dialect_of
from pytest_gpubench.model.cases import RecipeBook
from pytest_gpubench.model.specs import ServerSpec
from pytest_gpubench.recipes.loading import load_recipes

SERVE = "serve: {block-size: 128}"


def specs(book: RecipeBook) -> list[ServerSpec]:
    assert [str(problem) for problem in book.problems] == []
    return [spec for _, spec in book.servers]


def line(spec: ServerSpec) -> CommandLine:
    return dialect_of(spec.framework).render(spec, ["vllm", "serve"], served_name="m")


def messages(book: RecipeBook) -> list[str]:
    return [str(problem).split(":", 1)[1] for problem in book.problems]


@pytest.mark.parametrize("framework", ["vllm", "sglang", "llamacpp"])
def test_null_leaves_a_flag_to_the_engine_also_the_length(
    load: Callable[..., RecipeBook], whole: str, framework: str
) -> None:
    flag = dialect_of(framework).flags.length
    text = whole.replace("vllm", framework).replace(
        SERVE, f"serve: {{{flag}: null, seed: null}}\n  extends: t\n"
    )
    text += f"\ntemplates:\n  t: {{serve: {{{flag}: 4096, seed: 1}}}}\n"
    book = load(text)
    (spec,) = specs(book)
    assert dict(spec.serve) == {}
    assert {case.max_model_len for case in book.cases} == {None}
    assert f"--{flag}" not in line(spec).argv
    (again,) = specs(load(text.replace(f"{flag}: null, seed: null", "seed: null")))
    assert dict(again.serve) == {flag: 4096}


def test_a_condition_may_give_the_length_back(load: Callable[..., RecipeBook], whole: str) -> None:
    text = whole.replace(
        SERVE,
        "serve: {max-model-len: null}\n"
        "  when:\n  - {if: conc > 4, serve: {max-model-len: '${isl + osl + 257}'}}",
    )
    book = load(text)
    assert sorted(map(str, (dict(spec.serve) for spec in specs(book)))) == [
        "{'max-model-len': 2305}",
        "{}",
    ]
    assert {case.workload.conc: case.max_model_len for case in book.cases} == {4: None, 16: 2305}


def test_a_variable_that_only_some_hosts_have(load: Callable[..., RecipeBook], whole: str) -> None:
    env = "env: {HIP: {from: ROCR, optional: true}, N: {from: M, default: 2}}"
    (spec,) = specs(load(whole.replace(SERVE, env)))
    command = line(spec)
    ours = {"N", "HIP"}
    assert {k: v for k, v in command.printable_env().items() if k in ours} == {
        "HIP": "${ROCR}",
        "N": "${M:-2}",
    }
    for host, expected in (
        ({}, {"N": "2"}),
        ({"ROCR": ""}, {"N": "2"}),
        ({"ROCR": "0,1", "M": "3"}, {"HIP": "0,1", "N": "3"}),
    ):
        resolved = command.resolve_env(host)
        assert {k: v for k, v in resolved.items() if k in ours} == expected


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("{from: A, optional: 1}", "optional must be true or false, not 1"),
        ("{from: A, optional: true, default: 1}", "default and optional exclude each other"),
        ("{optional: true}", "{from: NAME, optional: true}"),
    ],
)
def test_wrong_variables_of_the_host(
    load: Callable[..., RecipeBook], whole: str, value: str, words: str
) -> None:
    (found,) = messages(load(whole.replace(SERVE, f"env: {{X: {value}}}")))
    assert found.startswith("13:9: m-fp8-h100-vllm.env.X: ")
    assert words in found


BRANCHES = """\
  when:
  - {if: conc < 8, serve: {seed: 1}}
  - {elif: conc < 64, serve: {seed: 2}}
  - {elif: conc >= 16, serve: {seed: 3}}
  - {else: true, serve: {seed: 4}}
  - {if: conc == 4, serve: {block-size: 64}}
  - {else: true, serve: {block-size: 32}}
"""


def test_of_a_chain_one_part_holds(load: Callable[..., RecipeBook], whole: str) -> None:
    text = whole.replace("[4, 16]", "[4, 16, 64]") + BRANCHES
    book = load(text, policy="point")
    flags = {
        case.workload.conc: (spec.serve["seed"], spec.serve["block-size"])
        for case, spec in zip(book.cases, specs(book), strict=True)
    }
    assert flags == {4: (1, 64), 16: (2, 32), 64: (3, 32)}


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("{elif: conc < 4, serve: {seed: 1}}", "when[0].elif: `elif` follows no `if`"),
        ("{else: true, serve: {seed: 1}}", "when[0].else: `else` follows no `if`"),
        ("{else: false, serve: {seed: 1}}", "when[0].else: "),
        ("{if: true, elif: true, serve: {seed: 1}}", "if and elif exclude each other; keep one"),
        ("{serve: {seed: 1}}", "missing key 'if'; add it (or `elif`, or `else: true`)"),
        ("{if: nonsense, serve: {seed: 1}}", "when[0].if: unknown name 'nonsense'"),
    ],
)
def test_wrong_branches(load: Callable[..., RecipeBook], whole: str, part: str, words: str) -> None:
    found = messages(load(f"{whole}  when:\n  - {part}\n"))
    assert any(words in one for one in found), found


def test_a_second_else_is_no_branch_of_anything(
    load: Callable[..., RecipeBook], whole: str
) -> None:
    (found,) = messages(load(whole + BRANCHES + "  - {else: true, serve: {seed: 9}}\n"))
    assert found.startswith("21:5: m-fp8-h100-vllm.when[6].else: `else` follows no `if`")


def test_facts_of_the_host_are_declared_and_a_site_may_say_otherwise(
    tmp_path: Path, whole: str
) -> None:
    recipe = whole.replace(
        SERVE,
        "when:\n  - {if: 'firmware < 177 and site != \"b\"', env: {NO_RECLAIM: 1}}\n"
        "  serve: {seed: '${firmware}'}",
    )
    (tmp_path / "family.yaml").write_text("host: {firmware: 0, site: a}\n" + recipe)
    (tmp_path / "site.yaml").write_text("include: family.yaml\nhost: {firmware: 200}\n")
    (usual,) = specs(load_recipes([tmp_path / "family.yaml"]))
    (other,) = specs(load_recipes([tmp_path / "site.yaml"]))
    assert (dict(usual.env), usual.serve["seed"]) == ({"NO_RECLAIM": "1"}, 0)
    assert (dict(other.env), other.serve["seed"]) == ({}, 200)


@pytest.mark.parametrize(
    ("host", "place", "words"),
    [
        ("{conc: 1}", "1:8: host.conc", "has a meaning in expressions already"),
        ("{min: 1}", "1:8: host.min", "cannot be a name in expressions"),
        ("{A-B: 1}", "1:8: host.A-B", "cannot be a name in expressions"),
        ("{a: [1]}", "1:11: host.a", "must be a number, true/false or text"),
        ("{a: null}", "1:11: host.a", "must be a number, true/false or text"),
        ("{a: 010}", "1:11: host.a", "YAML reads 010 as 8"),
        ("[a]", "1:7: host", "must be a map from names"),
    ],
)
def test_wrong_facts(
    load: Callable[..., RecipeBook], whole: str, host: str, place: str, words: str
) -> None:
    (found,) = messages(load(f"host: {host}\n{whole}"))
    assert found.startswith(place)
    assert words in found


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("compilation_config.pass_config.x", "write 'compilation-config.pass_config.x'"),
        ("O.mode", "the engine has no --O; write 'compilation-config.mode'"),
        ("O", "the engine has no --O; write 'optimization-level'"),
    ],
)
def test_dotted_flags_as_the_engine_reads_them(
    load: Callable[..., RecipeBook], whole: str, flag: str, words: str
) -> None:
    (found,) = messages(load(whole.replace("block-size: 128", f"{flag}: true")))
    assert found.endswith(words)
    written = words.split("'")[1]
    (spec,) = specs(load(whole.replace("block-size: 128", f"{written}: true")))
    argv = line(spec).argv
    assert argv[argv.index(f"--{written}") + 1] == ("true" if "." in written else "--host")


def test_what_is_known_not_to_start_is_planned_and_says_why(
    load: Callable[..., RecipeBook], whole: str
) -> None:
    text = whole + "  when:\n  - {if: conc > 4, serve: {seed: 1}, plan-only: it does not fit}\n"
    book = load(text)
    assert {case.workload.conc: case.why_not for case in book.cases} == {
        4: "",
        16: "it does not fit",
    }
    reasons = sorted(book.never_runs(key) for key, _ in book.servers)
    assert reasons == ["", "it does not fit"]
    shared = load(text.replace("serve: {seed: 1}, ", ""))
    assert [shared.never_runs(key) for key, _ in shared.servers] == [""]
    (found,) = messages(load(whole + "  plan-only: true\n"))
    assert found.endswith("plan-only: must be text, not True; quote it")


def test_another_checkpoint_where_a_condition_says_so(
    load: Callable[..., RecipeBook], whole: str
) -> None:
    book = load(whole + "  when:\n  - {if: conc > 4, model: org/m-v2}\n")
    models = {spec.model: key for key, spec in book.servers}
    assert messages(book) == []
    assert set(models) == {"org/m", "org/m-v2"}
    assert len(set(models.values())) == 2
    assert {case.workload.conc: case.model for case in book.cases} == {4: "org/m", 16: "org/m-v2"}
    (found,) = messages(load(whole + "  when:\n  - {if: conc > 4, model: 3}\n"))
    assert "when[0].model: must be text, not 3" in found
