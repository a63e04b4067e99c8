"""Files that prompts can come from: ShareGPT, JSONL, traces with timestamps, plain text. Errors
name file and line."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from pytest_gpubench.host.files import open_regular, unread_because
from pytest_gpubench.model.failures import BenchmarkError, Failure
from pytest_gpubench.model.frozen import thaw
from pytest_gpubench.model.workload import Workload

CORPUS = Path(__file__).with_name("corpus.txt")
_MIN_SENTENCE_WORDS = 3
MAX_BYTES = 2**30
"""Of a dataset; ShareGPT has 642 MiB."""
MAX_LINE = 16 * 2**20
"""Characters of one line."""

_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
"""Of ShareGPT, in OpenAI's words."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What a user says and, where the data have it, what was answered."""

    user: str
    answer: str | None = None
    output_tokens: int | None = None
    """Where the data give a number; else it is that of the answer."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns in order, at least one."""

    turns: tuple[Turn, ...]
    system: str | None = None


@dataclass(frozen=True, slots=True)
class TraceRow:
    """One recorded request: when, how long, and which parts of its prompt it shares with others."""

    seconds: float
    """After the first row."""
    input_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] = ()
    """Ids of the prompt's blocks, from its start; equal ids are equal text."""


def read_text(path: str | Path) -> str:
    """The file's text.

    Raises:
        BenchmarkError: if it cannot be read.
    """
    try:
        with open_regular(Path(path)) as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise _failure(f"the dataset {path} is too large: more than {MAX_BYTES // 2**20:,} MiB")
        return data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _failure(f"the dataset {path} cannot be read: {unread_because(error)}") from error


def dataset_problem(workload: Workload) -> Failure | None:
    """Why the workload's file cannot be used, without parsing it; None: it is there, or none is
    asked for."""
    if not workload.dataset_file:
        return None
    try:
        with open_regular(Path(workload.dataset_file)) as file:
            size = os.fstat(file.fileno()).st_size
        if size > MAX_BYTES:
            words = (
                f"has {size / 2**20:,.0f} MiB, which is too large: at most "
                f"{MAX_BYTES // 2**20:,} MiB are read"
            )
            return _failure(f"the dataset {workload.dataset_file} {words}").failure
        return None
    except OSError as error:
        return _failure(
            f"the dataset {workload.dataset_file} cannot be read: {error.strerror}"
        ).failure


def comparable(workload: Workload) -> dict[str, Any]:
    """What must be equal for numbers to be comparable: the workload as plain data, the dataset's
    file as its contents' hash."""
    plain = {item.name: thaw(getattr(workload, item.name)) for item in fields(Workload)}
    return plain | {"dataset_file": workload.dataset_file and _content_hash(workload.dataset_file)}


def _content_hash(path: str) -> str:
    try:
        about = Path(path).stat()
        return _hash_of(path, about.st_mtime_ns, about.st_size)
    except OSError:
        return "unreadable"


@lru_cache(maxsize=64)
def _hash_of(path: str, _mtime_ns: int, _size: int) -> str:
    """Of the bytes; the other arguments make a changed file a new one."""
    with open_regular(Path(path)) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sentences(text: str) -> tuple[str, ...]:
    """The sentences of a text, white space evened out, very short ones left out."""
    parts = re.split(r"(?<=[.!?])[\"')\]]*\s+", " ".join(text.split()))
    return tuple(part for part in parts if len(part.split()) >= _MIN_SENTENCE_WORDS)


def parse_sharegpt(text: str, name: str) -> tuple[Conversation, ...]:
    """Conversations of a ShareGPT file: a list of ``{conversations: [{from: human | gpt | system,
    value: ...}]}``.

    Entries that do not begin with a human are left out, as everybody does.

    Raises:
        BenchmarkError: if it is not such a file, or nothing is left.
    """
    try:
        entries = json.loads(text)
    except ValueError as error:
        raise _failure(f"{name} is not JSON: {error}") from error
    except RecursionError:
        raise _failure(f"{name} is nested too deeply") from None
    if not isinstance(entries, list):
        raise _failure(f"{name} is not a list of conversations")
    conversations = []
    for number, entry in enumerate(entries, 1):
        parts = isinstance(entry, dict) and entry.get("conversations", entry.get("conversation"))
        if not isinstance(parts, list):
            raise _failure(f"{name}: entry {number} has no list `conversations`")
        try:
            messages = [
                (_ROLES.get(str(part["from"]), "other"), str(part["value"])) for part in parts
            ]
        except (KeyError, TypeError) as error:
            raise _failure(
                f"{name}: entry {number} has a message without `from` or `value`"
            ) from error
        conversation = _conversation(messages)
        if conversation is not None:
            conversations.append(conversation)
    return _some(conversations, name)


