"""Streams as real servers and gateways send them; each from the public issue that is named.

Truth: three tokens, in the reads at 2000, 3000 and 4000.
"""

from __future__ import annotations

import json
import resource
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from pytest_gpubench.load.load_run import run_load
from pytest_gpubench.load.loopback.http_server import STREAM_HEAD, Request
from pytest_gpubench.load.protocol import LoadPlan
from pytest_gpubench.load.transport import have_descriptors
from pytest_gpubench.model.failures import BenchmarkError
from tests.load.test_odd_answers import WORKLOAD, odd_server
from tests.load.test_parser import DONE, HEAD, framed, parsed

END = b"0\r\n\r\n"
USAGE = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}


def sse(value: Any) -> bytes:
    return f"data: {json.dumps(value)}\n\n".encode()


def token(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


ROLE = token({"role": "assistant", "content": ""})
WORDS = [token({"content": word}) for word in ("a", "b", "c")]
LAST = [token({}, "length"), {"choices": [], "usage": USAGE}]


def reads(
    before: list[bytes], words: list[bytes], after: list[bytes], end: bytes = DONE
) -> tuple[bytes, ...]:
    """A read with the head and what comes before, one for each word, the rest with the last."""
    first = HEAD + framed(*before)
    *early, last = (framed(word) for word in words)
    return (first, *early, last + framed(*after, end) + END)


def _events(values: Sequence[Any]) -> list[bytes]:
    return [one if isinstance(one, bytes) else sse(one) for one in values]


def stream(
    before: Sequence[Any] = (ROLE,),
    words: Sequence[Any] = WORDS,
    after: Sequence[Any] = LAST,
    end: bytes = DONE,
) -> tuple[bytes, ...]:
    return reads(_events(before), _events(words), _events(after), end)


def with_line_ends(end: bytes, after: bytes = b"") -> tuple[bytes, ...]:
    """``end`` for each line feed, or ``after`` for both that end an event."""
    old, new = (b"\n\n", after) if after else (b"\n", end)
    before, words, last = (
        [sse(one).replace(old, new) for one in part] for part in ([ROLE], WORDS, LAST)
    )
    return reads(before, words, last, DONE.replace(old, new))


def _over_lines() -> tuple[list[bytes], list[bytes], list[bytes]]:
    def pretty(value: Any) -> bytes:
        lines = json.dumps(value, indent=1).splitlines()
        return "".join(f"data: {line}\n" for line in lines).encode() + b"\n"

    return [pretty(ROLE)], [pretty(one) for one in WORDS], [pretty(one) for one in LAST]


FILTERED = {"prompt_index": 0, "content_filter_results": {"hate": {"filtered": False}}}
MEASURED = {
    "plain": stream(),
    "semantic-kernel#3650, an empty first chunk with filters": stream(
        [{"id": "", "choices": [], "model": "", "prompt_filter_results": [FILTERED]}, ROLE]
    ),
    "autogen#6465, a choice without a delta": stream(
        after=[{"choices": [{"index": 0, "finish_reason": None}], "usage": None}, *LAST]
    ),
    "opencode#42918, empty choices and a bill": stream(
        [{"choices": [], "model": ""}, ROLE], after=[*LAST, {"choices": [], "cost": "0"}]
    ),
    "ollama#4357, sglang#3912: finish reason is empty": stream(
        words=[token({"content": word}, "") for word in "abc"]
    ),
    "GenieX#1243, empty to the end": stream(
        words=[token({"content": word}, "") for word in "abc"],
        after=[{"choices": [], "usage": USAGE}],
    ),
    "litellm-proxy#19, no finish reason in most chunks": stream(
        words=[{"choices": [{"index": 0, "delta": {"content": word}}]} for word in "abc"]
    ),
    "vllm#35705, the last token comes with the finish reason": stream(
        words=[*WORDS[:2], token({"content": "c"}, "length")],
        after=[{"choices": [], "usage": USAGE}],
    ),
    "routstr#543, usage with the last token": stream(
        words=[*WORDS[:2], token({"content": "c"}, "length", usage=USAGE)], after=[]
    ),
    "sglang#23954, reasoning_content beside null": stream(
        words=[token({"role": None, "content": None, "reasoning_content": w}) for w in "abc"]
    ),
    "evalscope#1463, reasoning": stream(words=[token({"reasoning": word}) for word in "abc"]),
    "vllm#43739, reasoning and content in one": stream(
        words=[*WORDS[:2], token({"reasoning": "c", "content": "d"})]
    ),
    "omlx#1011, empty chunks as heartbeats": stream([ROLE, token({}), token({"content": None})]),
    "llm-gateway#2053, comments as data": stream([b"data: : OPENROUTER PROCESSING\n\n", ROLE]),
    "llmgateway#2334, a comment with one line feed": stream([b": ping\n", ROLE]),
    "langchaingo#1366, ids and retries": stream([b"id: 3\nretry: 100\n\n", b":\n\n", ROLE]),
    "litellm: provider fields with the role": stream(
        [token({"role": "assistant", "content": "", "provider_specific_fields": {"a": None}})]
    ),
    "usage that is zero until the end": stream(
        words=[token({"content": word}, usage={**USAGE, "completion_tokens": 0}) for word in "abc"]
    ),
    "null fields in usage": stream(
        words=[
            token({"content": word}, usage={"prompt_tokens": None, "completion_tokens": None})
            for word in "abc"
        ]
    ),
    "no [DONE] after a finish reason": stream(end=b": bye\n\n"),
    "one line feed after every event": with_line_ends(b"\n", after=b"\n"),
    "one carriage return and line feed after every event": with_line_ends(b"\r\n", after=b"\r\n"),
    "genai-bench#159, the last events run together": stream(
        after=[LAST[0], sse(LAST[1])[:-1]], end=DONE
    ),
    "JSON over several lines": reads(*_over_lines()),
    "a heartbeat that is no JSON": stream([ROLE, b"event: keepalive\ndata: keepalive\n\n"]),
    "counts with a decimal point": stream(
        after=[LAST[0], {"choices": [], "usage": {"prompt_tokens": 10.0, "completion_tokens": 3.0}}]
    ),
    "litellm#37087, zeros after the usage": stream(
        words=[*WORDS[:2], token({"content": "c"}, "length", usage=USAGE)],
        after=[token({}, usage={"prompt_tokens": 0, "completion_tokens": 0})],
    ),
    "half of a pair of surrogates": stream(
        words=[
            WORDS[0],
            b'data: {"choices": [{"index": 0, "delta": {"content": "\\ud83d"}}]}\n\n',
            b'data: {"choices": [{"index": 0, "delta": {"content": "\\ude00"}}]}\n\n',
        ]
    ),
    "half of a character": stream(
        words=[
            *WORDS[:2],
            b'data: {"choices": [{"index": 0, "delta": {"content": "\xe2\x82"}}]}\n\n',
        ]
    ),
    "CRLF": with_line_ends(b"\r\n"),
    "CR": with_line_ends(b"\r"),
}


@pytest.mark.parametrize("name", MEASURED)
def test_a_dialect_is_measured_as_any_other(name: str) -> None:
    record = parsed(*MEASURED[name])
    assert record.error == ""
    assert record.chunk_ns == (2000, 3000, 4000)
    assert (record.prompt_tokens, record.completion_tokens) == (10, 3)


@pytest.mark.parametrize(
    ("last", "words"),
    [
        ({"error": {"message": "quota exceeded"}}, "quota exceeded"),  # rocketmq-dashboard#2178
        ({"error": "the model has crashed"}, "the model has crashed"),  # ollama, errors.mdx
        ({"object": "error", "message": "out of memory", "code": 500}, "out of memory"),
        (b'event: error\ndata: {"message": "failed", "code": 422}\n\n', "failed"),  # TGI
        (b'event: error\ndata: {"code": 422, "details": "no logprobs"}\n\n', "no logprobs"),
        (b'error: {"code": 500, "message": "slot is gone"}\n\n', "slot is gone"),  # llama.cpp#16104
        (b'event: error\ndata: {"type": "error"}\n\n', "no reason given"),
        ({"detail": "Internal Server Error"}, "Internal Server Error"),
        (b"event: error\n: stream is gone\n\n", "stream is gone"),  # Dynamo
        (b"event: error\ndata: out of slots\n\n", "out of slots"),
    ],
)
def test_an_error_in_the_stream_is_told_in_its_words(last: Any, words: str) -> None:
    record = parsed(*stream(after=[last]))
    assert record.error == f"the server reported an error in the stream: {words}"


@pytest.mark.parametrize(
    ("head", "body", "words"),
    [
        (b"content-type: application/json", b'{"message": "overloaded"}', "(application/json): {"),
        (b"content-type: text/html", b"<html>Sign in", "(text/html): <html>Sign in"),
        (b"x: y", b"", "the answer is empty (no content type)"),
        (b"content-encoding: gzip", b"\x1f\x8b", "the answer is compressed (gzip)"),
    ],
)
def test_what_came_instead_of_a_stream_is_shown(head: bytes, body: bytes, words: str) -> None:
    length = b"content-length: %d" % len(body)
    record = parsed(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n" + length + b"\r\n\r\n" + body)
    assert words in record.error


def test_two_chunks_that_a_server_ran_together_are_malformed() -> None:
    """opencode#25858, GLM-5#66."""
    joined = b'data: {"choices": [{"index": 0, "del' + sse(WORDS[1])
    assert "malformed chunk after 1 good ones" in parsed(*stream(words=[WORDS[0], joined])).error


def response(kind: str, **fields: Any) -> bytes:
    data = json.dumps({"type": f"response.{kind}", **fields})
    return f"event: response.{kind}\ndata: {data}\n\n".encode()


FULL = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}, "model": "m",
        "usage": {"input_tokens": 10, "output_tokens": 3, "total_tokens": 13}}  # fmt: skip
