"""What a stream's chunks say, whichever endpoint streams them: the parts that we read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from pytest_gpubench.load.protocol import EngineView

_MOST_TOKENS = 10**12
_MOST_MS = 1e9
_LONGEST_NAME = 200


def _whole_number(value: object) -> object:
    """A count as a gateway may write it: 12.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


_Count = Annotated[int, BeforeValidator(_whole_number), Field(strict=True, ge=0, le=_MOST_TOKENS)]
"""A count without which the request is not known."""
TEXT_KEYS = (
    "content",
    "reasoning_content",
    "reasoning",
    "refusal",
    "tool_calls",
    "function_call",
)
"""Of a delta: what carries what the model wrote. Roles, names and what providers add do not."""
_NO_TEXT = frozenset({"id", "type", "index", "role"})


def _count_or_none(value: object) -> object:
    good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_TOKENS
    return value if good else None


def _milliseconds_or_none(value: object) -> object:
    good = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _MOST_MS
    return value if good else None


def _name_or_none(value: object) -> object:
    return value[:_LONGEST_NAME] if isinstance(value, str) and value else None


def _filled_or_none(value: object) -> object:
    """A map without the fields that are null; one that is empty says nothing."""
    if isinstance(value, dict):
        value = {name: field for name, field in value.items() if field is not None}
    return value or None


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
    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None
    prompt_tokens_details: Annotated[_PromptDetails | None, BeforeValidator(_map_or_none)] = None


class _Speculation(_View):
    num_spec_steps: _SideCount = None
    num_draft_tokens: _SideCount = None
    num_accepted_draft_tokens: _SideCount = None


class _Metrics(_View):
    """The engine's own numbers for one request, in milliseconds."""

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

    def written(self) -> str:
        """What the model wrote; some servers send reasoning under two names at once."""
        extra = self.model_extra or {}
        told = dict.fromkeys("".join(_strings(extra.get(key))) for key in TEXT_KEYS)
        return "".join(told)


class Choice(_View):
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None

    def written(self) -> str:
        """What the model wrote."""
        return (self.text or "") + (self.delta.written() if self.delta is not None else "")


class Chunk(_View):
    """The part of ``ChatCompletionChunk`` and ``Completion`` that we read.

    Not the OpenAI client's own types: validated, they refuse what engines add (finish reasons),
    unvalidated they cost ten times more.
    """

    model: _SideName = None
    choices: list[Choice] | None = None
    usage: Annotated[_Usage | None, BeforeValidator(_filled_or_none)] = None
    metrics: Annotated[_Metrics | None, BeforeValidator(_map_or_none)] = None
    error: Any = None
    object: Any = None
    message: Any = None
    detail: Any = None
    details: Any = None

    def complaint(self, event: bytes) -> Any:
        """What is wrong at the server, in any of the shapes in which servers say it; None:
        nothing."""
        if self.error:
            return self.error
        said = self.message or self.detail or self.details
        if event == b"error" or self.object == "error":
            return said or "no reason given"
        return said if self.choices is None else None


_SURROGATES = re.compile(
    rb"((?:\\\\)+|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
)
"""Pairs, and escaped backslashes, in group 1; else a half of a pair."""
_RESPONSE_TEXT = frozenset({
    "response.output_text.delta",
    "response.reasoning_text.delta",
    "response.reasoning_summary_text.delta",
    "response.refusal.delta",
    "response.function_call_arguments.delta",
})  # fmt: skip
"""Events of ``/v1/responses`` that carry what the model wrote."""
_RESPONSE = re.compile(rb'"type"\s*:\s*"response\.')
"""In a string these quotes would be escaped."""


class _ResponseUsage(_View):
    input_tokens: _Count | None = None
    output_tokens: _Count | None = None
    input_tokens_details: Annotated[_PromptDetails | None, BeforeValidator(_map_or_none)] = None


class _IncompleteDetails(_View):
    reason: str | None = None


class _ResponseBody(_View):
    model: _SideName = None
    status: str | None = None
    incomplete_details: Annotated[_IncompleteDetails | None, BeforeValidator(_map_or_none)] = None
    usage: Annotated[_ResponseUsage | None, BeforeValidator(_filled_or_none)] = None
    error: Any = None


class _ResponseEvent(_View):
    """The part of the events of ``/v1/responses`` that we read."""

    type: str
    delta: Any = None
    response: Annotated[_ResponseBody | None, BeforeValidator(_map_or_none)] = None

    def as_chunk(self) -> Chunk:
        """What it says, as a chunk of a chat completion says it."""
        if self.type in _RESPONSE_TEXT and isinstance(self.delta, str):
            return Chunk(choices=[Choice(text=self.delta)])
        body = self.response
        if self.type == "response.failed" or (body is not None and body.status == "failed"):
            return Chunk(error=(body and body.error) or "the response failed")
        if body is None or self.type not in ("response.completed", "response.incomplete"):
            return Chunk()
        why = body.incomplete_details.reason if body.incomplete_details is not None else None
        finish = "length" if why == "max_output_tokens" else why or "stop"
        usage = None
        if body.usage is not None:
            usage = _Usage(
                prompt_tokens=body.usage.input_tokens,
                completion_tokens=body.usage.output_tokens,
                prompt_tokens_details=body.usage.input_tokens_details,
            )
        return Chunk(model=body.model, choices=[Choice(finish_reason=finish)], usage=usage)


def chunk_of(name: bytes, data: bytes) -> Chunk:
    """The chunk of an event, whichever endpoint streams it.

    Raises:
        ValueError: if it is none.
    """
    if name == b"error" and not data.lstrip().startswith(b"{"):
        return Chunk(error=data.decode("utf-8", "replace"))
    is_response = name.startswith(b"response.") or (not name and _RESPONSE.search(data) is not None)
    if is_response:
        return _ResponseEvent.model_validate_json(_with_whole_characters(data)).as_chunk()
    return Chunk.model_validate_json(_with_whole_characters(data))


def _with_whole_characters(data: bytes) -> bytes:
    """JSON whose broken characters are U+FFFD: a server that cuts a token's bytes or a pair of
    surrogates leaves halves of them in two chunks, which count as any other."""
    if not data.isascii():
        data = data.decode("utf-8", "replace").encode()
    if b"\\u" in data:
        data = _SURROGATES.sub(lambda found: found[0] if found[1] else rb"\ufffd", data)
    return data


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
