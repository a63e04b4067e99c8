"""From a workload to the prompts of a run: which texts, of which exact length, which of them belong together.

Prompts are sized through the server's own tokenizer and chat template.
"""

from __future__ import annotations

import asyncio
import random
from array import array
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import Protocol, TypeAlias

from pytest_gpubench.load.datasets import (
    CORPUS,
    Conversation,
    TraceRow,
    parse_jsonl,
    parse_sharegpt,
    parse_trace,
    read_text,
    sentences,
)
from pytest_gpubench.load.protocol import LoadPlan, Phase
from pytest_gpubench.model.failures import BenchmarkError, Failure
from pytest_gpubench.model.workload import Workload

_ROUNDS = 8
_TOLERANCE = 1
_PARALLEL = 8
_MEASURED_WORDS = 128

_PARSERS = {"sharegpt": parse_sharegpt, "jsonl": parse_jsonl}
WORDS: tuple[str, ...] = tuple(Path(__file__).with_name("word_list.txt").read_text("utf-8").split())
"""Everyday English words, each one token in the vocabularies of today's large models: the material of synthetic prompts."""

Message: TypeAlias = tuple[str, str]
"""Role and content."""
_BLOCK_TOKENS = 512
_OPENING_WORDS = 4


class Counter(Protocol):
    """Tokens of a request with this text as its last message: template, special tokens and text."""

    async def __call__(self, text: str, history: tuple[Message, ...] = ()) -> int: ...


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
    parallel = asyncio.Semaphore(_PARALLEL)

    async def size(word: str) -> int:
        async with parallel:
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
        words: what the text starts as; shortened from its end, lengthened by words of the vocabulary.
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
        summary = f"a prompt of {isl} tokens could not be made: the nearest was {nearest} tokens off"
        raise BenchmarkError(Failure("prompt-size", "client", summary))
    return best


@dataclass(frozen=True, slots=True)
class _Material:
    """What texts are made of."""

    vocabulary: Vocabulary
    sentences: tuple[str, ...] = ()
    """Empty: random words."""
    tokens_per_word: float = 1.0


