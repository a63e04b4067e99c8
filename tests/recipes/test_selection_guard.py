from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_gpubench.model.cases import Case, Identity, RecipeBook, SourcePosition
from pytest_gpubench.model.specs import Topology
from pytest_gpubench.model.workload import Workload
from pytest_gpubench.recipes.selection import Ambiguity, find_ambiguity


def case(hardware: str, conc: int, spec: str = "", topology: Topology | None = None) -> Case:
    identity = Identity("m3", "fp8", hardware, "vllm", spec)
    topology = topology or Topology(tp=8)
    server = f"{identity.label}-{topology.label}"
    workload = Workload(1024, 1024, conc, conc, conc)
    return Case(
        id=f"{server}:{workload.label}",
        recipe=identity.label,
        identity=identity,
        model="m",
        runner=hardware,
        topology=topology,
        workload=workload,
        max_model_len=1,
        server=server,
        tags=(*identity.tokens, topology.label, *workload.label.split("-")),
        position=SourcePosition("f", 1, 1),
    )


CASES = [
    case(hardware, conc, spec)
    for hardware in ("b200", "gb200", "h100")
    for conc in (1, 16, 64)
    for spec in ("", "mtp")
]


def found(expression: str) -> Ambiguity:
    ambiguity = find_ambiguity(expression, CASES)
    assert ambiguity is not None
    return ambiguity


@pytest.mark.parametrize(
    "expression",
    [
        "m3 and h100 and mtp",
        "gb200",
        "h100 and not mtp",
        "c16 or c64",
        "GB200 and C16",
        "test_throughput",
        "b2",
        "not xyz",
        "tp8 and vllm",
        "(h100)",
    ],
)
def test_exact_enough(expression: str) -> None:
    assert find_ambiguity(expression, CASES) is None


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "and",
        "b200 and",
        "b200 or (",
        "b200)",
        "b200 b200",
        "b200 & c1",
        "not",
        "b200(x=1)",
        "()",
        "(" * 100,
    ],
)
def test_what_pytest_refuses_is_left_to_pytest(expression: str) -> None:
    assert find_ambiguity(expression, CASES) is None


def test_a_tag_inside_another() -> None:
    ambiguity = found("b200 and c16")
    assert [one.id for one in ambiguity.extra] == [
        "m3-fp8-gb200-vllm-tp8:1k1k-c16",
        "m3-fp8-gb200-vllm-mtp-tp8:1k1k-c16",
    ]
    assert ambiguity.missing == ()
    assert ambiguity.words == ("b200",)
    assert ambiguity.suggestion == '-m "b200 and c16"'
    assert "it would also select 2 cases (m3-fp8-gb200-vllm-tp8:1k1k-c16, " in str(ambiguity)
    assert 'write -m "b200 and c16"' in str(ambiguity)


def test_a_concurrency_inside_another() -> None:
    ambiguity = found("h100 and c1")
    assert {one.workload.conc for one in ambiguity.extra} == {16}


def test_under_not_cases_go_missing() -> None:
    ambiguity = found("not c1")
    assert {one.workload.conc for one in ambiguity.missing} == {16}
    assert ambiguity.extra == ()
    assert "it would leave out 6 cases" in str(ambiguity)


def test_words_that_are_no_tags_are_taken_both_ways() -> None:
    assert len(found("c1 and test_throughput").extra) == 6
    assert len(found("c1 or test_throughput").extra) == 6
    assert find_ambiguity("(c1 or h100 or gb200 or b200) and x", CASES) is None


def test_the_name_of_a_server_is_that_server() -> None:
    servers = [*CASES, case("a100", 1)]
    assert find_ambiguity("m3-fp8-a100-vllm-tp8 and c1", servers) is None
    ambiguity = find_ambiguity("m3-fp8-h100-vllm-tp8 and c1", servers)
    assert ambiguity is not None
    assert [one.id for one in ambiguity.extra] == ["m3-fp8-h100-vllm-tp8:1k1k-c16"]


def test_suggestion_splits_tags_from_names() -> None:
    assert (
        found("Test_X and C1 and not (mtp or h100)").suggestion
        == '-m "c1 and not (mtp or h100)" -k "Test_X"'
    )
    assert found("c1 or Test_X").suggestion == ""
    assert "select by exact tags with -m" in str(found("c1 or Test_X"))


def test_many_free_words() -> None:
    assert len(found("c1 and " + " and ".join(f"w{i}" for i in range(30))).extra) == 6


def test_topologies_with_dots() -> None:
    cases = [
        case("h100", 1, topology=Topology(tp=4)),
        case("h100", 1, topology=Topology(tp=4, pp=2)),
    ]
    ambiguity = find_ambiguity("tp4", cases)
    assert ambiguity is not None
    assert [one.topology.pp for one in ambiguity.extra] == [2]
    assert find_ambiguity("tp4.pp2", cases) is None


def test_tags_of_real_recipes(load: Callable[..., RecipeBook], whole: str) -> None:
    ambiguity = find_ambiguity("c1", load(whole.replace("[4, 16]", "[1, 16]")).cases)
    assert ambiguity is not None
    assert [one.workload.conc for one in ambiguity.extra] == [16]


def pytest_selects(expression: str, item: Case) -> bool:
    """What pytest does, by its public semantics: a word holds if it is part of a name of the
    item."""
    text = item.id.lower()
    words = {
        word: word.lower() in text
        for word in expression.replace("(", " ").replace(")", " ").split()
        if word not in ("and", "or", "not")
    }
    return bool(eval(expression, {"__builtins__": {}}, words))


_TREES = st.recursive(
    st.sampled_from(["b200", "gb200", "h100", "c1", "c16", "c64", "mtp", "fp8"]),
    lambda below: (
        st.tuples(below, st.sampled_from(["and", "or"]), below).map(
            lambda t: f"({t[0]} {t[1]} {t[2]})"
        )
        | below.map(lambda t: f"(not {t})")
    ),
    max_leaves=6,
)


@settings(max_examples=200)
@given(_TREES)
def test_agrees_with_the_meaning_of_both_readings(expression: str) -> None:
    ambiguity = find_ambiguity(expression, CASES)
    extra = {one.id for one in ambiguity.extra} if ambiguity else set()
    missing = {one.id for one in ambiguity.missing} if ambiguity else set()
    for one in CASES:
        words = {
            word: word in one.tags
            for word in ("b200", "gb200", "h100", "c1", "c16", "c64", "mtp", "fp8")
        }
        said, done = (
            bool(eval(expression, {"__builtins__": {}}, words)),
            pytest_selects(expression, one),
        )
        assert (one.id in extra) == (done and not said)
        assert (one.id in missing) == (said and not done)


@settings(max_examples=150)
@given(st.text(alphabet="c1b20 and or not()[]:+-.\\/=,'", max_size=30))
def test_any_text_is_answered(expression: str) -> None:
    assert find_ambiguity(expression, CASES) is None or str(found(expression))
