"""Traces of sessions: what is asked in which turn, after which pause, by which session of which.

Mooncake's JSON lines with AIPerf's ``session_id`` and ``delay``, AIPerf's ``multi_turn`` and
``dag_jsonl``, and one thing that none of them has: turns that are given by length in sessions that
spawn others. Errors name file and line.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from pytest_gpubench.load.datasets import Note, json_lines, unusable
from pytest_gpubench.load.prompts import Message
from pytest_gpubench.model.frozen import is_number, is_whole

MOST_PAUSE_S = 86_400.0
MOST_TOKENS = 10**8
_TURN_KEYS = frozenset(
    {
        *("type", "input_length", "hash_ids", "text", "text_input", "messages"),
        *("output_length", "max_tokens", "delay", "timestamp", "role", "spawns", "forks"),
    }
)
_LINE_KEYS = _TURN_KEYS | {"session_id"}
_SYSTEM_KEYS = frozenset({"type", "role", "text"})
_SESSION_KEYS = frozenset({"type", "session_id", "turns"})
_ROLES = frozenset({"system", "developer", "user", "assistant"})


@dataclass(frozen=True, slots=True)
class Turn:
    """One request of a session."""

    line: int
    pause: float
    """Seconds from the end of what it comes after until it is due."""
    output_tokens: int | None
    """None: the trace does not say."""
    input_tokens: int = 0
    """Of the whole prompt, where it is given by length; else 0."""
    blocks: tuple[int, ...] = ()
    """Ids of the prompt's blocks from its start; equal ids are equal tokens."""
    messages: tuple[Message, ...] = ()
    """Where it is given by text: what it adds to the session's messages; the last is a user's."""
    whole: bool = False
    """Whether `messages` are all that is sent."""


@dataclass(frozen=True, slots=True)
class Session:
    """Turns, one after another; each is sent when the one before it was answered."""

    name: str
    turns: tuple[Turn, ...]
    parent: str = ""
    """The session that spawns this one; empty: it is of the trace's own."""
    spawned_by: int = 0
    """The turn of the parent whose end begins it."""
    joined_by: int | None = None
    """The turn of the parent that waits for its end; None: none does."""
    inherits: bool = False
    """Whether its messages go on from the parent's."""


@dataclass(frozen=True, slots=True)
class SessionTrace:
    """Sessions by name, in the order of the file, and what is to be told of how they were read."""

    sessions: Mapping[str, Session]
    notes: tuple[Note, ...] = ()

    @property
    def roots(self) -> tuple[Session, ...]:
        """The sessions that no other spawns."""
        return tuple(session for session in self.sessions.values() if not session.parent)

    @property
    def spawned(self) -> Mapping[tuple[str, int], Sequence[Session]]:
        """The sessions that a turn of another one spawns, by its name and the turn."""
        found: dict[tuple[str, int], list[Session]] = {}
        for session in self.sessions.values():
            if session.parent:
                found.setdefault((session.parent, session.spawned_by), []).append(session)
        return found


@dataclass(slots=True)
class _Spawn:
    """Said in a turn of another session."""

    parent: str
    line: int
    turn: int
    join: int | None
    inherits: bool
    last: bool
    """Whether the parent may have no turn after it."""


@dataclass(slots=True)
class _Reading:
    """A trace while it is read."""

    name: str
    block_tokens: int
    turns: dict[str, list[Turn]] = field(default_factory=dict)
    begun: dict[str, int] = field(default_factory=dict)
    """Line in which a session's name is first used."""
    closed: set[str] = field(default_factory=set)
    """Sessions that stand in one line whole."""
    spawns: dict[str, _Spawn] = field(default_factory=dict)
    timed: bool = False
    unnamed: int = 0

    def wrong(self, line: int, words: str) -> NoReturn:
        raise unusable(f"{self.name}:{line}: {words}")


