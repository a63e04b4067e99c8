"""From a trace of sessions to the prompts of a run, and what their beginnings share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pytest_gpubench.load.datasets import Note, read_text, unusable
from pytest_gpubench.load.prompts import (
    WORDS,
    Counter,
    Message,
    Prompt,
    SessionPlace,
    Vocabulary,
    draw_words,
    drawn_for,
    fit,
)
from pytest_gpubench.load.protocol import LoadPlan
from pytest_gpubench.load.session_traces import (
    Session,
    SessionTrace,
    Turn,
    depth_first,
    parse_sessions,
)
from pytest_gpubench.model.failures import BenchmarkError, Failure
from pytest_gpubench.model.workload import Workload

_PARALLEL = 8
_NAMED = 3


@dataclass(frozen=True, slots=True)
class _Sized:
    """A turn with what is sent for it."""

    text: str
    isl: int
    osl: int
    history: tuple[Message, ...]
    prefix: tuple[tuple[Hashable, int], ...]


@dataclass(slots=True)
class _Root:
    """A session and its sub-sessions, as they are composed."""

    turns: list[tuple[Session, int, _Sized]] = field(default_factory=list)
    kept: dict[str, int] = field(default_factory=dict)
    """Turns of each session that are sent."""
    cut: list[str] = field(default_factory=list)
    """One sentence for each session that the model's length ends."""
    messages: dict[tuple[str, int], tuple[Message, ...]] = field(default_factory=dict)
    """Of a session once a turn is answered: what the next one goes on from."""
    prefixes: dict[tuple[str, int], tuple[tuple[Hashable, int], ...]] = field(default_factory=dict)
    """Of the turns given by text."""


def read_sessions(workload: Workload) -> tuple[SessionTrace, tuple[Session, ...]]:
    """The workload's trace, and those of its sessions that are replayed.

    Raises:
        BenchmarkError: if the file is none, or has too few.
    """
    name = workload.dataset_file
    trace = parse_sessions(read_text(name), name, workload.block_tokens)
    roots = trace.roots
    wanted = workload.sessions or len(roots)
    if len(roots) >= max(wanted, workload.conc):
        return trace, roots[:wanted]
    raise BenchmarkError(
        Failure(
            "dataset-too-small",
            "recipe",
            f"{name} has {len(roots)} sessions; the run needs {max(wanted, workload.conc)}, "
            f"{workload.conc} of them at a time",
            remedy="Lower conc or sessions-per-conc, or take a longer trace.",
        )
    )


