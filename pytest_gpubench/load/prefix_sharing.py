"""How much of each prompt's beginning the prompts before it had as well: what a prefix cache can
find."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TypeAlias

from pytest_gpubench.load.prompts import Prompt
from pytest_gpubench.load.transport import Exchange

Parts: TypeAlias = Sequence[tuple[Hashable, int]]
"""Of a prompt from its start: what makes a part equal, and its tokens."""


@dataclass(slots=True)
class PrefixTree:
    """Prompts as sequences of parts; a part that is shorter than an equal one is its beginning."""

    _steps: dict[tuple[int, Hashable], tuple[int, int]] = field(default_factory=dict)
    """From a place by a part: the next place, and the most tokens that the part had."""
    _places: int = 0

    def add(self, parts: Parts) -> None:
        place = 0
        for key, size in parts:
            following, most = self._steps.get((place, key), (0, 0))
            if not following:
                self._places += 1
                following = self._places
            self._steps[place, key] = (following, max(size, most))
            place = following

    def longest(self, parts: Parts) -> int:
        """Tokens at the start that some prompt in here has as well."""
        place = total = 0
        for key, size in parts:
            place, most = self._steps.get((place, key), (0, 0))
            total += min(size, most)
            if not place or most < size:
                break
        return total


def shared_tokens(sent: Iterable[tuple[Exchange, Prompt]]) -> dict[int, tuple[int, int | None]]:
    """Of each request of a trace of sessions, by the exchange's number: tokens that a prompt which
    was answered before it was sent began with as well, and those of any that was sent before
    (None: not known).

    The template's own first tokens are in the second number alone: how many they are is not known,
    only that they are no more than all that it adds.
    """
    rows = [
        (exchange.send_ns, exchange, prompt, prompt.place)
        for exchange, prompt in sent
        if prompt.place is not None and exchange.send_ns is not None
    ]
    rows.sort(key=lambda row: row[0])
    ended = sorted(
        (
            (exchange.end_ns, place.prefix)
            for _, exchange, _, place in rows
            if exchange.end_ns is not None and not exchange.error
        ),
        key=itemgetter(0),
    )
    known = all(place.whole for *_, place in rows)
    begun, answered = PrefixTree(), PrefixTree()
    found: dict[int, tuple[int, int | None]] = {}
    next_ended = 0
    for number, (send_ns, exchange, prompt, place) in enumerate(rows):
        while next_ended < len(ended) and ended[next_ended][0] <= send_ns:
            answered.add(ended[next_ended][1])
            next_ended += 1
        kept = answered.longest(place.prefix)
        most = min(prompt.isl, begun.longest(place.prefix) + (place.lead if number else 0))
        found[exchange.number] = (kept, most if known else None)
        begun.add(place.prefix)
    return found