def parse_sessions(text: str, name: str, block_tokens: int = 512) -> SessionTrace:
    """The sessions of a trace, JSON lines.

    A line is a turn (``session_id``, ``input_length`` with ``hash_ids``, or ``text_input``, or
    ``messages``; ``output_length``, ``delay`` in ms), or a session whole (``session_id``,
    ``turns``). Either may spawn sessions (``spawns``, ``forks``). A turn without a ``session_id``
    is a session of one turn.

    Args:
        text: of the file.
        name: of the file, for sentences.
        block_tokens: tokens of a block that ``hash_ids`` name.

    Raises:
        BenchmarkError: for a line that is none, or sessions that could never run.
    """
    reading = _Reading(name, block_tokens)
    for line, entry in json_lines(text, name):
        if "turns" in entry:
            _whole(reading, line, entry)
        else:
            _single(reading, line, entry)
    if not reading.turns:
        raise unusable(f"{name} has no session in it")
    sessions = {session: Session(session, tuple(turns)) for session, turns in reading.turns.items()}
    for child, spawn in reading.spawns.items():
        sessions[child] = _joined(reading, sessions, child, spawn)
    _refuse_circles(reading, sessions)
    for session in sessions.values():
        _refuse_mixed(reading, sessions, session)
    return SessionTrace(sessions, tuple(_notes(reading)))


def _notes(reading: _Reading) -> Iterator[Note]:
    if reading.timed:
        yield (
            "timestamps-not-used",
            f"{reading.name}: timestamps are not replayed in sessions, which go on when they are "
            "answered; `delay` is",
        )
    if reading.unnamed > 1:
        yield (
            "sessions-of-one-turn",
            f"{reading.name}: {reading.unnamed} lines have no session_id; each is a session of "
            "one turn",
        )


def _whole(reading: _Reading, line: int, entry: Mapping[str, Any]) -> None:
    _refuse_unknown(reading, line, entry, _SESSION_KEYS, "a session")
    session, turns = _session_id(reading, line, entry), entry["turns"]
    if session in reading.begun:
        reading.wrong(line, f"the session {session!r} stands in line {reading.begun[session]}")
    if not isinstance(turns, list) or not turns:
        reading.wrong(line, "`turns` must be a list of at least one turn")
    reading.begun[session] = line
    reading.closed.add(session)
    system: tuple[Message, ...] = ()
    for number, turn in enumerate(turns):
        if not isinstance(turn, dict):
            reading.wrong(line, f"turn {number} is not a JSON object")
        _refuse_unknown(reading, line, turn, _TURN_KEYS, f"turn {number}")
        if turn.get("role") == "system" and not reading.turns.get(session):
            if "text" not in turn or system:
                reading.wrong(line, "a session begins with one system message at most, a `text`")
            _refuse_unknown(reading, line, turn, _SYSTEM_KEYS, "a system message")
            system = (("system", _text(reading, line, turn["text"])),)
            continue
        _take(reading, session, line, turn, system)
        system = ()
    if system:
        reading.wrong(line, "`turns` has a system message and nothing that is asked")


def _single(reading: _Reading, line: int, entry: Mapping[str, Any]) -> None:
    _refuse_unknown(reading, line, entry, _LINE_KEYS, "a turn")
    named = entry.get("session_id") is not None
    session = _session_id(reading, line, entry)
    reading.unnamed += not named
    if session in reading.closed:
        reading.wrong(
            line, f"the session {session!r} stands in line {reading.begun[session]} whole"
        )
    if not named and session in reading.begun:
        reading.wrong(line, f"has no session_id, and a session is named {session!r}; give it one")
    reading.begun.setdefault(session, line)
    _take(reading, session, line, entry, (), whole="messages" in entry)


def _session_id(reading: _Reading, line: int, entry: Mapping[str, Any]) -> str:
    session = entry.get("session_id")
    if session is None:
        return f"line {line}"
    if not isinstance(session, str) or not 0 < len(session) <= 200:
        reading.wrong(line, "`session_id` must be a text of 1 to 200 characters")
    return session


def _refuse_unknown(
    reading: _Reading, line: int, entry: Mapping[str, Any], known: frozenset[str], what: str
) -> None:
    unknown = sorted(set(entry) - known)
    if unknown:
        names = ", ".join(f"`{key[:40]}`" for key in unknown[:5])
        reading.wrong(line, f"{what} has {names}, which cannot be replayed; remove it")


