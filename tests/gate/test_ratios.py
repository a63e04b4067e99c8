"""Ratios between cases of one run."""

from __future__ import annotations

import pytest

from pytest_gpubench.gate.evidence import LaunchEvidence
from pytest_gpubench.gate.ratios import RatioPoint, judge_ratio, ratio_points, unmatched
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
    words = unmatched([ratio(of="typo"), ratio(at={"conc": 7}), ratio()], CASES)
    assert [sentence.split(": ", 1)[1] for sentence in words] == [
        "no case matches of: typo",
        "no workload is common to both sides, `at` included",
    ]


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