class Composer:
    """Makes the prompts of a plan; ``count`` asks the server."""

    def __init__(self, plan: LoadPlan, count: Counter) -> None:
        self._plan = plan
        self._workload = plan.workload
        self._count = count

    async def compose(self, on_done: Callable[[int, int], None]) -> tuple[list[Prompt], list[Prompt]]:
        """This process's prompts, (warm-up, measured), conversations whole; ``on_done`` gets (done, total).

        Raises:
            BenchmarkError: if a dataset or a length cannot be had.
        """
        workload = self._workload
        trace: tuple[TraceRow, ...] = ()
        if workload.dataset == "trace":
            trace = parse_trace(read_text(workload.dataset_file), workload.dataset_file)
        phases: tuple[tuple[Phase, int], ...] = (
            ("warmup", workload.num_warmups),
            ("measured", min(workload.num_prompts, len(trace) or workload.num_prompts)),
        )
        make = await self._maker(trace)
        work = [
            (phase, number, total)
            for phase, total in phases
            for number in range(-(-total // workload.turns))
            if number % workload.workers == self._plan.share
        ]
        parallel, done, prompts = asyncio.Semaphore(_PARALLEL), 0, len(work) * workload.turns

        async def make_one(phase: Phase, number: int, total: int) -> list[Prompt]:
            nonlocal done
            async with parallel:
                made = await make(phase, number)
            first = number * workload.turns
            done += len(made)
            on_done(min(done, prompts), prompts)
            return [replace(prompt, index=first + turn) for turn, prompt in enumerate(made) if first + turn < total]

        tasks = [asyncio.create_task(make_one(*item)) for item in work]
        try:
            made = [prompt for group in await asyncio.gather(*tasks) for prompt in group]
        finally:
            for task in tasks:
                task.cancel()
        warmups = [prompt for prompt in made if prompt.phase == "warmup"]
        return warmups, [prompt for prompt in made if prompt.phase == "measured"]

    async def _maker(self, trace: tuple[TraceRow, ...]) -> Callable[[Phase, int], Awaitable[list[Prompt]]]:
        workload = self._workload
        if workload.dataset in _PARSERS:
            parse = _PARSERS[workload.dataset]
            chosen = await self._choose(parse(read_text(workload.dataset_file), workload.dataset_file))
            first_of = {"warmup": 0, "measured": -(-workload.num_warmups // workload.turns)}
            return lambda phase, number: self._recorded(phase, chosen[first_of[phase] + number])
        vocabulary = await measure_vocabulary(self._count)
        material = _Material(vocabulary)
        if workload.dataset == "text":
            lines = sentences(read_text(workload.dataset_file or CORPUS))
            if not lines:
                summary = f"{workload.dataset_file} has no sentence in it"
                raise BenchmarkError(Failure("dataset-unusable", "recipe", summary, remedy="Correct dataset-file in the recipe."))
            sample = " ".join(lines[:200])
            size = (await self._count(sample) - vocabulary.overhead) / len(sample.split())
            material = _Material(vocabulary, lines, max(0.1, size))

        first: list[Prompt] = []
        if workload.profile == "inferencex":
            first = await self._synthetic(material, "measured", 0)

        async def make(phase: Phase, number: int) -> list[Prompt]:
            if first and phase == "warmup":
                return [replace(first[0], phase="warmup")]
            if trace and phase == "measured":
                return [await self._replayed(material, number, trace[number])]
            return await self._synthetic(material, phase, number)

        return make

    async def _synthetic(self, material: _Material, phase: Phase, number: int) -> list[Prompt]:
        """One conversation of drawn lengths; each turn's own text has the drawn input length."""
        workload = self._workload
        history: tuple[Message, ...] = ()
        prompts: list[Prompt] = []
        for turn in range(workload.turns):
            index = number * workload.turns + turn
            isl, osl = draw_lengths(workload, phase, index)
            rng = self._random(f"{phase}/{index}/words")
            own = isl - material.vocabulary.overhead
            if own < 1 or own < workload.prefix_tokens:
                summary = (
                    f"isl {isl} leaves no room for a prompt: the chat template alone takes {material.vocabulary.overhead} tokens"
                )
                if workload.prefix_tokens:
                    summary += f", the shared prefix {workload.prefix_tokens}"
                raise BenchmarkError(Failure("prompt-too-short", "recipe", summary, remedy="Raise isl in the recipe."))
            if turn == 0:
                words = self._shared(material, number) + _draw(material, rng, own - workload.prefix_tokens)
                text = await fit(isl, words, self._count, material.vocabulary, rng, usual_size=material.tokens_per_word)
            else:
                text = " ".join(_draw(material, rng, own))
                isl = await self._count(text, history)
            prompts.append(Prompt(index, phase, text, isl, osl, history, turn))
            if turn + 1 < workload.turns:
                answer = " ".join(_draw(material, self._random(f"{phase}/{index}/answer"), osl))
                history = (*history, ("user", text), ("assistant", answer))
        return prompts

    def _shared(self, material: _Material, number: int) -> list[str]:
        workload = self._workload
        if not workload.prefix_tokens:
            return []
        group = number % workload.prefix_groups
        return _draw(material, self._random(f"prefix/{group}"), workload.prefix_tokens)

    async def _replayed(self, material: _Material, number: int, row: TraceRow) -> Prompt:
        rng = self._random(f"measured/{number}/words")
        room = max(1, row.input_tokens - material.vocabulary.overhead)
        words: list[str] = []
        for block in row.blocks:
            size = min(_BLOCK_TOKENS, room)
            words += draw_words(self._random(f"block/{block}"), material.vocabulary, _BLOCK_TOKENS)[:size]
            room -= size
        words += draw_words(rng, material.vocabulary, room)
        isl = max(row.input_tokens, material.vocabulary.overhead + 1)
        text = await fit(isl, words, self._count, material.vocabulary, rng)
        due = row.seconds * self._workload.time_scale
        return Prompt(number, "measured", text, isl, row.output_tokens, due=due)

    async def _choose(self, conversations: Sequence[Conversation]) -> list[Conversation]:
        """As many conversations as the run needs, in random order, whose first prompt is at most ``isl`` tokens long."""
        workload = self._workload
        needed = -(-workload.num_warmups // workload.turns) + -(-workload.num_prompts // workload.turns)
        order = [conversation for conversation in conversations if len(conversation.turns) >= workload.turns]
        self._random("order").shuffle(order)
        chosen: list[Conversation] = []
        while order and len(chosen) < needed:
            part, order = order[:_PARALLEL], order[_PARALLEL:]
            sizes = await asyncio.gather(*(self._count(item.turns[0].user, _system(item)) for item in part))
            chosen += [item for item, size in zip(part, sizes, strict=True) if size <= workload.isl]
        if len(chosen) < needed:
            summary = (
                f"{workload.dataset_file} has {len(chosen)} conversations of {workload.turns} turns whose prompt is at most "
                f"{workload.isl} tokens long (isl); the run needs {needed}"
            )
            raise BenchmarkError(Failure("dataset-too-small", "recipe", summary, remedy="Ask for fewer prompts, or raise isl."))
        return chosen[:needed]

    async def _recorded(self, phase: Phase, conversation: Conversation) -> list[Prompt]:
        workload = self._workload
        history = _system(conversation)
        prompts = []
        for number, turn in enumerate(conversation.turns[: workload.turns]):
            isl = await self._count(turn.user, history)
            osl = turn.output_tokens
            if osl is None and turn.answer:
                osl = max(1, await self._count(turn.answer, history) - await self._count("", history))
            prompts.append(Prompt(0, phase, turn.user, isl, min(osl or workload.osl, workload.osl), history, number))
            history = (*history, ("user", turn.user), ("assistant", turn.answer or ""))
        return prompts

    def _random(self, key: str) -> random.Random:
        plan = self._plan
        return random.Random(f"{self._workload.seed}/{plan.salt}/{plan.launch}/{key}")  # noqa: S311  # reproducible, not secret


def _system(conversation: Conversation) -> tuple[Message, ...]:
    return (("system", conversation.system),) if conversation.system else ()


def _draw(material: _Material, rng: random.Random, tokens: int) -> list[str]:
    """Words of about so many tokens: random ones, or an opening that is nobody else's and then sentences of the corpus."""
    if not material.sentences:
        return draw_words(rng, material.vocabulary, tokens)
    words = rng.choices(material.vocabulary.words, k=_OPENING_WORDS)  # else the first block of prompts would often be the same
    wanted = max(1, int(tokens / material.tokens_per_word))
    while len(words) < wanted:
        words += rng.choice(material.sentences).split()
    return words[:wanted]
