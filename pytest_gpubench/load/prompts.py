"""Synthetic prompts of an exact length, sized through the server's own tokenizer and chat template."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from pytest_gpubench.domain.failures import BenchmarkError, Failure
from pytest_gpubench.domain.workload import Workload
from pytest_gpubench.load.plan import LoadPlan, Phase
from pytest_gpubench.load.words import WORDS

_ROUNDS = 8
_TOLERANCE = 1
_PARALLEL = 8
_MEASURED_WORDS = 128

Counter = Callable[[str], Awaitable[int]]
"""Tokens of a request with this text: template, special tokens and text."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt with the lengths that were drawn for it."""

    index: int
    phase: Phase
    text: str
    isl: int
    osl: int


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Words with their sizes in tokens (a leading space included) and what the template adds to a text."""

    words: tuple[str, ...]
    sizes: tuple[int, ...]
    overhead: int

    @property
    def smallest(self) -> int:
        return min(self.sizes)


def draw_lengths(workload: Workload, phase: Phase, index: int) -> tuple[int, int]:
    """(input, output) tokens of a request: uniform in ``[int(range_ratio * L), L]``, independent of launch and case."""
    rng = random.Random(f"{workload.seed}/{phase}/{index}/lengths")  # noqa: S311  # reproducible, not secret
    low_in, low_out = (max(1, int(workload.range_ratio * length)) for length in (workload.isl, workload.osl))
    return rng.randint(low_in, workload.isl), rng.randint(low_out, workload.osl)


async def measure_vocabulary(count: Counter) -> Vocabulary:
    """Learn how the server's tokenizer sees our words: two requests where each is one token, else one for each of some words."""
    empty = await count(WORDS[0])
    everything = await count(" ".join(WORDS))
    if everything - empty == len(WORDS) - 1:
        return Vocabulary(WORDS, (1,) * len(WORDS), empty - 1)
    words = WORDS[:: max(1, len(WORDS) // _MEASURED_WORDS)]
    gate = asyncio.Semaphore(_PARALLEL)

    async def size(word: str) -> int:
        async with gate:
            return await count(f"{WORDS[0]} {word}") - empty

    sizes = await asyncio.gather(*(size(word) for word in words))
    usable = [(word, tokens) for word, tokens in zip(words, sizes, strict=True) if tokens > 0]
    if not usable:
        raise BenchmarkError(
            Failure(
                "tokenizer-unusable", "client", "the server's /tokenize counts no tokens for plain words: prompts cannot be sized"
            )
        )
    first = next((tokens for word, tokens in usable if word == WORDS[0]), 1)
    return Vocabulary(tuple(word for word, _ in usable), tuple(tokens for _, tokens in usable), empty - first)


def draw_words(rng: random.Random, vocabulary: Vocabulary, tokens: int) -> list[str]:
    """Random words that add up to exactly ``tokens`` where their sizes allow it, else to as much below it as they must."""
    if max(vocabulary.sizes) == 1:
        return rng.choices(vocabulary.words, k=max(0, tokens))
    pairs = list(zip(vocabulary.words, vocabulary.sizes, strict=True))
    words: list[str] = []
    remaining = tokens
    while remaining >= vocabulary.smallest:
        word, size = rng.choice(pairs)
        if size != remaining and remaining - size < vocabulary.smallest:
            # near the end: only what leaves no rest, or a rest that some word can still fill
            fitting = [pair for pair in pairs if pair[1] == remaining or remaining - pair[1] >= vocabulary.smallest]
            fitting = fitting or [pair for pair in pairs if pair[1] <= remaining]
            word, size = rng.choice(fitting)
        words.append(word)
        remaining -= size
    return words


async def make_prompt(plan: LoadPlan, vocabulary: Vocabulary, count: Counter, phase: Phase, index: int) -> Prompt:
    """One prompt whose request has the drawn number of input tokens, within one token.

    Raises:
        BenchmarkError: if the length cannot be met.
    """
    isl, osl = draw_lengths(plan.workload, phase, index)
    if isl <= vocabulary.overhead:
        summary = f"isl {isl} leaves no room for a prompt: the chat template alone takes {vocabulary.overhead} tokens"
        raise BenchmarkError(Failure("prompt-too-short", "recipe", summary, remedy="Raise isl in the recipe."))
    seed = f"{plan.workload.seed}/{plan.salt}/{plan.launch}/{phase}/{index}/words"
    rng = random.Random(seed)  # noqa: S311  # reproducible, not secret
    sizes = dict(zip(vocabulary.words, vocabulary.sizes, strict=True))
    words = draw_words(rng, vocabulary, isl - vocabulary.overhead)
    best: tuple[int, str] | None = None
    for _ in range(_ROUNDS):
        text = " ".join(words)
        missing = isl - await count(text)
        if best is None or abs(missing) < best[0]:
            best = (abs(missing), text)
        if missing == 0:
            break
        while words and missing < 0:
            missing += sizes[words.pop()]
        words += draw_words(rng, vocabulary, missing)
        if not words:
            words = [rng.choice(vocabulary.words)]
    if best is None or best[0] > _TOLERANCE:
        summary = f"a prompt of {isl} tokens could not be made: the nearest was {best[0] if best else 'none'} tokens off"
        raise BenchmarkError(Failure("prompt-size", "client", summary))
    return Prompt(index, phase, best[1], isl, osl)


async def make_prompts(plan: LoadPlan, count: Counter, on_done: Callable[[int, int], None]) -> tuple[list[Prompt], list[Prompt]]:
    """All prompts of a run, (warm-up, measured); ``on_done`` gets (done, total)."""
    vocabulary = await measure_vocabulary(count)
    phases: Sequence[tuple[Phase, int]] = (("warmup", plan.workload.num_warmups), ("measured", plan.workload.num_prompts))
    total = sum(number for _, number in phases)
    gate = asyncio.Semaphore(_PARALLEL)
    done = 0

    async def one(phase: Phase, index: int) -> Prompt:
        nonlocal done
        async with gate:
            prompt = await make_prompt(plan, vocabulary, count, phase, index)
        done += 1
        on_done(done, total)
        return prompt

    tasks = [asyncio.create_task(one(phase, index)) for phase, number in phases for index in range(number)]
    try:
        prompts = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    warmups = plan.workload.num_warmups
    return prompts[:warmups], prompts[warmups:]