SPOKEN = [response("output_text.delta", delta=word) for word in "abc"]


@pytest.mark.parametrize("named", [True, False])
def test_responses_are_measured_as_completions_are(named: bool) -> None:
    before = [response("created", response={"status": "in_progress"}), response("in_progress")]
    after = [response("output_text.done", text="abc"), response("completed", response=FULL)]
    if not named:
        before, spoken, after = (
            [event.partition(b"\n")[2] for event in part] for part in (before, SPOKEN, after)
        )
    else:
        spoken = SPOKEN
    record = parsed(*reads(before, spoken, after, b": end\n\n"))
    assert record.error == ""
    assert record.chunk_ns == (2000, 3000, 4000)
    assert (record.prompt_tokens, record.completion_tokens) == (10, 3)
    assert (record.finish_reason, record.model) == ("length", "m")


def test_a_response_that_fails_says_why() -> None:
    failed = response("failed", response={"error": {"message": "no slot", "code": "server_error"}})
    error = parsed(*reads([], SPOKEN, [failed])).error
    assert error == "the server reported an error in the stream: no slot"
    filtered = {**FULL, "incomplete_details": {"reason": "content_filter"}}
    error = parsed(*reads([], SPOKEN, [response("incomplete", response=filtered)])).error
    assert error == "the answer ended with finish reason 'content_filter'"

    lost = {"status": "failed", "error": {"message": "no slot"}}
    error = parsed(*reads([], SPOKEN, [response("completed", response=lost)])).error
    assert error == "the server reported an error in the stream: no slot"


