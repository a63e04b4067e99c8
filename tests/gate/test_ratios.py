"""Ratios between cases of one run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_gpubench.gate.evidence import LaunchEvidence
from pytest_gpubench.gate.ratios import RatioPoint, faults, judge_ratio, ratio_points
from pytest_gpubench.model.cases import Case, Identity, SourcePosition
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.specs import Topology
from pytest_gpubench.model.verdicts import Status
from pytest_gpubench.model.workload import Workload


def case(recipe: str, tp: int, conc: int, spec: str = "") -> Case:
    topology, load = Topology(tp=tp), Workload(1024, 1024, conc, conc * 10, conc * 2)
    identity = Identity("m3", "fp8", "h100", "vllm", spec)
    server = f"{identity.label}-{topology.label}"
    tags = (*identity.tokens, topology.label, load.shape, f"c{conc}")
    return Case(
        f"{server}:{load.label}",
        recipe,
        identity,
        "m",
        "h100",
        topology,
        load,
        4096,
        server,
        tags,
        SourcePosition("f", 1, 1),
    )


CASES = [
    case(recipe, tp, conc, spec)
    for recipe, spec in (("m3-fp8-h100-vllm", ""), ("m3-fp8-h100-vllm-mtp", "mtp"))
    for tp in (4, 8)
    for conc in (1, 64)
]


def ratio(**more: object) -> FrozenMap:
    base = {
        "name": "win",
        "metric": "output_tput_per_gpu",
        "of": "m3-fp8-h100-vllm-mtp",
        "over": "m3-fp8-h100-vllm",
        "at-least": 1.2,
    }
    return FrozenMap({**base, **more})


@pytest.mark.parametrize(
    ("declared", "labels"),
    [
        (ratio(at={"conc": 1}), ["win:tp4:1k1k-c1", "win:tp8:1k1k-c1"]),
        (ratio(at={"conc": 1, "tp": 8}), ["win:tp8:1k1k-c1"]),
        (ratio(at="tp8-c64"), ["win:tp8:1k1k-c64"]),
        (ratio(), ["win:tp4:1k1k-c1", "win:tp4:1k1k-c64", "win:tp8:1k1k-c1", "win:tp8:1k1k-c64"]),
        (
            ratio(of="m3-fp8-h100-vllm-tp8", over="m3-fp8-h100-vllm-tp4"),
            ["win:1k1k-c1", "win:1k1k-c64"],
        ),
        (ratio(of="nothing"), []),
    ],
)
def test_the_points_of_a_ratio(declared: FrozenMap, labels: list[str]) -> None:
    points = ratio_points([declared], CASES)
    assert [point.label for point in points] == labels
    assert all(point.of != point.over for point in points)


def test_a_plain_recipe_does_not_match_its_mtp_twin() -> None:
    (point, *_) = ratio_points([ratio(at={"conc": 1})], CASES)
    assert (point.of, point.over) == (
        "m3-fp8-h100-vllm-mtp-tp4:1k1k-c1",
        "m3-fp8-h100-vllm-tp4:1k1k-c1",
    )


def test_a_ratio_that_judges_nothing_is_told() -> None:
    found = faults([ratio(), ratio(of="typo"), ratio(at={"conc": 7})], CASES)
    assert [(index, sentence.split(": ", 1)[1]) for index, sentence in found] == [
        (1, "no case matches of: typo"),
        (2, "no workload is common to both sides, `at` included"),
    ]


def test_a_ratio_whose_denominator_could_be_several_cases_is_told() -> None:
    twin = [replace(one, id=f"twin-{one.id}", recipe="twin") for one in CASES]
    (found,) = faults([ratio(over="h100-vllm", at={"conc": 1, "tp": 8})], [*CASES, *twin])
    assert found == (
        0,
        "the ratio win has several cases to choose from: m3-fp8-h100-vllm-mtp-tp8:1k1k-c1 could "
        "stand over m3-fp8-h100-vllm-tp8:1k1k-c1, twin-m3-fp8-h100-vllm-tp8:1k1k-c1, "
        "twin-m3-fp8-h100-vllm-mtp-tp8:1k1k-c1; let `over` name one recipe or server",
    )


def test_two_ratios_that_cannot_be_told_apart_are_refused() -> None:
    one = ratio(at={"conc": 1, "tp": 8})
    found = faults([one, ratio(name="other"), FrozenMap({**one, "metric": "output_tput"})], CASES)
    assert found == (
        (
            2,
            "the ratio win judges m3-fp8-h100-vllm-mtp-tp8:1k1k-c1, as another ratio of that name "
            "does; rename one",
        ),
    )


def test_ratios_of_one_name_have_labels_of_their_own_in_a_run_and_in_its_matrix() -> None:
    """The verdict on one would stand for the other's."""
    both = [
        ratio(at={"conc": 1, "tp": 8}),
        ratio(of="m3-fp8-h100-vllm", over="m3-fp8-h100-vllm-mtp", at={"conc": 1, "tp": 8}),
    ]
    assert faults(both, CASES) == ()
    labels = [
        "win:tp8:1k1k-c1:m3-fp8-h100-vllm-mtp-tp8:1k1k-c1",
        "win:tp8:1k1k-c1:m3-fp8-h100-vllm-tp8:1k1k-c1",
    ]
    points = ratio_points(both, CASES)
    assert [one.label for one in points] == [repr(one) for one in points] == labels
    assert ratio_points(both[:1], CASES)[0].label == "win:tp8:1k1k-c1"
    assert repr(ratio_points(both[:1], CASES)[0]) == labels[0]


def test_a_selection_pairs_no_cases_that_the_ratio_does_not_mean() -> None:
    """Of two topologies below, the one that was selected is not the other's partner."""
    selected = [
        one
        for one in CASES
        if one.workload.conc == 1 and (one.topology.tp == 8) == (one.identity.spec == "mtp")
    ]
    assert len(selected) == 2
    assert ratio_points([ratio()], CASES, selected) == ()
    assert len(ratio_points([ratio()], CASES, CASES)) == 4


POINT = RatioPoint(
    "win", "tp8:1k1k-c1", "output_tput_per_gpu", "a:w", "b:w", at_least=1.2, at_most=3.0
)


def side(*values: float, invalid: bool = False) -> list[LaunchEvidence]:
    reasons = ("client",) if invalid else ()
    return [
        LaunchEvidence(f"launch-{i}", {"output_tput_per_gpu": value}, 10, invalid=reasons)
        for i, value in enumerate(values, 1)
    ]


@pytest.mark.parametrize(
    ("of", "over", "status", "words"),
    [
        ([130.0], [100.0], Status.PASS, "1.300 times"),
        ([119.0], [100.0], Status.FAIL, "demands at least 1.2 times"),
        ([400.0], [100.0], Status.FAIL, "allows at most 3 times"),
        ([], [100.0], Status.INCONCLUSIVE, "of a:w was not measured"),
        ([130.0], [], Status.INCONCLUSIVE, "of b:w was not measured"),
        ([120.0, 140.0], [100.0, 101.0], Status.PASS, "give or take"),
    ],
)
def test_ratios_are_judged(of: list[float], over: list[float], status: Status, words: str) -> None:
    verdict = judge_ratio(POINT, side(*of), side(*over))
    assert (verdict.status, words in verdict.reason) == (status, True)


def test_invalid_launches_do_not_count() -> None:
    assert judge_ratio(POINT, side(130.0, invalid=True), side(100.0)).status is Status.INCONCLUSIVE
