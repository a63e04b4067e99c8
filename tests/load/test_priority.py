from __future__ import annotations

import os

import pytest

from pytest_gpubench.load.timing import foremost


def now() -> tuple[int, int]:
    return os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)


def test_taken_for_the_block_only() -> None:
    before = now()
    with foremost() as taken:
        inside = now()
    assert now() == before
    assert (inside != before) == bool(taken)


def test_not_wanted_and_not_permitted_are_no_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    before = now()
    with foremost(False) as taken:
        assert (taken, now()) == ("", before)

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    monkeypatch.setattr(os, "setpriority", refuse)
    with foremost() as taken:
        assert (taken, now()) == ("", before)


def test_a_nice_level_is_the_second_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    asked: list[tuple[int, int, int]] = []
    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    monkeypatch.setattr(os, "setpriority", lambda *words: asked.append(words))
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with foremost() as taken:
        assert taken == "nice -20"
    assert asked == [(os.PRIO_PROCESS, 0, -20), (os.PRIO_PROCESS, 0, before)]


def test_a_chosen_policy_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getscheduler", lambda _: os.SCHED_IDLE)
    monkeypatch.setattr(
        os, "sched_setscheduler", lambda *_: pytest.fail("it was somebody's choice")
    )
    with foremost() as taken:
        assert taken == ""
