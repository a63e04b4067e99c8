"""From raw reads to a request record, after the clock has stopped."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from pytest_gpubench.load.openai_wire import WireRequest
from pytest_gpubench.load.protocol import EngineView, RequestRecord
from pytest_gpubench.load.transport import Exchange, Framing, chunk_at, parse_head

FINISHED = frozenset({"stop", "length", "tool_calls", "function_call"})
"""Reasons with which an answer ends well; with any other its request has failed."""
_MOST_TOKENS = 10**12
_MOST_MS = 1e9
_LONGEST_NAME = 200
_Count = Annotated[int, Field(strict=True, ge=0, le=_MOST_TOKENS)]
"""A count without which the request is not known."""
_NO_TEXT = frozenset({"id", "type", "index", "role"})


def _count_or_none(value: object) -> object:
    good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_TOKENS
    return value if good else None


def _milliseconds_or_none(value: object) -> object:
    good = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _MOST_MS
    return value if good else None


def _name_or_none(value: object) -> object:
    return value[:_LONGEST_NAME] if isinstance(value, str) and value else None


def _map_or_none(value: object) -> object:
    return value if isinstance(value, dict) else None


_SideCount = Annotated[int | None, BeforeValidator(_count_or_none)]
"""A count that the request can do without: what is none is dropped."""
_SideTime = Annotated[float | None, BeforeValidator(_milliseconds_or_none)]
_SideName = Annotated[str | None, BeforeValidator(_name_or_none)]


class _View(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _PromptDetails(_View):
    cached_tokens: _SideCount = None


class _Usage(_View):
    prompt_tokens: _Count
    completion_tokens: _Count = 0
    prompt_tokens_details: Annotated[_PromptDetails | None, BeforeValidator(_map_or_none)] = None


class _Speculation(_View):
    num_spec_steps: _SideCount = None
    num_draft_tokens: _SideCount = None
    num_accepted_draft_tokens: _SideCount = None


class _Metrics(_View):
    """vLLM's own numbers for one request, in milliseconds."""

    queue_time_ms: _SideTime = None
    time_to_first_token_ms: _SideTime = None
    generation_time_ms: _SideTime = None
    speculative_decoding: Annotated[_Speculation | None, BeforeValidator(_map_or_none)] = None

    def view(self) -> EngineView:
        drafting = self.speculative_decoding or _Speculation()
        times = (self.queue_time_ms, self.time_to_first_token_ms, self.generation_time_ms)
        queue, ttft, generation = (None if time is None else time / 1e3 for time in times)
        return EngineView(
            queue,
            ttft,
            generation,
            drafting.num_spec_steps,
            drafting.num_draft_tokens,
            drafting.num_accepted_draft_tokens,
        )


class _Delta(_View):
    model_config = ConfigDict(extra="allow")
    role: str | None = None

    def carries_text(self) -> bool:
        """Whether there is content, reasoning or a tool call, under whatever name a server streams
        it."""
        return any(bool(value) for value in (self.model_extra or {}).values())


class _Choice(_View):
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Chunk(_View):
    """The part of ``ChatCompletionChunk`` and ``Completion`` that we read.

    Not the OpenAI client's own types: validated, they refuse what vLLM adds (finish reasons),
    unvalidated they cost ten times more.
    """

    model: _SideName = None
    choices: list[_Choice] = []  # pydantic copies defaults
    usage: _Usage | None = None
    metrics: Annotated[_Metrics | None, BeforeValidator(_map_or_none)] = None
    error: Any = None