class SessionComposer:
    """Makes the prompts of a plan's trace; ``count`` asks the server."""

    def __init__(self, plan: LoadPlan, count: Counter, vocabulary: Vocabulary) -> None:
        self._plan = plan
        self._workload = plan.workload
        self._count = count
        self._vocabulary = vocabulary
        self._blocks: dict[int, list[tuple[str, int]]] = {}
        self.notes: tuple[Note, ...] = ()
        """Of how the trace was read, once composed."""

    async def compose(
        self, on_done: Callable[[int, int], None]
    ) -> tuple[list[Prompt], list[Prompt]]:
        """The prompts, (warm-up, measured), each behind those that it comes after.

        Raises:
            BenchmarkError: if the trace cannot be had, or a length.
        """
        workload = self._workload
        name = workload.dataset_file
        trace, roots = read_sessions(workload)
        spawned = trace.spawned
        total = sum(1 for root in roots for _ in depth_first(spawned, root))
        total += workload.num_warmups
        parallel, done = asyncio.Semaphore(_PARALLEL), 0

        def one_done() -> None:
            nonlocal done
            done += 1
            on_done(done, total)

        async def make(root: Session) -> _Root:
            async with parallel:
                return await self._root(spawned, root, one_done)

        tasks = [asyncio.create_task(make(root)) for root in roots]
        try:
            made = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        cut = [sentence for root in made for sentence in root.cut]
        self.notes = (*trace.notes, *_cut_note(name, cut))
        measured = _numbered(roots, made, self._vocabulary.overhead)
        if not measured:
            raise BenchmarkError(
                Failure(
                    "dataset-too-long",
                    "recipe",
                    f"{name} has no turn that the model has room for: {cut[0]}",
                    remedy="Raise serve.max-model-len, or take a shorter trace.",
                )
            )
        warmups = [await self._warmup(number, measured) for number in range(workload.num_warmups)]
        return warmups, measured

    async def _root(
        self,
        spawned: Mapping[tuple[str, int], Sequence[Session]],
        root: Session,
        one_done: Callable[[], None],
    ) -> _Root:
        made = _Root()
        for session, number in depth_first(spawned, root):
            one_done()
            begun = made.kept.get(session.name, 0) == number and (
                not session.parent
                or number
                or made.kept.get(session.parent, 0) > session.spawned_by
            )
            if not begun:
                continue
            sized = await self._sized(session, number, made)
            limit = self._plan.context
            if limit is not None and sized.isl + sized.osl > limit:
                made.cut.append(
                    f"{session.name!r} ends before turn {number} of {len(session.turns)} (line "
                    f"{session.turns[number].line}): its prompt of {sized.isl:,} tokens and answer "
                    f"of {sized.osl:,} are more than the {limit:,} that the model takes"
                )
                continue
            made.turns.append((session, number, sized))
            made.kept[session.name] = number + 1
        return made

    async def _sized(self, session: Session, number: int, made: _Root) -> _Sized:
        turn = session.turns[number]
        osl = turn.output_tokens or self._workload.osl
        if not osl:
            name = self._workload.dataset_file
            raise unusable(f"{name}:{turn.line}: needs `output_length`: an agentic row has no osl")
        if turn.input_tokens:
            return await self._by_length(session, number, turn, osl)
        return await self._by_text(session, number, osl, made)

    async def _by_length(self, session: Session, number: int, turn: Turn, osl: int) -> _Sized:
        vocabulary = self._vocabulary
        isl = max(turn.input_tokens, vocabulary.overhead + 1)
        room = isl - vocabulary.overhead
        words: list[str] = []
        prefix: list[tuple[Hashable, int]] = []
        for block in turn.blocks:
            size = min(self._workload.block_tokens, room)
            words += self._block(block, size)
            prefix.append((block, size))
            room -= size
        rng = drawn_for(self._plan, f"{session.name}/{number}/words")
        words += draw_words(rng, vocabulary, room)
        text = await fit(isl, words, self._count, vocabulary, rng)
        return _Sized(text, isl, osl, (), tuple(prefix))

    def _block(self, block: int, size: int) -> list[str]:
        """The first words of a block, so many tokens; short of them by less than a word."""
        if block not in self._blocks:
            sizes = dict(zip(self._vocabulary.words, self._vocabulary.sizes, strict=True))
            rng = drawn_for(self._plan, f"block/{block}")
            words = draw_words(rng, self._vocabulary, self._workload.block_tokens)
            self._blocks[block] = [(word, sizes[word]) for word in words]
        taken: list[str] = []
        for word, tokens in self._blocks[block]:
            size -= tokens
            if size < 0:
                break
            taken.append(word)
        return taken

    async def _by_text(self, session: Session, number: int, osl: int, made: _Root) -> _Sized:
        turn = session.turns[number]
        before = (session.name, number - 1)
        if number == 0:
            before = (session.parent, session.spawned_by) if session.inherits else ("", 0)
        past = made.messages.get(before, ())
        *earlier, (_, text) = (*(() if turn.whole else past), *turn.messages)
        isl = await self._count(text, tuple(earlier))
        rng = drawn_for(self._plan, f"{session.name}/{number}/answer")
        answer = " ".join(draw_words(rng, self._vocabulary, osl)) or WORDS[0]
        said = (*earlier, ("user", text))
        made.messages[session.name, number] = (*said, ("assistant", answer))
        prefix: list[tuple[Hashable, int]] = []
        if past and said[: len(past) - 1] == past[:-1]:  # the answer may be another one
            prefix += made.prefixes[before]
        elif said[0][0] == "system":
            system = await self._count(WORDS[0], said[:1]) - self._vocabulary.overhead
            prefix.append((said[:1], max(0, system)))
        own = isl - self._vocabulary.overhead - sum(size for _, size in prefix)
        prefix.append((said, max(0, own)))
        made.prefixes[session.name, number] = tuple(prefix)
        return _Sized(text, isl, osl, tuple(earlier), tuple(prefix))

    async def _warmup(self, number: int, measured: Sequence[Prompt]) -> Prompt:
        """As long as the first turn of a session, of words of its own."""
        heads = [prompt for prompt in measured if prompt.place and not prompt.place.after]
        like = heads[number % len(heads)]
        rng = drawn_for(self._plan, f"warmup/{number}/words")
        words = draw_words(rng, self._vocabulary, like.isl - self._vocabulary.overhead)
        text = await fit(like.isl, words, self._count, self._vocabulary, rng)
        place = SessionPlace("", "", 1, lead=self._vocabulary.overhead)
        return Prompt(number, "warmup", text, like.isl, like.osl, place=place)


def _numbered(roots: Sequence[Session], made: Sequence[_Root], lead: int) -> list[Prompt]:
    """The prompts of all sessions, with what each comes after."""
    prompts: list[Prompt] = []
    for root, composed in zip(roots, made, strict=True):
        index_of: dict[tuple[str, int], int] = {}
        joins: dict[tuple[str, int], list[str]] = {}
        for session, number, sized in composed.turns:
            key = (session.name, number)
            index_of[key] = len(prompts)
            if number == 0 and session.joined_by is not None:
                joins.setdefault((session.parent, session.joined_by), []).append(session.name)
            before = [(session.name, number - 1)] if number else []
            if not number and session.parent:
                before = [(session.parent, session.spawned_by)]
            before += [(child, composed.kept[child] - 1) for child in joins.get(key, ())]
            turn = session.turns[number]
            place = SessionPlace(
                session.name,
                root.name,
                composed.kept[session.name],
                tuple(index_of[it] for it in before),
                turn.pause,
                sized.prefix,
                lead,
                whole=bool(turn.input_tokens),
            )
            prompts.append(
                Prompt(
                    len(prompts),
                    "measured",
                    sized.text,
                    sized.isl,
                    sized.osl,
                    sized.history,
                    number,
                    place=place,
                )
            )
    return prompts


def _cut_note(name: str, cut: Sequence[str]) -> Iterator[Note]:
    if cut:
        more = f"; and {len(cut) - _NAMED} more" if len(cut) > _NAMED else ""
        sessions = "1 session is" if len(cut) == 1 else f"{len(cut)} sessions are"
        yield (
            "sessions-cut",
            f"{name}: {sessions} too long for the model: {'; '.join(cut[:_NAMED])}{more}",
        )