def _take(
    reading: _Reading,
    session: str,
    line: int,
    entry: Mapping[str, Any],
    before: tuple[Message, ...],
    *,
    whole: bool = False,
) -> None:
    turns = reading.turns.setdefault(session, [])
    given = [key for key in ("input_length", "text", "text_input", "messages") if key in entry]
    if len(given) != 1:
        found = "none" if not given else " and ".join(f"`{key}`" for key in given)
        reading.wrong(
            line, f"a turn needs one of `input_length`, `text` and `messages`, and has {found}"
        )
    reading.timed = reading.timed or entry.get("timestamp") is not None
    turn = Turn(
        line, _pause(reading, line, entry.get("delay")), _output(reading, line, entry), whole=whole
    )
    if given == ["input_length"]:
        length = _count(reading, line, "input_length", entry["input_length"])
        if before:
            reading.wrong(line, "a system message goes before turns by text, not by length")
        blocks = _blocks(reading, line, entry.get("hash_ids"), length)
        turn = replace(turn, input_tokens=length, blocks=blocks)
    elif "hash_ids" in entry:
        reading.wrong(line, "`hash_ids` belong to `input_length`")
    else:
        turn = replace(turn, messages=(*before, *_messages(reading, line, given[0], entry)))
    number = len(turns)
    turns.append(turn)
    for key in ("spawns", "forks"):
        for part in _list(reading, line, key, entry.get(key)):
            _note_spawn(reading, session, line, number, key, part)


def _pause(reading: _Reading, line: int, value: Any) -> float:
    if value is None:
        return 0.0
    delay = math.nan
    if is_number(value):
        with suppress(OverflowError):  # of more digits than a float has room for
            delay = float(value)
    if not math.isfinite(delay):
        reading.wrong(line, "`delay` must be a number of milliseconds")
    if delay < 0:
        reading.wrong(line, f"`delay` is {delay:g} ms: nothing is sent before its answer")
    if delay > MOST_PAUSE_S * 1000:
        reading.wrong(line, f"`delay` is {delay:g} ms, more than a day")
    return delay / 1000


def _output(reading: _Reading, line: int, entry: Mapping[str, Any]) -> int | None:
    given = [key for key in ("output_length", "max_tokens") if entry.get(key) is not None]
    counts = {_count(reading, line, key, entry[key]) for key in given}
    if len(counts) > 1:
        reading.wrong(line, "`output_length` and `max_tokens` disagree; keep one")
    return next(iter(counts), None)


def _count(reading: _Reading, line: int, key: str, value: Any) -> int:
    if not is_whole(value) or not 1 <= value <= MOST_TOKENS:
        reading.wrong(line, f"`{key}` must be a number of tokens, at least 1")
    return value


