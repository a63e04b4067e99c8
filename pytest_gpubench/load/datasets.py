"""Files that prompts can come from: ShareGPT, JSON lines, plain text. Errors name file and line."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

from pytest_gpubench.host.files import open_regular, unread_because
from pytest_gpubench.host.hub.fetch import local_path
from pytest_gpubench.load.prompts import Message
from pytest_gpubench.model.client_tools import INPUT_FILE, Tool
from pytest_gpubench.model.failures import BenchmarkError, Failure
from pytest_gpubench.model.frozen import is_whole, thaw
from pytest_gpubench.model.workload import SESSION_FIELDS, SESSIONS, Workload

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


Note: TypeAlias = tuple[str, str]
"""Of how data were read: the code of a flag, and its sentence."""
_OUTPUT_KEYS = (
    "output_tokens",
    "max_tokens",
    "max_completion_tokens",
    "output_len",
    "output_length",
)
"""Of a line: how many tokens its answer may have, in the words of several tools."""
_SENT_ROLES = frozenset({"system", "developer", "user", "assistant"})
_NAMED = 3
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
"""Half of a pair as JSON escapes it; it may have its other half."""
_LONGEST_PIECE = 200
"""Words of a sentence; a longer one, as of a script without full stops, is cut."""
_WORD_CHARACTERS = 4
"""Characters of a text without spaces that count as a word."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages as they are sent; the first that is no system's is a user's."""

    messages: tuple[Message, ...]
    place: str = ""
    """Of the file, for a sentence: ``entry 7``, ``line 3``."""
    output_tokens: int | None = None
    """Of the answer to the last user, where the data give a number; else that of the recorded
    answer."""

    @property
    def users(self) -> tuple[int, ...]:
        """Positions of the users' messages."""
        return tuple(number for number, (role, _) in enumerate(self.messages) if role == "user")

    def answer_to(self, position: int) -> str | None:
        """What was answered to the message there, if it was."""
        role, text = self.messages[position + 1] if position + 1 < len(self.messages) else ("", "")
        return text if role == "assistant" else None


@dataclass(frozen=True, slots=True)
class Conversations:
    """What a file holds, and what of it cannot be sent."""

    found: tuple[Conversation, ...]
    left_out: tuple[str, ...] = ()
    """One sentence each: ``entry 7: ...``."""


def read_text(path: str | Path) -> str:
    """The file's text.

    Raises:
        BenchmarkError: if it cannot be read.
    """
    try:
        with open_regular(local_path(str(path))) as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise unusable(f"the dataset {path} is too large: more than {MAX_BYTES // 2**20:,} MiB")
        return data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise unusable(f"the dataset {path} cannot be read: {unread_because(error)}") from error


def dataset_problem(workload: Workload) -> Failure | None:
    """Why the workload's file cannot be used, without parsing it; None: it is there, or none is
    asked for."""
    if workload.tool is not None:
        return _tool_file_problem(workload.tool)
    if not workload.dataset_file:
        return None
    try:
        with open_regular(local_path(workload.dataset_file)) as file:
            size = os.fstat(file.fileno()).st_size
        if size > MAX_BYTES:
            words = (
                f"has {size / 2**20:,.0f} MiB, which is too large: at most "
                f"{MAX_BYTES // 2**20:,} MiB are read"
            )
            return unusable(f"the dataset {workload.dataset_file} {words}").failure
        return None
    except BenchmarkError as error:
        return error.failure
    except OSError as error:
        words = f"the dataset {workload.dataset_file} cannot be read: {error.strerror}"
        return unusable(words).failure


def _tool_file_problem(tool: Tool) -> Failure | None:
    """Why the file, or the folder of files, that a tool is to replay cannot be read."""
    name = str(tool.arguments.get(INPUT_FILE) or "")
    if not name or os.access(name, os.R_OK):
        return None
    reason = "cannot be read" if Path(name).exists() else "does not exist"
    return unusable(f"the {INPUT_FILE} of {tool.name}, {name}, {reason}").failure


def comparable(workload: Workload) -> dict[str, Any]:
    """What must be equal for numbers to be comparable: the workload as plain data, files as their
    contents' hash; of a tool that measured in place of our client what it is and was told."""
    names = [item.name for item in fields(Workload) if item.name != "tool"]
    if workload.dataset != SESSIONS:  # baselines of before there were any stay comparable
        names = [name for name in names if name not in SESSION_FIELDS]
    plain = {name: thaw(getattr(workload, name)) for name in names}
    plain["dataset_file"] = workload.dataset_file and _content_hash(workload.dataset_file)
    tool = workload.tool
    if tool is None:
        return plain
    arguments = thaw(tool.arguments)
    if INPUT_FILE in arguments:
        arguments[INPUT_FILE] = _hash_below(Path(arguments[INPUT_FILE]))
    return plain | {"tool": tool.label, "scenario": tool.scenario, "arguments": arguments}


