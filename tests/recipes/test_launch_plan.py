from __future__ import annotations

import pytest

from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.recipes.server_groups import plan_launches


def labels(launches: str, against: bool = False) -> list[str]:
    return [
        f"{launch.label}{'?' if launch.reserve else ''}"
        for launch in plan_launches(["s"], launches, against=against)
    ]


def test_plans() -> None:
    assert labels("1") == ["launch-1"]
    assert labels("3") == ["launch-1", "launch-2", "launch-3"]
    assert labels("1..3") == ["launch-1", "launch-2?", "launch-3?"]
    assert labels(" 2 .. 2 ") == ["launch-1", "launch-2"]
    assert labels("1", against=True) == ["a1", "b1", "b2", "a2"]
    assert labels("1..2", against=True) == ["a1", "b1", "b2", "a2", "a3?", "b3?", "b4?", "a4?"]


def test_server_by_server() -> None:
    assert [(launch.server, launch.index) for launch in plan_launches(["x", "y"], "2")] == [
        ("x", 1),
        ("x", 2),
        ("y", 1),
        ("y", 2),
    ]
    assert plan_launches([], "2") == ()


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "3..1", "0..2", "1...3", "x", "1..", "101", "1..999999", "٣", "1.5"]
)
def test_misunderstood(text: str) -> None:
    with pytest.raises(GpubenchError, match="write a number such as 3, or a range such as"):
        plan_launches(["s"], text)