def test_events_of_a_response_are_known_wherever_their_type_stands() -> None:
    spoken = [
        f'data: {{"sequence_number": 1, "type": "response.output_text.delta", "delta": "{word}"}}'
        "\n\n".encode()
        for word in "abc"
    ]
    done = {"response": {**FULL, "usage": {"input_tokens": None, "output_tokens": 3}}}
    record = parsed(*reads([], spoken, [sse({**done, "type": "response.completed"})], b": x\n\n"))
    assert record.error == ""
    assert record.chunk_ns == (2000, 3000, 4000)
    assert (record.prompt_tokens, record.completion_tokens) == (None, 3)


@pytest.mark.parametrize(
    "finish", ["eos", "eos_token", "stop_sequence", "max_tokens", "MAX_TOKENS", "STOP", "end_turn"]
)
def test_other_servers_words_for_a_good_end(finish: str) -> None:
    """Together (vespa#33327), TGI, and what gateways pass on of Gemini and Anthropic."""
    record = parsed(*stream(after=[token({}, finish), LAST[1]]))
    assert record.error == ""
    assert record.finish_reason == finish


def test_a_usage_that_is_told_twice_is_no_usage_that_runs_along() -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 2}
    last = [token({"content": "b"}, "length", usage=usage)]
    record = parsed(*stream(words=[WORDS[0], *last], after=[token({}, usage=usage)]))
    assert record.chunk_ns == (2000, 3000)
    assert record.first_token_ns == 2000