def _hash_below(path: Path) -> str | dict[str, str]:
    """The hash of a file; of a folder that of each file in it, by name."""
    if not path.is_dir():
        return _content_hash(str(path))
    files = sorted(one for one in path.rglob("*") if one.is_file())
    return {one.relative_to(path).as_posix(): _content_hash(str(one)) for one in files}


def _content_hash(path: str) -> str:
    try:
        file = local_path(path)
        about = file.stat()
        return _hash_of(file, about.st_mtime_ns, about.st_size)
    except (OSError, BenchmarkError):
        return "unreadable"


@lru_cache(maxsize=64)
def _hash_of(path: Path, _mtime_ns: int, _size: int) -> str:
    """Of the bytes; the other arguments make a changed file a new one."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sentences(text: str) -> tuple[str, ...]:
    """The sentences of a text in any script, white space evened out, very short ones left out."""
    parts = re.split(
        r"(?<=[.!?\u0964\u06d4])[\"')\]]*\s+|(?<=[\u3002\uff01\uff1f])\s*", " ".join(text.split())
    )
    pieces = (
        " ".join(words[start : start + _LONGEST_PIECE])
        for words in map(str.split, parts)
        for start in range(0, len(words), _LONGEST_PIECE)
    )
    return tuple(piece for piece in pieces if _words(piece) >= _MIN_SENTENCE_WORDS)


def _words(text: str) -> int:
    """About how many words a text has: some scripts put no space between them."""
    return sum(1 if word.isascii() else -(-len(word) // _WORD_CHARACTERS) for word in text.split())


def parse_sharegpt(text: str, name: str) -> Conversations:
    """Conversations of a ShareGPT file: a list of ``{conversations: [{from: human | gpt | system,
    value: ...}]}``.

    Entries that do not begin with a human are passed over, as everybody does; a conversation ends
    where it does not go on in turns. Entries with values that are no text, or none that a request
    can carry, are left out.

    Raises:
        BenchmarkError: if it is not such a file, or nothing is left.
    """
    try:
        entries = json.loads(text)
    except ValueError as error:
        raise unusable(f"{name} is not JSON: {error}") from error
    except RecursionError:
        raise unusable(f"{name} is nested too deeply") from None
    if not isinstance(entries, list):
        raise unusable(f"{name} is not a list of conversations")
    found: list[Conversation] = []
    left_out: list[str] = []
    for number, entry in enumerate(entries, 1):
        parts = isinstance(entry, dict) and entry.get("conversations", entry.get("conversation"))
        if not isinstance(parts, list):
            raise unusable(f"{name}: entry {number} has no list `conversations`")
        try:
            messages = [(_ROLES.get(str(part["from"]), ""), part["value"]) for part in parts]
        except (KeyError, TypeError) as error:
            raise unusable(
                f"{name}: entry {number} has a message without `from` or `value`"
            ) from error
        odd = [at for at, (_, value) in enumerate(messages, 1) if not _is_text(value)]
        if odd:
            left_out.append(f"entry {number}: the value of its message {odd[0]} is no text")
        elif turns := _in_turns(messages):
            found.append(Conversation(turns, f"entry {number}"))
    return _some(found, left_out, name)


def parse_jsonl(text: str, name: str) -> Conversations:
    """One request per line: ``{"prompt": TEXT}`` or ``{"messages": [{role, content}]}``, and
    ``output_tokens`` (or ``max_tokens``, ``output_len``, ...).

    Messages are sent as they are. Contents are text, or OpenAI's list of text parts.

    Raises:
        BenchmarkError: for a line that is neither, or holds what cannot be sent.
    """
    found = []
    for line, entry in json_lines(text, name):
        where = f"{name}:{line}"
        wanted = _output_tokens(entry, where)
        if isinstance(entry.get("prompt"), str):
            answer = entry.get("answer")
            messages: list[Message] = [("user", entry["prompt"])]
            messages += [("assistant", answer)] if isinstance(answer, str) else []
        else:
            messages = _messages(entry, where)
        found.append(Conversation(tuple(messages), f"line {line}", wanted))
    return _some(found, [], name)


def _output_tokens(entry: Mapping[str, Any], where: str) -> int | None:
    told = {key: entry[key] for key in _OUTPUT_KEYS if entry.get(key) is not None}
    for key, value in told.items():
        if not is_whole(value) or value < 1:
            raise unusable(f"{where}: `{key}` must be a number of at least 1")
    if len(set(told.values())) > 1:
        raise unusable(f"{where}: {' and '.join(f'`{key}`' for key in told)} disagree; keep one")
    return next(iter(told.values()), None)


def _messages(entry: Mapping[str, Any], where: str) -> list[Message]:
    try:
        parts = [(str(message["role"]), message["content"]) for message in entry["messages"]]
    except (KeyError, TypeError) as error:
        raise unusable(
            f"{where}: needs `prompt`, or `messages` with `role` and `content`"
        ) from error
    odd = next((role for role, _ in parts if role not in _SENT_ROLES), None)
    if odd is not None:
        raise unusable(
            f"{where}: a message of role {odd[:40]!r} cannot be sent again; "
            f"roles are {', '.join(sorted(_SENT_ROLES))}"
        )
    messages = [(role, _content(content)) for role, content in parts]
    texts = [(role, content) for role, content in messages if content is not None]
    first = next((role for role, _ in texts if role not in ("system", "developer")), "")
    if len(texts) < len(messages) or first != "user":
        raise unusable(
            f"{where}: `messages` must be text and begin with a user's (after a system message)"
        )
    return texts


def _content(content: object) -> str | None:
    """The text of a message; None where there is anything else in it."""
    if not isinstance(content, list):
        return content if isinstance(content, str) else None
    texts = [
        part["text"]
        for part in content
        if isinstance(part, dict)
        and part.get("type") == "text"
        and isinstance(part.get("text"), str)
    ]
    return "".join(texts) if texts and len(texts) == len(content) else None


def json_lines(text: str, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of JSON lines, each with its line's number.

    Lines end at line feeds alone: JSON's strings may hold the other line separators of Unicode.

    Raises:
        BenchmarkError: for a line that is none.
    """
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        if len(line) > MAX_LINE:
            raise unusable(
                f"{name}:{number}: the line is too long: {len(line):,} characters, at "
                f"most {MAX_LINE:,} are read"
            )
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise unusable(f"{name}:{number}: not JSON: {error}") from error
        except RecursionError:
            raise unusable(f"{name}:{number}: nested too deeply") from None
        if not isinstance(entry, dict):
            raise unusable(f"{name}:{number}: not a JSON object")
        if _SURROGATE.search(line) and not _encodable(entry):
            raise unusable(
                f"{name}:{number}: holds half of a surrogate pair, which no request can carry; "
                "remove it"
            )
        yield number, entry


