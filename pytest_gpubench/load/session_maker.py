"""Sessions drawn by a seed, in lengths and pauses that others have published. Pure.

``coding``: the defaults of the agentic-code session generator of NVIDIA's AIPerf 0.13.0
(``aiperf/dataset/agentic_code_gen/models.py``; lognormal by mean and median). ``chat``: 5%
quantiles of Mooncake's FAST'25 conversation trace (kvcache-ai/Mooncake at 3b5a5941,
``FAST25-release/traces/conversation_trace.jsonl``): 12,031 answers, 8,132 first prompts, 3,899 that
go on from the blocks of another. ``experiments/agentic/README.md`` has how they were taken.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


class Draws(Protocol):
    """A distribution."""

    def __call__(self, rng: random.Random) -> float: ...


@dataclass(frozen=True, slots=True)
class Lognormal:
    """By mean and median, as AIPerf writes it."""

    mean: float
    median: float

    def __call__(self, rng: random.Random) -> float:
        sigma = math.sqrt(2 * math.log(self.mean / self.median))
        return rng.lognormvariate(math.log(self.median), sigma)


@dataclass(frozen=True, slots=True)
class Quantiles:
    """By values at equal steps of the share, the least and the greatest included; straight lines
    between them."""

    values: tuple[float, ...]

    def __call__(self, rng: random.Random) -> float:
        place = rng.random() * (len(self.values) - 1)
        low = int(place)
        return self.values[low] + (place - low) * (self.values[low + 1] - self.values[low])


@dataclass(frozen=True, slots=True)
class Mixture:
    """One distribution with a probability, else the other."""

    share: float
    first: Draws
    second: Draws

    def __call__(self, rng: random.Random) -> float:
        return (self.first if rng.random() < self.share else self.second)(rng)


@dataclass(frozen=True, slots=True)
class Profile:
    """What sessions are like. Lengths in tokens, pauses in seconds."""

    system: int
    """Tokens at the start that all sessions have."""
    first: Draws
    """What the first turn has beside them."""
    new: Draws
    """What each later turn adds to the turn before and its answer."""
    answer: Draws
    pause: Draws
    end: float
    """Probability that a session ends with a turn; grows to twice of it as the context fills."""
    context: int
    """Where a session ends at the latest."""


PROFILES: Mapping[str, Profile] = {
    "coding": Profile(
        system=32_000,
        first=Lognormal(10_000, 5_000),
        new=Lognormal(3_500, 1_800),
        answer=Lognormal(500, 300),
        pause=Mixture(0.7, Lognormal(2.5, 1.8), Lognormal(40.0, 25.0)),
        end=0.02,
        context=200_000,
    ),
    "chat": Profile(
        system=512,
        first=Quantiles(
            (
                *(891, 898, 907, 970, 1164, 1466, 2120, 3438, 4350, 5062, 5925, 7105, 8509, 10118),
                *(12072, 14274, 16909, 20253, 26282, 38045, 126195),
            )
        ),
        new=Quantiles(
            (
                *(1, 1, 4, 7, 8, 10, 12, 14, 18, 22, 28, 39, 62, 109, 222, 417, 901, 2939, 4400),
                *(7401, 91467),
            )
        ),
        answer=Quantiles(
            (
                *(1, 10, 24, 46, 100, 156, 213, 256, 291, 322, 350, 375, 399, 423, 447, 472, 504),
                *(543, 597, 698, 2000),
            )
        ),
        pause=Quantiles(
            (
                *(6, 30, 42, 51, 60, 69, 75, 87, 99, 111, 126, 144, 168, 195, 234, 276, 330, 396),
                *(486, 615, 3030),
            )
        ),
        end=0.33,
        context=131_072,
    ),
}
"""By the name on the command line. ``chat`` counts from request to request, so its pauses hold the
time of an answer; its sessions have the trace's mean of 1.5 turns."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be drawn."""

    sessions: int
    profile: Profile
    seed: int = 0
    block_tokens: int = 512
    scale: float = 1.0
    """Factor on all lengths."""
    context: int | None = None
    """Tokens of a prompt and its answer at most; None: the profile's, scaled."""
    turns: int | None = None
    """Of every session that has room for them; None: as the profile draws."""
    pauses: float = 1.0
    """Factor on pauses."""
    sub_sessions: float = 0.0
    """Share of turns that spawn a session, which the next turn waits for."""


