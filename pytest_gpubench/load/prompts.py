"""Prompts of an exact length, sized through the server's own tokenizer and chat template."""

from __future__ import annotations

import asyncio
import random
from array import array
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Protocol, TypeAlias

from pytest_gpubench.load.protocol import LoadPlan, Phase
from pytest_gpubench.model.failures import BenchmarkError, Failure
from pytest_gpubench.model.workload import Workload

_ROUNDS = 8
_TOLERANCE = 1
_PARALLEL = 8
_MEASURED_WORDS = 128

WORDS: tuple[str, ...] = tuple(Path(__file__).with_name("word_list.txt").read_text("utf-8").split())
"""Everyday English words, each one token in the vocabularies of today's large models: the material
of synthetic prompts."""

Message: TypeAlias = tuple[str, str]
"""Role and content."""


class Counter(Protocol):
    """Tokens of a request with this text as its last message: template, special tokens and text."""

    async def __call__(self, text: str, history: tuple[Message, ...] = ()) -> int: ...


@dataclass(frozen=True, slots=True)
class SessionPlace:
    """Where a request stands in a trace of sessions."""

    session: str
    root: str
    """The session of the trace's own that it belongs to: itself, or what has spawned it."""
    turns: int
    """That its session has, those left out that are too long for the model."""
    after: tuple[int, ...] = ()
    """Indexes of the prompts that must be answered before."""
    pause: float = 0.0
    """Seconds from the end of the last of these until it is due."""
    prefix: tuple[tuple[Hashable, int], ...] = ()
    """Parts of its tokens from the start, by what makes them equal, and their sizes."""
    lead: int = 0
    """Tokens that the template may put before them."""
    whole: bool = True
    """Whether prompts share nothing but equal parts: so where they are made of blocks."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt with its lengths in tokens: those that were drawn for it, or that it has."""

    index: int
    phase: Phase
    text: str
    isl: int
    osl: int
    history: tuple[Message, ...] = ()
    """The messages before ``text``: system prompt, earlier turns and their recorded answers."""
    turn: int = 0
    """From 0; above it, the request follows the one before it."""
    due: float | None = None
    """Seconds after the start, where the data say so (a trace)."""
    token_ids: array[int] | None = None
    """What is sent instead of ``text`` where the workload sends token ids."""
    place: SessionPlace | None = None
    """Where it stands in a trace of sessions."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Words with their sizes in tokens (a leading space included) and what the template adds to a
    text."""

    words: tuple[str, ...]
    sizes: tuple[int, ...]
    overhead: int

    @property
    def smallest(self) -> int:
        return min(self.sizes)


def draw_lengths(workload: Workload, phase: Phase, index: int) -> tuple[int, int]:
    """(input, output) tokens of a request: uniform in ``[int(range_ratio * L), L]``, independent of
    launch and case."""
    rng = random.Random(f"{workload.seed}/{phase}/{index}/lengths")  # noqa: S311  # reproducible, not secret
    low_in, low_out = (
        max(1, int(workload.range_ratio * length)) for length in (workload.isl, workload.osl)
    )
    return rng.randint(low_in, workload.isl), rng.randint(low_out, workload.osl)


def drawn_for(plan: LoadPlan, key: str) -> random.Random:
    """Randomness of a plan's own, the same whenever it is asked for by the same key."""
    return random.Random(f"{plan.workload.seed}/{plan.salt}/{plan.launch}/{key}")  # noqa: S311  # reproducible, not secret