def _blocks(reading: _Reading, line: int, ids: Any, length: int) -> tuple[int, ...]:
    parts = _list(reading, line, "hash_ids", ids)
    if any(not is_whole(part) for part in parts):
        reading.wrong(line, "`hash_ids` must be a list of numbers")
    most = -(-length // reading.block_tokens)
    if len(parts) > most:
        reading.wrong(
            line,
            f"{len(parts)} `hash_ids` are more than the {most} blocks of {reading.block_tokens} "
            f"tokens that {length} tokens have; set block-tokens in the recipe's client section",
        )
    return tuple(parts)


def _list(reading: _Reading, line: int, key: str, value: Any) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        reading.wrong(line, f"`{key}` must be a list")
    return value


def _text(reading: _Reading, line: int, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        reading.wrong(line, "the text of a turn must be a text that is not empty")
    return value


def _messages(
    reading: _Reading, line: int, key: str, entry: Mapping[str, Any]
) -> tuple[Message, ...]:
    if key != "messages":
        if entry.get("role") not in (None, "user"):
            reading.wrong(line, f"a turn is a user's, not of role {str(entry['role'])[:40]!r}")
        return (("user", _text(reading, line, entry[key])),)
    parts = entry["messages"]
    if not isinstance(parts, list) or not parts:
        reading.wrong(line, "`messages` must be a list of at least one message")
    found: list[Message] = []
    for part in parts:
        role = part.get("role") if isinstance(part, dict) else None
        known = isinstance(role, str) and role in _ROLES
        if not known or set(part) - {"role", "content"}:
            reading.wrong(
                line, "a message has `role` (system, developer, user, assistant) and `content` only"
            )
        found.append((str(role), _text(reading, line, part.get("content"))))
    if found[-1][0] != "user":
        reading.wrong(line, "the last of `messages` must be a user's")
    return tuple(found)


def _note_spawn(reading: _Reading, parent: str, line: int, turn: int, key: str, part: Any) -> None:
    """One entry of ``spawns`` (id, or children and the turn that waits for them) or ``forks`` (id,
    or child and whether the parent goes on)."""
    forks = key == "forks"
    keys = {"child", "background"} if forks else {"children", "join_at", "join"}
    names: Any = [part] if isinstance(part, str) else None
    said: Mapping[str, Any] = part if isinstance(part, dict) else {}
    if set(said) <= keys and said:
        names = [said.get("child")] if forks else said.get("children")
    if not isinstance(names, list) or not names or not all(isinstance(it, str) for it in names):
        words = "`child`, `background`" if forks else "`children`, `join_at`, `join`"
        reading.wrong(line, f"an entry of `{key}` is the id of a session, or has {words}")
    joins = said.get("join", not forks)
    at = said.get("join_at", turn + 1)
    if not isinstance(joins, bool) or not is_whole(at) or at <= turn:
        reading.wrong(
            line, f"`join_at` is the number of a later turn than {turn}, `join` true or false"
        )
    for child in names:
        if child in reading.spawns:
            other = reading.spawns[child]
            reading.wrong(
                line, f"the session {child[:200]!r} is spawned in line {other.line} already"
            )
        last = forks and said.get("background") is not True
        explicit = "join_at" in said
        join = at if joins else None
        reading.spawns[child] = _Spawn(parent, line, turn, join, forks, last)
        if explicit and not joins:
            reading.wrong(line, "`join_at` and `join: false` contradict each other")


def _joined(
    reading: _Reading, sessions: Mapping[str, Session], child: str, spawn: _Spawn
) -> Session:
    """A session as the one that spawns it says."""
    if child not in sessions:
        reading.wrong(
            spawn.line, f"the session {child[:200]!r} is spawned, and no line of the file has it"
        )
    turns = len(sessions[spawn.parent].turns)
    if spawn.last and spawn.turn + 1 < turns:
        reading.wrong(
            spawn.line,
            f"the fork to {child!r} ends its session, which has {turns} turns; write "
            f'{{"child": "{child}", "background": true}} where it goes on',
        )
    join = spawn.join
    if join is not None and join >= turns:
        if join > spawn.turn + 1:
            reading.wrong(
                spawn.line,
                f"`join_at` {join} is no turn of {spawn.parent!r}, which has {turns} (from 0)",
            )
        join = None  # nothing comes after the last turn
    return replace(
        sessions[child],
        parent=spawn.parent,
        spawned_by=spawn.turn,
        joined_by=join,
        inherits=spawn.inherits,
    )


def _refuse_circles(reading: _Reading, sessions: Mapping[str, Session]) -> None:
    """Sessions that spawn each other would never begin."""
    safe: set[str] = set()
    for start in sessions:
        way: dict[str, None] = {}
        name = start
        while name and name not in safe:
            if name in way:
                circle = [*list(way)[list(way).index(name) :], name]
                line = reading.spawns[name].line
                words = ", that by ".join(repr(part) for part in circle[1:6])
                reading.wrong(
                    line, f"sessions in a circle never begin: {name!r} is spawned by {words}"
                )
            way[name] = None
            name = sessions[name].parent
        safe.update(way)


def _refuse_mixed(reading: _Reading, sessions: Mapping[str, Session], session: Session) -> None:
    kinds = {bool(turn.input_tokens) for turn in session.turns}
    lengths = next(iter(kinds))
    if len(kinds) > 1:
        odd = next(turn for turn in session.turns if bool(turn.input_tokens) != lengths)
        reading.wrong(
            odd.line,
            f"the session {session.name!r} has turns by length and by text; make two sessions of "
            "them",
        )
    if session.inherits and (lengths or sessions[session.parent].turns[0].input_tokens):
        reading.wrong(
            session.turns[0].line,
            f"the session {session.name!r} is a fork, which goes on from its parent's messages, "
            "and one of the two is given by length; write its `hash_ids` and `spawns` it",
        )


def depth_first(
    spawned: Mapping[tuple[str, int], Sequence[Session]], root: Session
) -> Iterator[tuple[Session, int]]:
    """The turns of a session and its sub-sessions, each behind all that it comes after.

    Args:
        spawned: of the trace.
        root: where to begin.
    """
    stack: list[tuple[Session, int]] = [(root, 0)]
    while stack:
        session, number = stack.pop()
        if number == len(session.turns):
            continue
        yield session, number
        stack.append((session, number + 1))
        stack.extend((child, 0) for child in reversed(spawned.get((session.name, number), ())))