def body_pieces(framing: Framing, reads: list[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """The body of a response as (stamp of the read in which the piece ended, bytes), transfer
    coding removed.

    Raises:
        ValueError: if the chunk framing is broken; an early end is not an error here.
    """
    data = b"".join(read for _, read in reads)
    ends: list[int] = []
    offset = 0
    for _, read in reads:
        offset += len(read)
        ends.append(offset)
    at, position = 0, framing.head_size
    while position < len(data):
        if framing.chunked:
            chunk = chunk_at(data, position)
            if chunk is None or chunk[0] == chunk[1] or chunk[1] > len(data):
                return
            start, stop = chunk
            position = stop + 2
        else:
            while ends[at] <= position:
                at += 1
            start, stop = position, min(ends[at], len(data))
            position = stop
        while ends[at] < stop:
            at += 1
        yield reads[at][0], data[start:stop]


def events(pieces: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """Server-sent events as (stamp, data); the stamp is that of the piece in which the event was
    completed."""
    rest = b""
    for stamp, piece in pieces:
        text = rest + piece
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n")
        *whole, rest = text.split(b"\n\n")
        for block in whole:
            lines = [
                line[5:].removeprefix(b" ")
                for line in block.split(b"\n")
                if line.startswith(b"data:")
            ]
            if lines:
                yield stamp, b"\n".join(lines)


def record_of(request: WireRequest, exchange: Exchange) -> RequestRecord:
    """The record of one exchange; everything that is wrong with it is in ``error``, the first cause
    wins."""
    prompt = request.prompt
    fields: dict[str, Any] = {
        "index": prompt.index,
        "phase": prompt.phase,
        "request_id": request.request_id,
        "asked_isl": prompt.isl,
        "asked_osl": prompt.osl,
        "turn": prompt.turn,
        "due_ns": exchange.due_ns,
        "send_ns": exchange.send_ns,
        "end_ns": exchange.end_ns,
        "error": exchange.error,
    }
    framing = _framing(exchange)
    if framing is not None:
        fields["status"] = framing.status
        fields.update(_answer_fields(framing, exchange))
    return RequestRecord(**{**fields, "error": exchange.error or fields["error"]})


def _answer_fields(framing: Framing, exchange: Exchange) -> dict[str, Any]:
    if framing.status != 200:
        return _refusal(framing, exchange)
    try:
        return _stream_fields(framing, exchange)
    except Exception as error:  # noqa: BLE001  # whatever an answer holds, the other requests are not lost
        return {"error": f"malformed answer: it cannot be read ({type(error).__name__})"}


def _framing(exchange: Exchange) -> Framing | None:
    try:
        return parse_head(b"".join(read for _, read in exchange.reads))
    except ValueError:  # no HTTP: the exchange's own error says so
        return None


def _refusal(framing: Framing, exchange: Exchange) -> dict[str, Any]:
    if 300 <= framing.status < 400:
        return {
            "error": (
                f"HTTP status {framing.status}: a redirect to {framing.location[:200]!r}, "
                "which is not followed"
            )
        }
    try:
        body = b"".join(piece for _, piece in body_pieces(framing, exchange.reads)).decode(
            "utf-8", "replace"
        )
    except ValueError as error:
        body = str(error)
    return {"error": f"HTTP status {framing.status}: {' '.join(body.split())[:300]}"}


def _stream_fields(framing: Framing, exchange: Exchange) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    stamps: list[int] = []
    totals: list[int] = []
    done = False
    try:
        for stamp, data in events(body_pieces(framing, exchange.reads)):
            if data == b"[DONE]":
                done = True
                break
            chunk = _Chunk.model_validate_json(data)
            if chunk.error is not None:
                fields["error"] = (
                    f"the server reported an error in the stream: {_message(chunk.error)}"
                )
                break
            _take(chunk, stamp, fields, stamps, totals)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part)[:40] for part in first["loc"])
        reason = f"{place}: {first['msg']}" if place else first["msg"]
        fields["error"] = f"malformed chunk after {len(stamps)} good ones: {reason}"
    except ValueError as error:
        fields["error"] = f"malformed chunk after {len(stamps)} good ones: {error}"
    fields["chunk_ns"] = tuple(stamps)
    if len(totals) == len(stamps):  # else the server told the tokens of some chunks only
        fields["chunk_tokens"] = tuple(totals)
    if stamps:
        fields.update(first_token_ns=stamps[0], last_token_ns=stamps[-1])
    if "error" not in fields and not done:
        fields["error"] = "the stream ended without [DONE]"
    if "error" not in fields and not stamps:
        fields["error"] = "the stream carried no token"
    finish = fields.get("finish_reason")
    if "error" not in fields and finish is not None and finish not in FINISHED:
        fields["error"] = f"the answer ended with finish reason {_message(finish)!r}"
    return fields


def _take(
    chunk: _Chunk, stamp: int, fields: dict[str, Any], stamps: list[int], totals: list[int]
) -> None:
    if chunk.model is not None:
        fields["model"] = chunk.model
    if chunk.usage is not None:
        fields["prompt_tokens"] = chunk.usage.prompt_tokens
        fields["completion_tokens"] = chunk.usage.completion_tokens
        if chunk.usage.prompt_tokens_details is not None:
            fields["cached_tokens"] = chunk.usage.prompt_tokens_details.cached_tokens
    if chunk.metrics is not None:
        fields["engine"] = chunk.metrics.view()
    if not chunk.choices:
        return
    choice = chunk.choices[0]
    if choice.finish_reason is not None:
        fields["finish_reason"] = choice.finish_reason
    if chunk.usage is not None:  # cumulative: text may be empty in a chunk that carries tokens
        if chunk.usage.completion_tokens > max(totals[-1:], default=0):
            stamps.append(stamp)
            totals.append(chunk.usage.completion_tokens)
    elif choice.text or (choice.delta is not None and choice.delta.carries_text()):
        stamps.append(stamp)


@dataclass(frozen=True, slots=True)
class Answer:
    """What one stream said."""

    text: str
    """Content, reasoning and tool calls, as they came."""
    claimed: int
    """Output tokens by the last usage."""
    silent: int
    """Of these, tokens of chunks without text. An engine sends such a chunk for special tokens and
    for parts of a character, so that one speaks for as many tokens as its chunks usually carry, and
    not for more."""


def answer_of(exchange: Exchange) -> Answer | None:
    """The answer of an exchange whose record is good; None where it cannot be read."""
    framing = _framing(exchange)
    if framing is None:
        return None
    texts: list[str] = []
    spoken: list[int] = []
    silent: list[int] = []
    claimed = 0
    try:
        for _, data in events(body_pieces(framing, exchange.reads)):
            if data == b"[DONE]":
                break
            chunk = _Chunk.model_validate_json(data)
            before = claimed
            if chunk.usage is not None:
                claimed = chunk.usage.completion_tokens
            if not chunk.choices:
                continue
            choice = chunk.choices[0]
            text = _text_of(choice)
            texts.append(text)
            ends = choice.finish_reason is not None or (
                choice.delta is not None and choice.delta.role is not None
            )
            new = claimed - before if chunk.usage else int(not ends)
            if new > 0:
                (spoken if text else silent).append(new)
    except ValueError:
        return None
    if not claimed:
        return None
    usual = statistics.median_low(spoken or [1])
    return Answer("".join(texts), claimed, sum(min(new, usual) for new in silent))


def _text_of(choice: _Choice) -> str:
    """What a model wrote in a chunk; some servers send reasoning under two names at once."""
    fields: dict[str, Any] = {}
    if choice.delta is not None:
        fields = choice.delta.model_extra or {}
    return (choice.text or "") + "".join(
        dict.fromkeys("".join(_strings(value)) for value in fields.values())
    )


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key not in _NO_TEXT:
                yield from _strings(item)


def _message(error: Any) -> str:
    text = error.get("message", error) if isinstance(error, dict) else error
    return " ".join(str(text).split())[:300]