def parse_jsonl(text: str, name: str) -> tuple[Conversation, ...]:
    """One request or conversation per line: ``{"prompt": TEXT}`` or ``{"messages": [{role,
    content}]}``, and ``output_tokens``.

    Raises:
        BenchmarkError: for a line that is neither.
    """
    conversations = []
    for line, entry in _lines(text, name):
        wanted = entry.get("output_tokens")
        if wanted is not None and (
            not isinstance(wanted, int) or isinstance(wanted, bool) or wanted < 1
        ):
            raise _failure(f"{name}:{line}: `output_tokens` must be a number of at least 1")
        if isinstance(entry.get("prompt"), str):
            answer = entry.get("answer")
            turn = Turn(entry["prompt"], answer if isinstance(answer, str) else None, wanted)
            conversations.append(Conversation((turn,)))
            continue
        try:
            messages = [(str(message["role"]), message["content"]) for message in entry["messages"]]
        except (KeyError, TypeError) as error:
            raise _failure(
                f"{name}:{line}: needs `prompt`, or `messages` with `role` and `content`"
            ) from error
        all_text = all(isinstance(content, str) for _, content in messages)
        conversation = all_text and _conversation(messages)
        if not conversation:
            raise _failure(
                f"{name}:{line}: `messages` must be text and begin with a user's (after "
                "a system message)"
            )
        *before, last = conversation.turns
        conversations.append(
            Conversation(
                (*before, Turn(last.user, last.answer, wanted or last.output_tokens)),
                conversation.system,
            )
        )
    return _some(conversations, name)


def parse_trace(text: str, name: str) -> tuple[TraceRow, ...]:
    """Rows of a trace in Mooncake's format, one JSON object per line, in the order of their times:

    ``{"timestamp": MILLISECONDS, "input_length": N, "output_length": N, "hash_ids": [ids of
    512-token blocks]}``

    Raises:
        BenchmarkError: for a line that is none, or an empty trace.
    """
    rows = []
    for line, entry in _lines(text, name):
        stamp, ids = entry.get("timestamp"), entry.get("hash_ids", [])
        lengths = (entry.get("input_length"), entry.get("output_length"))
        timed = (
            isinstance(stamp, int | float) and not isinstance(stamp, bool) and math.isfinite(stamp)
        )
        sized = all(isinstance(length, int) and length > 0 for length in lengths)
        if (
            not timed
            or not sized
            or not isinstance(ids, list)
            or not all(isinstance(part, int) for part in ids)
        ):
            raise _failure(
                f"{name}:{line}: needs numbers `timestamp` (ms), `input_length` and "
                "`output_length`; `hash_ids` is a list"
            )
        rows.append(
            TraceRow(
                float(entry["timestamp"]) / 1e3,
                entry["input_length"],
                entry["output_length"],
                tuple(ids),
            )
        )
    if not rows:
        raise _failure(f"{name} has no request in it")
    rows.sort(key=lambda row: row.seconds)
    first = rows[0].seconds
    return tuple(
        TraceRow(row.seconds - first, row.input_tokens, row.output_tokens, row.blocks)
        for row in rows
    )


def _lines(text: str, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        if len(line) > MAX_LINE:
            raise _failure(
                f"{name}:{number}: the line is too long: {len(line):,} characters, at "
                f"most {MAX_LINE:,} are read"
            )
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise _failure(f"{name}:{number}: not JSON: {error}") from error
        except RecursionError:
            raise _failure(f"{name}:{number}: nested too deeply") from None
        if not isinstance(entry, dict):
            raise _failure(f"{name}:{number}: not a JSON object")
        yield number, entry


def _conversation(messages: list[tuple[str, str]]) -> Conversation | None:
    system = None
    if messages and messages[0][0] == "system":
        system, messages = messages[0][1], messages[1:]
    turns: list[Turn] = []
    for role, content in messages:
        if role == "user" and (not turns or turns[-1].answer is not None):
            turns.append(Turn(content))
        elif role == "assistant" and turns and turns[-1].answer is None:
            turns[-1] = Turn(turns[-1].user, content)
        else:
            break
    return Conversation(tuple(turns), system) if turns else None


def _some(conversations: list[Conversation], name: str) -> tuple[Conversation, ...]:
    if not conversations:
        raise _failure(f"{name} has no conversation that begins with a user")
    return tuple(conversations)


def _failure(summary: str) -> BenchmarkError:
    return BenchmarkError(
        Failure(
            "dataset-unusable",
            "recipe",
            summary,
            remedy="Correct dataset-file in the recipe's client section.",
        )
    )