def _is_text(value: object) -> bool:
    return isinstance(value, str) and (value.isascii() or _encodable(value))


def _encodable(entry: object) -> bool:
    """Whether a request can carry it: half of a surrogate pair it cannot."""
    try:
        json.dumps(entry, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _in_turns(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The beginning of a conversation in which user and assistant take turns, after a system
    message; empty where a user does not begin."""
    start = 1 if messages and messages[0][0] == "system" else 0
    wanted = itertools.cycle(("user", "assistant"))
    turns = [
        message
        for message, _ in itertools.takewhile(
            lambda pair: pair[0][0] == pair[1], zip(messages[start:], wanted, strict=False)
        )
    ]
    return (*messages[:start], *turns) if turns else ()


def _some(found: Sequence[Conversation], left_out: Sequence[str], name: str) -> Conversations:
    if not found:
        words = f"; {left_out_words(left_out)}" if left_out else ""
        raise unusable(f"{name} has no conversation that begins with a user{words}")
    return Conversations(tuple(found), tuple(left_out))


def left_out_words(left_out: Sequence[str]) -> str:
    """What was left out, the first ones named."""
    more = f" and {len(left_out) - _NAMED} more" if len(left_out) > _NAMED else ""
    return f"left out: {'; '.join(left_out[:_NAMED])}{more}"


def left_out_note(name: str, left_out: Sequence[str]) -> Iterator[Note]:
    """The note of what was left out of a file, if anything was."""
    if left_out:
        yield "entries-left-out", f"{name}: {len(left_out)} {left_out_words(left_out)}"


def unusable(summary: str) -> BenchmarkError:
    """The failure of a dataset."""
    remedy = "Correct dataset-file in the recipe's client section."
    return BenchmarkError(Failure("dataset-unusable", "recipe", summary, remedy=remedy))