async def measure_vocabulary(count: Counter) -> Vocabulary:
    """Learn how the server's tokenizer sees our words: two requests where each is one token, else
    one for each of some words."""
    empty = await count(WORDS[0])
    everything = await count(" ".join(WORDS))
    if everything - empty == len(WORDS) - 1:
        return Vocabulary(WORDS, (1,) * len(WORDS), empty - 1)
    words = WORDS[:: max(1, len(WORDS) // _MEASURED_WORDS)]
    parallel = asyncio.Semaphore(_PARALLEL)

    async def size(word: str) -> int:
        async with parallel:
            return await count(f"{WORDS[0]} {word}") - empty

    sizes = await asyncio.gather(*(size(word) for word in words))
    usable = [(word, tokens) for word, tokens in zip(words, sizes, strict=True) if tokens > 0]
    if not usable:
        summary = "the server's /tokenize counts no tokens for plain words: prompts cannot be sized"
        raise BenchmarkError(Failure("tokenizer-unusable", "client", summary))
    first = next((tokens for word, tokens in usable if word == WORDS[0]), 1)
    return Vocabulary(
        tuple(word for word, _ in usable), tuple(tokens for _, tokens in usable), empty - first
    )


class Vocabularies:
    """What was measured of the server that was asked last: its next run need not ask again, since
    a running server keeps its tokenizer and its template."""

    def __init__(self) -> None:
        self._asked: tuple[object, ...] = ()
        self._found: Vocabulary | None = None

    async def of(self, plan: LoadPlan, count: Counter) -> Vocabulary:
        """The vocabulary of a plan's server, under the template of its workload; raises as
        ``measure_vocabulary``."""
        workload = plan.workload
        template = (workload.chat_template, workload.chat_template_kwargs)
        asked = (plan.root, plan.model, plan.framework, *template)
        if self._found is None or asked != self._asked:
            self._found, self._asked = await measure_vocabulary(count), asked
        return self._found


def draw_words(rng: random.Random, vocabulary: Vocabulary, tokens: int) -> list[str]:
    """Random words that add up to exactly ``tokens`` where their sizes allow it, else to as much
    below it as they must."""
    if max(vocabulary.sizes) == 1:
        return rng.choices(vocabulary.words, k=max(0, tokens))
    pairs = list(zip(vocabulary.words, vocabulary.sizes, strict=True))
    words: list[str] = []
    remaining = tokens
    while remaining >= vocabulary.smallest:
        word, size = rng.choice(pairs)
        if size != remaining and remaining - size < vocabulary.smallest:
            # near the end: only what leaves no rest, or a rest that some word can still fill
            fitting = [
                pair
                for pair in pairs
                if pair[1] == remaining or remaining - pair[1] >= vocabulary.smallest
            ]
            fitting = fitting or [pair for pair in pairs if pair[1] <= remaining]
            word, size = rng.choice(fitting)
        words.append(word)
        remaining -= size
    return words


async def fit(
    isl: int,
    words: list[str],
    count: Callable[[str], Awaitable[int]],
    vocabulary: Vocabulary,
    rng: random.Random,
    usual_size: float = 1.0,
) -> str:
    """Lengthen or shorten a text until the request has ``isl`` tokens, within one.

    Args:
        words: what the text starts as; shortened from its end, lengthened by words of the
        vocabulary.
        count: tokens of the whole request.
        usual_size: tokens that a word is taken to have which is not the vocabulary's.

    Raises:
        BenchmarkError: if the length cannot be met.
    """
    known: dict[str, float] = dict(zip(vocabulary.words, vocabulary.sizes, strict=True))
    tries: list[tuple[int, str]] = []
    for _ in range(_ROUNDS):
        text = " ".join(words)
        missing = isl - await count(text)
        tries.append((abs(missing), text))
        if missing == 0:
            break
        room = float(missing)
        while words and room < 0:
            room += known.get(words.pop(), usual_size)
        words += draw_words(rng, vocabulary, int(room))
        if not words:
            words = [rng.choice(vocabulary.words)]
    nearest, best = min(tries, key=itemgetter(0))
    if nearest > _TOLERANCE:
        summary = (
            f"a prompt of {isl} tokens could not be made: the nearest was {nearest} tokens off"
        )
        raise BenchmarkError(Failure("prompt-size", "client", summary))
    return best
