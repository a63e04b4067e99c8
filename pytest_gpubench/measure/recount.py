"""Do the tokens that were claimed agree with the text that came? Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_gpubench.load.protocol import ClientFacts, RequestRecord
from pytest_gpubench.measure.measurement import Flag

LEAST = 0.7
"""Tokens of the text, and those that came without text, over those claimed. Honest answers lie above: what a model writes is
nearly always what its tokenizer makes of the text, and even of ids drawn at random it makes as many or a few more."""
MOST = 2.0
"""Likewise, and some tokens more per answer: a few pieces of words make a short answer that reads otherwise."""
_MORE = 4
_SILENT = 0.2


@dataclass(frozen=True, slots=True)
class Recount:
    """A sample of answers whose text was tokenized again."""

    answers: int = 0
    claimed: int = 0
    """Output tokens of these answers by ``usage``."""
    counted: int = 0
    """Tokens of their text."""
    silent: int = 0
    """Claimed tokens that came in chunks without text: special tokens, parts of a character."""
    tokenizer: str = ""
    """What counted; empty: nothing did."""
    unchecked: str = ""
    """Why nothing did."""


def recounted(records: Sequence[RequestRecord], client: ClientFacts | None) -> Recount:
    """Sum up the measured records that were counted again."""
    found = [record for record in records if record.text_tokens is not None]
    if not found:
        return Recount(unchecked=client.recount if client else "")
    return Recount(
        answers=len(found),
        claimed=sum(record.completion_tokens or 0 for record in found),
        counted=sum(record.text_tokens or 0 for record in found),
        silent=sum(record.silent_tokens or 0 for record in found),
        tokenizer="the engine's /tokenize",
    )


def disagreement(found: Recount) -> tuple[str, ...]:
    """Why the measurement does not count: the text does not hold what was claimed."""
    if not found.counted and found.claimed > _MORE * found.answers:  # the only token of an answer may well be a special one
        return (f"no text came in {found.answers} sampled answers, for which usage claims {found.claimed} tokens",)
    seen = found.counted + found.silent
    if LEAST * found.claimed <= seen <= MOST * found.claimed + _MORE * found.answers:
        return ()
    silent = f" ({found.silent} more came without text)" if found.silent else ""
    answers = "the one sampled answer" if found.answers == 1 else f"{found.answers} sampled answers"
    return (
        f"tokens were claimed that did not come: the streamed text of {answers} holds {found.counted} tokens by "
        f"{found.tokenizer}{silent}, usage claims {found.claimed}"
        if seen < found.claimed
        else f"more came than was counted: the streamed text of {answers} holds {found.counted} tokens by {found.tokenizer}, "
        f"usage claims {found.claimed}",
    )


def recount_flags(found: Recount) -> tuple[Flag, ...]:
    """What could not be checked."""
    if found.unchecked:
        return (Flag("answers-unchecked", f"no answer was tokenized again: {found.unchecked}"),)
    if found.silent > _SILENT * found.claimed:
        message = f"{found.silent} of {found.claimed} tokens of sampled answers came without text: special tokens, most likely"
        return (Flag("silent-tokens", message),)
    return ()
