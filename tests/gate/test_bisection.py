"""The walk over candidates: every single change is found, nothing is guessed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gpubench.gate.bisection import Answer, Bisection
from pytest_gpubench.model.verdicts import Status


def _walk(length: int, first_bad: int, skipped: frozenset[int] = frozenset()) -> Bisection:
    """The walk to its end; the bad end can always be told."""
    state = Bisection(length)
    while (place := state.next) is not None:
        assert place not in state.answers, "nobody is asked twice"
        answer = Answer.BAD if place >= first_bad else Answer.GOOD
        answer = Answer.SKIPPED if place in skipped else answer
        state = replace(state, answers={**state.answers, place: answer})
    return state


@pytest.mark.parametrize("length", range(1, 70))
def test_every_single_change_is_found_in_about_log2_steps(length: int) -> None:
    for first_bad in range(length):
        state = _walk(length, first_bad)
        assert state.found == first_bad
        assert len(state.answers) <= (length - 1).bit_length() + 1
        assert state.steps_left == 0


@st.composite
def _worlds(draw: st.DrawFn) -> tuple[int, int, frozenset[int]]:
    length = draw(st.integers(1, 60))
    skipped = draw(st.frozensets(st.integers(0, length - 1))) - {length - 1}
    return length, draw(st.integers(0, length - 1)), skipped


@given(_worlds())
def test_a_skipped_one_is_never_guessed(world: tuple[int, int, frozenset[int]]) -> None:
    length, first_bad, skipped = world
    state = _walk(*world)
    assert first_bad in state.suspects
    assert all(place in skipped for place in state.suspects[:-1])
    if state.found is None:
        assert len(state.suspects) > 1
    else:
        assert state.found == first_bad
        assert first_bad not in skipped
        assert first_bad - 1 not in skipped
    # Each skipped one costs at most a step.
    asked_in_vain = sum(place in skipped for place in state.answers)
    assert len(state.answers) - asked_in_vain <= length.bit_length() + asked_in_vain + 1


@given(st.integers(1, 60), st.sampled_from([Answer.GOOD, Answer.SKIPPED]))
def test_nothing_is_asked_where_the_bad_end_is_not_bad(length: int, answer: Answer) -> None:
    state = Bisection(length)
    assert state.next == length - 1
    state = replace(state, answers={length - 1: answer})
    assert (state.next, state.found, state.end) == (None, None, answer)


def test_the_first_bad_one_is_asked_alone_unless_the_good_end_is_before_it() -> None:
    assert Bisection(4).unconfirmed is None
    first = _walk(4, 0)
    assert (first.unconfirmed, first.confirmed) == (None, True)
    third = _walk(4, 2)
    assert (third.unconfirmed, third.confirmed) == (2, False)
    alone = {answer: replace(third, alone=answer) for answer in Answer}
    assert {one.unconfirmed for one in alone.values()} == {None}
    assert [answer for answer, one in alone.items() if one.confirmed] == [Answer.BAD]
    skipped = _walk(4, 2, frozenset({1}))
    assert (skipped.unconfirmed, skipped.confirmed) == (None, False)


def test_only_a_pass_and_a_fail_say_something() -> None:
    answers = {status: Answer.of(status) for status in Status}
    assert answers.pop(Status.FAIL) is answers.pop(Status.WAIVED) is Answer.BAD
    assert answers.pop(Status.PASS) is Answer.GOOD
    assert set(answers.values()) == {Answer.SKIPPED}
