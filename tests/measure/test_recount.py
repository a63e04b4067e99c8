"""Claimed tokens against the text that came: what is granted, what is not."""

from __future__ import annotations

import pytest

from pytest_gpubench.load.protocol import ClientFacts, RequestRecord
from pytest_gpubench.measure.validity import Recount, disagreement, recount_flags, recounted

CLIENT = ClientFacts("", "", "")


def _records(*counted: tuple[int, int, int] | None) -> list[RequestRecord]:
    """One record per (claimed, counted, silent); None is not in the sample."""
    return [
        RequestRecord(
            index,
            "measured",
            "r",
            8,
            8,
            0,
            completion_tokens=one[0],
            text_tokens=one[1],
            silent_tokens=one[2],
        )
        if one
        else RequestRecord(index, "measured", "r", 8, 8, 0, completion_tokens=8)
        for index, one in enumerate(counted)
    ]


def test_only_the_sample_is_summed_up() -> None:
    found = recounted(_records((8, 8, 0), None, (8, 6, 2)), CLIENT)
    assert found == Recount(2, 16, 14, 2, "the engine's /tokenize")
    assert disagreement(found) == ()
    assert recount_flags(found) == ()


@pytest.mark.parametrize(
    ("claimed", "counted", "silent", "agrees"),
    [
        (7, 2, 0, False),
        (100, 69, 0, False),
        (100, 70, 0, True),
        (100, 20, 60, True),
        (4, 0, 4, True),
        (0, 0, 0, True),
        (100, 130, 0, True),
        (100, 205, 0, False),
        (1, 2, 0, True),
        (8, 2, 1, False),
    ],
)
def test_a_claim_far_from_the_text_voids_the_measurement(
    claimed: int, counted: int, silent: int, agrees: bool
) -> None:
    reasons = disagreement(Recount(1, claimed, counted, silent, "the engine's /tokenize"))
    assert (not reasons) is agrees
    if not agrees:
        assert f"{counted} tokens by the engine's /tokenize" in reasons[0]
        assert f"usage claims {claimed}" in reasons[0]


def test_answers_without_any_text_are_not_believed() -> None:
    (reason,) = disagreement(Recount(2, 200, 0, 200, "the engine's /tokenize"))
    assert reason == "no text came in 2 sampled answers, for which usage claims 200 tokens"


def test_text_of_made_up_weights_is_not_counted() -> None:
    """As seen on an H200 with load-format dummy: 3,691 tokens in 32 answers, and no text at all."""
    found = recounted(_records((115, 0, 4), (116, 0, 4)), CLIENT, made_up_weights=True)
    assert disagreement(found) == ()
    (flag,) = recount_flags(found)
    assert "made up" in flag.message


def test_what_could_not_be_counted_is_flagged_and_voids_nothing() -> None:
    client = ClientFacts("3", "3.11", "asyncio", recount="/tokenize answered 404")
    found = recounted(_records(None), client)
    assert disagreement(found) == ()
    (flag,) = recount_flags(found)
    assert (flag.code, flag.message) == (
        "answers-unchecked",
        "no answer was tokenized again: /tokenize answered 404",
    )


def test_many_tokens_without_text_are_flagged() -> None:
    (flag,) = recount_flags(recounted(_records((100, 50, 50)), CLIENT))
    assert flag.code == "silent-tokens"