def body_of(*events: Any) -> bytes:
    return b"".join(framed(sse(one)) for one in events)


WHOLE = body_of(
    ROLE, *[token({"content": "a"}) for _ in range(4)], token({}, "length"),
    {"choices": [], "usage": {"prompt_tokens": 16, "completion_tokens": 4}},
) + framed(DONE)  # fmt: skip


@pytest.mark.parametrize(
    "data",
    [
        STREAM_HEAD.replace(b"\r\n\r\n", b"\r\ntrailer: x\r\n\r\n") + WHOLE + b"0\r\nx: y\r\n\r\n",
        STREAM_HEAD + WHOLE + b"000000\r\n\r\n",
        STREAM_HEAD + WHOLE + b"0;last=1\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" + STREAM_HEAD + WHOLE + END,
        STREAM_HEAD.replace(b"chunked", b"Chunked") + WHOLE + END,
    ],
    ids=["trailers", "padded", "extension", "early hints", "other case"],
)
def test_legal_framing_ends_at_once(data: bytes) -> None:
    with odd_server([data], whole=True).in_thread() as server:
        result = run_load(LoadPlan(server.url, "loopback", WORKLOAD, read_timeout=60.0))
    assert [record.error for record in result.records] == ["", "", ""]


def test_the_responses_api_is_asked_in_its_own_words() -> None:
    asked: list[dict[str, Any]] = []
    usage = {"usage": {"input_tokens": 16, "output_tokens": 4}}
    events = [response("output_text.delta", delta="a") for _ in range(4)]
    events.append(response("completed", response={**FULL, **usage}))

    def answer(request: Request) -> None:
        asked.append(json.loads(request.body))
        request.connection.send_raw(STREAM_HEAD + framed(*events) + END)
        request.connection.end_raw()

    server = odd_server([])
    server.routes["POST", "/v1/responses"] = answer
    with server.in_thread() as running:
        plan = LoadPlan(running.url, "loopback", replace(WORKLOAD, api="responses"))
        result = run_load(plan)
    assert [record.error for record in result.records] == ["", "", ""]
    assert {(one["max_output_tokens"], one["ignore_eos"], one["store"]) for one in asked} == {
        (record.asked_osl, True, False) for record in result.records
    }
    assert [message["role"] for message in asked[0]["input"]] == ["user"]


def test_a_stream_that_stays_open_after_its_last_word_is_named() -> None:
    with odd_server([STREAM_HEAD + WHOLE]).in_thread() as server:
        result = run_load(LoadPlan(server.url, "loopback", WORKLOAD, read_timeout=60.0))
    (error,) = [record.error for record in result.records if record.error]
    assert error == "the answer did not end after [DONE]: its framing lacks the last chunk"


def test_the_clients_own_limit_of_open_files_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [(64, 100)]
    monkeypatch.setattr(resource, "getrlimit", lambda _which: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _which, wanted: limits.append(wanted))
    have_descriptors(60)
    assert limits[-1] == (92, 100)
    with pytest.raises(BenchmarkError, match=r"limit of open files is 100; 200 .* need 232"):
        have_descriptors(200)
