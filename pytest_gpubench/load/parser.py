"""From raw reads to a request record, after the clock has stopped."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from pytest_gpubench.load.framing import Response, decode
from pytest_gpubench.load.openai_wire import WireRequest
from pytest_gpubench.load.protocol import RequestRecord
from pytest_gpubench.load.stream_chunks import Chunk, chunk_of
from pytest_gpubench.load.transport import Exchange

FINISHED = frozenset({
    "stop", "length", "tool_calls", "function_call",
    "eos", "eos_token", "end_turn", "stop_sequence", "max_tokens", "tool_use",
})  # fmt: skip
"""Reasons with which an answer ends well, in small letters: OpenAI's, and those that gateways and
older servers pass on. With any other its request has failed."""
_HEARTBEATS = frozenset({b"ping", b"keepalive", b"keep-alive", b"heartbeat"})
"""Names of events that say no more than that the connection lives."""
_WHOLE_LINES = re.compile(rb"(?:(?:event:[^\n]*|data: ?\{[^\n]*\}[ \t]*)?\n)+")
_BOM = b"\xef\xbb\xbf"
_SHOWN_BYTES = 300


def events(pieces: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, bytes, bytes]]:
    """Server-sent events as (stamp, name, data); the stamp is that of the piece in which the event
    was completed.

    Lines end as the specification of server-sent events allows: CR, LF, CRLF. Comments, heartbeats
    and events without data are left out. Some servers leave out the empty line after an event: one
    whose data is a whole JSON object ends with its own line.
    """
    rest, stamp = b"", 0
    begun = skip_line_feed = False
    for stamp, piece in pieces:  # the last stamp is used below
        text = piece
        if skip_line_feed:
            text = text.removeprefix(b"\n")
        skip_line_feed = text.endswith(b"\r")
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        text = rest + text
        if not begun:
            if len(text) < len(_BOM) and _BOM.startswith(text):
                rest = text
                continue
            text, begun = text.removeprefix(_BOM), True
        *whole, rest = text.split(b"\n\n")
        for block in whole:
            yield from _event(stamp, block)
        if rest.endswith(b"}\n") and _WHOLE_LINES.fullmatch(rest):
            yield from _event(stamp, rest)
            rest = b""
    yield from _event(stamp, rest)


def _event(stamp: int, block: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """The event of a block, or its events where a server leaves out the empty lines."""
    name = begun_as = b""
    lines: list[bytes] = []
    comment = b""
    for line in block.split(b"\n"):
        if line.startswith(b"data:"):
            if len(lines) == 1 and lines[0].startswith(b"{") and lines[0].rstrip().endswith(b"}"):
                yield stamp, begun_as, lines.pop()
                name = b"" if name == begun_as else name
            begun_as = name if not lines else begun_as
            lines.append(line[5:].removeprefix(b" "))
        elif line.startswith(b"event:"):
            name = line[6:].strip()
        elif line.startswith(b"error:"):  # llama.cpp before its pull request 16109
            name = b"error"
            lines.append(line[6:])
        elif line.startswith(b":"):
            comment = line[1:].strip()
    data = b"\n".join(lines)
    if name == b"error" and not data.strip():  # a gateway that says why in a comment
        data = comment or b"no reason given"
    if name.lower() in _HEARTBEATS:
        return
    if data.strip() and not data.startswith(b":"):  # a comment that a gateway took for data
        yield stamp, name, data


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
    if prompt.place is not None:
        place = prompt.place
        fields |= {"session": place.session, "root": place.root, "session_turns": place.turns}
    response = decode(exchange.reads)
    if response.status:
        fields["status"] = response.status
        fields.update(_answer_fields(response))
    return RequestRecord(**{**fields, "error": exchange.error or fields["error"]})


def _answer_fields(response: Response) -> dict[str, Any]:
    if response.status != 200:
        return _refusal(response)
    try:
        return _stream_fields(response)
    except Exception as error:  # noqa: BLE001  # whatever an answer holds, the other requests are not lost
        return {"error": f"malformed answer: it cannot be read ({type(error).__name__})"}


def _refusal(response: Response) -> dict[str, Any]:
    if 300 <= response.status < 400:
        location = response.headers.get("location", "")
        return {
            "error": (
                f"HTTP status {response.status}: a redirect to {location[:200]!r}, "
                "which is not followed"
            )
        }
    body = b"".join(piece for _, piece in response.pieces).decode("utf-8", "replace")
    words = " ".join(body.split())[:_SHOWN_BYTES]
    return {"error": f"HTTP status {response.status}: {response.fault or words}"}


@dataclass(frozen=True, slots=True)
class _Seen:
    """A chunk with a choice, as far as it may carry tokens."""

    stamp: int
    written: bool
    tokens: int | None
    """Output tokens so far, where the chunk has usage."""


def _stream_fields(response: Response) -> dict[str, Any]:
    encoding = response.headers.get("content-encoding", "identity").lower()
    if encoding not in ("", "identity"):
        return {
            "error": (
                f"the answer is compressed ({encoding[:40]}), which nobody asked for: measure "
                "without the proxy that does it"
            )
        }
    fields: dict[str, Any] = {}
    seen: list[_Seen] = []
    done = said = False
    try:
        for stamp, name, data in events(response.pieces):
            said = True
            if data.strip() == b"[DONE]":
                done = True
                break
            chunk = chunk_of(name, data)
            complaint = chunk.complaint(name)
            if complaint is not None:
                fields["error"] = (
                    f"the server reported an error in the stream: {_message(complaint)}"
                )
                break
            _take(chunk, stamp, fields, seen)
        if response.fault and not done:
            raise ValueError(response.fault)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part)[:40] for part in first["loc"])
        reason = f"{place}: {first['msg']}" if place else first["msg"]
        fields["error"] = f"malformed chunk after {len(_stamps(seen)[0])} good ones: {reason}"
    except ValueError as error:
        fields["error"] = f"malformed chunk after {len(_stamps(seen)[0])} good ones: {error}"
    stamps, totals = _stamps(seen)
    fields["chunk_ns"] = tuple(stamps)
    fields["chunk_tokens"] = tuple(totals)
    if stamps:
        fields.update(first_token_ns=stamps[0], last_token_ns=stamps[-1])
    finish = fields.get("finish_reason")
    if "error" not in fields:
        if not said:
            fields["error"] = _no_stream(response)
        elif not done and finish is None:
            fields["error"] = "the stream ended without [DONE] or a finish reason"
        elif not stamps:
            fields["error"] = "the stream carried no token"
        elif finish is not None and finish.lower() not in FINISHED:
            fields["error"] = f"the answer ended with finish reason {_message(finish)!r}"
    return fields


def _no_stream(response: Response) -> str:
    body = b"".join(piece for _, piece in response.pieces)[:_SHOWN_BYTES]
    kind = response.headers.get("content-type", "")[:80] or "no content type"
    if not body.strip():
        return f"the answer is empty ({kind})"
    shown = " ".join(body.decode("utf-8", "replace").split())
    return f"the answer is no stream of events ({kind}): {shown}"


def _take(chunk: Chunk, stamp: int, fields: dict[str, Any], seen: list[_Seen]) -> None:
    if chunk.model is not None:
        fields["model"] = chunk.model
    if chunk.usage is not None:
        for name in ("prompt_tokens", "completion_tokens"):
            count = getattr(chunk.usage, name)
            if count or (count == 0 and name not in fields):  # some end with a usage of zeros
                fields[name] = count
        if chunk.usage.prompt_tokens_details is not None:
            fields["cached_tokens"] = chunk.usage.prompt_tokens_details.cached_tokens
    if chunk.metrics is not None:
        fields["engine"] = chunk.metrics.view()
    if not chunk.choices:
        return
    choice = chunk.choices[0]
    if choice.finish_reason:
        fields["finish_reason"] = choice.finish_reason
    tokens = chunk.usage.completion_tokens if chunk.usage is not None else None
    seen.append(_Seen(stamp, bool(choice.written()), tokens))


def _stamps(seen: Sequence[_Seen]) -> tuple[list[int], list[int]]:
    """Stamps of the chunks that carried tokens, and the output tokens after each, where they are
    told.

    Usage that runs along (``continuous_usage_stats``) decides: text may be empty in a chunk
    that carries tokens. Usage that comes once, at the end, carries none, and some servers send
    zeros until then: there the text decides.
    """
    stamps: list[int] = []
    totals: list[int] = []
    grown = 0
    for one in seen:
        if one.tokens is not None and one.tokens > max(totals[-1:], default=0):
            stamps.append(one.stamp)
            totals.append(one.tokens)
            grown += one.written
    written = [one for one in seen if one.written]
    told = sum(one.tokens is not None for one in seen)
    # One step up is the usage at the end, though it may be told twice there.
    runs = told > 1 and 2 * grown >= len(written) and (len(totals) > 1 or len(written) < 2)
    return (stamps, totals) if runs else ([one.stamp for one in written], [])


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
    texts: list[str] = []
    spoken: list[int] = []
    silent: list[int] = []
    claimed = 0
    try:
        for _, name, data in events(decode(exchange.reads).pieces):
            if data.strip() == b"[DONE]":
                break
            chunk = chunk_of(name, data)
            before = claimed
            if chunk.usage is not None:
                claimed = chunk.usage.completion_tokens or claimed
            if not chunk.choices:
                continue
            choice = chunk.choices[0]
            text = choice.written()
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


def _message(error: Any) -> str:
    text = error.get("message", error) if isinstance(error, dict) else error
    return " ".join(str(text).split())[:300]