_SUB_TURNS = 3


@dataclass(slots=True)
class _Context:
    """A session's tokens as blocks: the system's, then its own; what is whole keeps its id."""

    maker: _Maker
    ids: dict[int, int] = field(default_factory=dict)

    def blocks(self, tokens: int) -> list[int]:
        size = self.maker.wanted.block_tokens
        whole, rest = divmod(tokens, size)
        found = [self._id(number) for number in range(whole)]
        return [*found, self.maker.fresh()] if rest else found

    def _id(self, number: int) -> int:
        if number < self.maker.system // self.maker.wanted.block_tokens:
            return number
        if number not in self.ids:
            self.ids[number] = self.maker.fresh()
        return self.ids[number]


class _Maker:
    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.rng = random.Random(f"{wanted.seed}/sessions")  # noqa: S311  # reproducible, not secret
        self.system = self._scaled(wanted.profile.system)
        self.context = wanted.context or self._scaled(wanted.profile.context)
        self._next = self.system // wanted.block_tokens
        self._subs = 0

    def fresh(self) -> int:
        self._next += 1
        return self._next - 1

    def session(self, name: str, most_turns: int | None, depth: int) -> Iterator[dict[str, Any]]:
        """The lines of a session, and behind them those of its sub-sessions."""
        profile, rng, context = self.wanted.profile, self.rng, _Context(self)
        tokens = self.system + self._scaled(profile.first(rng))
        lines: list[dict[str, Any]] = []
        subs: list[dict[str, Any]] = []
        while True:
            answer = self._scaled(profile.answer(rng))
            if tokens + answer > self.context:
                break
            line: dict[str, Any] = {
                "session_id": name,
                "input_length": tokens,
                "output_length": answer,
                "hash_ids": context.blocks(tokens),
            }
            if lines:
                line["delay"] = round(profile.pause(rng) * self.wanted.pauses * 1000)
            lines.append(line)
            if self._ends(tokens, len(lines), most_turns):
                break
            if depth == 0 and rng.random() < self.wanted.sub_sessions:
                self._subs += 1
                child = f"{name}.{self._subs}"
                most = min(_SUB_TURNS, most_turns or _SUB_TURNS)
                made = list(self.session(child, 1 + rng.randrange(most), depth + 1))
                if made:
                    line["spawns"] = [child]
                    subs += made
            tokens += answer + self._scaled(profile.new(rng))
        yield from lines
        yield from subs

    def _ends(self, tokens: int, turns: int, most_turns: int | None) -> bool:
        if most_turns is not None:
            return turns >= most_turns
        chance = self.wanted.profile.end * (1 + tokens / self.context)
        return self.rng.random() < chance

    def _scaled(self, tokens: float) -> int:
        return max(1, round(tokens * self.wanted.scale))


def make_sessions(wanted: Wanted) -> Iterator[dict[str, Any]]:
    """Lines of a trace, as ``session_traces`` reads them; the same for the same wish.

    Raises:
        ValueError: where not even a first turn has room.
    """
    maker = _Maker(wanted)
    tries = 0
    number = 0
    while number < wanted.sessions:
        lines = list(maker.session(f"s{number}", wanted.turns, 0))
        tries += 1
        if lines:
            number += 1
            yield from lines
        elif tries > 20 * (number + 1):
            raise ValueError(
                f"first turns do not fit in {maker.context:,} tokens: lower the scale, or raise "
                "the most tokens of a prompt"
            )
