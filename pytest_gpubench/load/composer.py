"""From a workload to the prompts of a run: which texts, which lengths, which of them belong
together."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from pytest_gpubench.load.datasets import (
    CORPUS,
    Conversation,
    Conversations,
    Note,
    left_out_note,
    left_out_words,
    parse_jsonl,
    parse_sharegpt,
    read_text,
    sentences,
    unusable,
)
from pytest_gpubench.load.prompts import (
    WORDS,
    Counter,
    Message,
    Prompt,
    Vocabularies,
    Vocabulary,
    draw_lengths,
    draw_words,
    drawn_for,
    fit,
)
from pytest_gpubench.load.protocol import LoadPlan, Phase
from pytest_gpubench.load.session_prompts import SessionComposer
from pytest_gpubench.load.tokenization import REFUSED
from pytest_gpubench.load.traces import Trace, parse_trace
from pytest_gpubench.model.failures import BenchmarkError, Failure
from pytest_gpubench.model.workload import Workload

_PARALLEL = 8
_OPENING_WORDS = 4
_LONGEST_WORDS = 200
_PARSERS = {"sharegpt": parse_sharegpt, "jsonl": parse_jsonl}


@dataclass(frozen=True, slots=True)
class _Material:
    """What texts are made of."""

    vocabulary: Vocabulary
    sentences: tuple[str, ...] = ()
    """Empty: random words."""
    tokens_per_word: float = 1.0


class Composer:
    """Makes the prompts of a plan; ``count`` asks the server."""

    def __init__(
        self, plan: LoadPlan, count: Counter, vocabularies: Vocabularies | None = None
    ) -> None:
        self._plan = plan
        self._vocabularies = vocabularies or Vocabularies()
        self._workload = plan.workload
        self._count = count
        self.notes: tuple[Note, ...] = ()
        """Of how the data were read, once composed."""

    async def compose(
        self, on_done: Callable[[int, int], None]
    ) -> tuple[list[Prompt], list[Prompt]]:
        """This process's prompts, (warm-up, measured), conversations whole; ``on_done`` gets (done,
        total).

        Raises:
            BenchmarkError: if a dataset or a length cannot be had.
        """
        workload = self._workload
        if workload.dataset == "sessions":
            vocabulary = await self._vocabularies.of(self._plan, self._count)
            replay = SessionComposer(self._plan, self._count, vocabulary)
            both = await replay.compose(on_done)
            self.notes = replay.notes
            return both
        trace = Trace(())
        if workload.dataset == "trace":
            trace = parse_trace(read_text(workload.dataset_file), workload.dataset_file)
            self.notes = trace.notes
        phases: tuple[tuple[Phase, int], ...] = (
            ("warmup", workload.num_warmups),
            ("measured", min(workload.num_prompts, len(trace.rows) or workload.num_prompts)),
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
            return [
                replace(prompt, index=first + turn)
                for turn, prompt in enumerate(made)
                if first + turn < total
            ]

        tasks = [asyncio.create_task(make_one(*item)) for item in work]
        try:
            made = [prompt for group in await asyncio.gather(*tasks) for prompt in group]
        finally:
            for task in tasks:
                task.cancel()
        warmups = [staggered(prompt, workload) for prompt in made if prompt.phase == "warmup"]
        return warmups, [prompt for prompt in made if prompt.phase == "measured"]

    async def _maker(self, trace: Trace) -> Callable[[Phase, int], Awaitable[list[Prompt]]]:
        workload = self._workload
        if workload.dataset in _PARSERS:
            parse = _PARSERS[workload.dataset]
            text = read_text(workload.dataset_file)
            chosen = await self._choose(parse(text, workload.dataset_file))
            first_of = {"warmup": 0, "measured": -(-workload.num_warmups // workload.turns)}
            return lambda phase, number: self._recorded(phase, chosen[first_of[phase] + number])
        vocabulary = await self._vocabularies.of(self._plan, self._count)
        material = _Material(vocabulary)
        if workload.dataset == "text":
            lines = sentences(read_text(workload.dataset_file or CORPUS))
            if not lines:
                raise unusable(f"{workload.dataset_file} has no sentence in it")
            sample = " ".join(lines[:200])
            size = (await self._count(sample) - vocabulary.overhead) / len(sample.split())
            material = _Material(vocabulary, lines, max(0.1, size))

        first: list[Prompt] = []
        if workload.profile == "inferencex":
            first = await self._synthetic(material, "measured", 0)

        async def make(phase: Phase, number: int) -> list[Prompt]:
            if first and phase == "warmup":
                return [replace(first[0], phase="warmup")]
            if trace.rows and phase == "measured":
                return [await self._replayed(material, number, trace)]
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
                    f"isl {isl} leaves no room for a prompt: the chat template alone takes "
                    f"{material.vocabulary.overhead} tokens"
                )
                if workload.prefix_tokens:
                    summary += f", the shared prefix {workload.prefix_tokens}"
                remedy = "Raise isl in the recipe."
                raise BenchmarkError(Failure("prompt-too-short", "recipe", summary, (), remedy))
            if turn == 0:
                words = self._shared(material, number)
                words += _draw(material, rng, own - workload.prefix_tokens)
                size = material.tokens_per_word
                text = await fit(isl, words, self._count, material.vocabulary, rng, size)
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

    async def _replayed(self, material: _Material, number: int, trace: Trace) -> Prompt:
        row, block_tokens = trace.rows[number], trace.block_tokens
        rng = self._random(f"measured/{number}/words")
        room = max(1, row.input_tokens - material.vocabulary.overhead)
        words: list[str] = []
        for block in row.blocks:
            size = min(block_tokens, room)
            of_block = self._random(f"block/{block}")
            words += draw_words(of_block, material.vocabulary, block_tokens)[:size]
            room -= size
        words += draw_words(rng, material.vocabulary, room)
        isl = max(row.input_tokens, material.vocabulary.overhead + 1)
        text = await fit(isl, words, self._count, material.vocabulary, rng)
        due = row.seconds * self._workload.time_scale
        return Prompt(number, "measured", text, isl, row.output_tokens, due=due)

    def _turns(self, conversation: Conversation) -> tuple[int, ...]:
        """Positions of the messages that are sent for an answer: of ShareGPT the first users', as
        everybody does; of recorded requests the last, with all that comes before it."""
        number, users = self._workload.turns, conversation.users
        return users[:number] if self._workload.dataset == "sharegpt" else users[-number:]

    async def _choose(self, read: Conversations) -> list[Conversation]:
        """As many conversations as the run needs, in random order, whose first prompt is at most
        ``isl`` tokens long. One that the server's chat template refuses is left out."""
        workload, left_out = self._workload, list(read.left_out)
        counts = (workload.num_warmups, workload.num_prompts)
        needed = sum(-(-count // workload.turns) for count in counts)
        order = [one for one in read.found if len(one.users) >= workload.turns]
        self._random("order").shuffle(order)
        chosen: list[Conversation] = []
        while order and len(chosen) < needed:
            part, order = order[:_PARALLEL], order[_PARALLEL:]
            sizes = await asyncio.gather(*(self._size(item, left_out) for item in part))
            chosen += [
                item
                for item, size in zip(part, sizes, strict=True)
                if size is not None and size <= workload.isl
            ]
        self.notes = tuple(left_out_note(workload.dataset_file, left_out))
        if len(chosen) < needed:
            summary = (
                f"{workload.dataset_file} has {len(chosen)} conversations of {workload.turns} "
                "turns whose prompt is at most "
                f"{workload.isl} tokens long (isl); the run needs {needed}"
            )
            if left_out:
                summary += f"; {left_out_words(left_out)}"
            remedy = "Ask for fewer prompts, or raise isl."
            raise BenchmarkError(Failure("dataset-too-small", "recipe", summary, (), remedy))
        return chosen[:needed]

    async def _size(self, conversation: Conversation, left_out: list[str]) -> int | None:
        """Tokens of the first prompt; None where the server refuses a message."""
        first, *later = self._turns(conversation)
        messages = conversation.messages
        try:
            for last in later:
                await self._count(messages[last][1], messages[:last])
            return await self._count(messages[first][1], messages[:first])
        except BenchmarkError as error:
            if error.failure.cause != REFUSED:
                raise
            words = " ".join((error.failure.summary, *error.failure.evidence))
            left_out.append(f"{conversation.place}: {words[:_LONGEST_WORDS]}")
            return None

    async def _recorded(self, phase: Phase, conversation: Conversation) -> list[Prompt]:
        workload = self._workload
        prompts = []
        for number, position in enumerate(self._turns(conversation)):
            history, (_, text) = conversation.messages[:position], conversation.messages[position]
            isl = await self._count(text, history)
            osl = conversation.output_tokens if position == conversation.users[-1] else None
            answer = conversation.answer_to(position)
            if osl is None and answer:
                # beside a word, since templates refuse empty messages
                both = await self._count(f"{WORDS[0]} {answer}")
                osl = max(1, both - await self._count(WORDS[0]))
            prompts.append(
                Prompt(0, phase, text, isl, min(osl or workload.osl, workload.osl), history, number)
            )
        return prompts

    def _random(self, key: str) -> random.Random:
        return drawn_for(self._plan, key)


def _draw(material: _Material, rng: random.Random, tokens: int) -> list[str]:
    """Words of about so many tokens: random ones, or an opening that is nobody else's and then
    sentences of the corpus."""
    if not material.sentences:
        return draw_words(rng, material.vocabulary, tokens)
    # else the first block of prompts would often be the same
    words = rng.choices(material.vocabulary.words, k=_OPENING_WORDS)
    wanted = max(1, int(tokens / material.tokens_per_word))
    while len(words) < wanted:
        words += rng.choice(material.sentences).split()
    return words[:wanted]


def staggered(prompt: Prompt, workload: Workload) -> Prompt:
    """A request of the warm-up, shorter where it is of the first wave and its slot is handed over.

    The k-th of C slots becomes free after k / C of an answer. Otherwise they stay together:
    requests that begin at once end at once, and TTFT tells by chance how many prompts are read
    together (two measurements of two answers per slot on an H200: 55 ms and 85 ms).
    """
    slots = workload.conc
    if workload.handover != "continue" or workload.open_loop or workload.turns > 1:
        return prompt
    if prompt.index >= slots or workload.num_warmups < slots:
        return prompt
    return replace(prompt, osl=max(1, -(-prompt.osl * (prompt.index + 1) // slots)))
