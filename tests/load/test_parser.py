from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gpubench.load.framing import decode, parse_head
from pytest_gpubench.load.openai_wire import WireRequest
from pytest_gpubench.load.parser import events, record_of
from pytest_gpubench.load.prompts import Prompt
from pytest_gpubench.load.protocol import RequestRecord
from pytest_gpubench.load.transport import Exchange

REQUEST = WireRequest(Prompt(4, "measured", "hi", 10, 3), "id-4", b"")
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(tokens: int | None, text: str = "x", finish: str | None = None, **delta: Any) -> bytes:
    value: dict[str, Any] = {
        "id": "c",
        "choices": [{"index": 0, "delta": {"content": text, **delta}, "finish_reason": finish}],
    }
    if tokens is not None:
        value["usage"] = {
            "prompt_tokens": 10,
            "completion_tokens": tokens,
            "total_tokens": 10 + tokens,
        }
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def usage(tokens: int) -> bytes:
    value = {
        "choices": [],
        "usage": {"prompt_tokens": 10, "completion_tokens": tokens, "total_tokens": 10 + tokens},
    }
    return b"data: " + json.dumps(value).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def framed(*payloads: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(payload), payload) for payload in payloads)


def parsed(*reads: bytes, error: str = "") -> RequestRecord:
    exchange = Exchange(
        4,
        due_ns=100,
        send_ns=110,
        end_ns=9999,
        reads=[(1000 * (i + 1), read) for i, read in enumerate(reads)],
    )
    exchange.error = error
    return record_of(REQUEST, exchange)


def test_tokens_are_stamped_with_the_read_that_brought_them() -> None:
    record = parsed(
        HEAD,
        framed(chunk(0, "", role="assistant"), chunk(1)),
        framed(chunk(2)),
        framed(chunk(3, finish="length"), usage(3), DONE) + b"0\r\n\r\n",
    )
    assert record.ok
    assert record.chunk_ns == (2000, 3000, 4000)
    assert record.chunk_tokens == (1, 2, 3)
    assert (record.first_token_ns, record.last_token_ns) == (2000, 4000)
    assert (record.prompt_tokens, record.completion_tokens, record.finish_reason) == (
        10,
        3,
        "length",
    )
    assert (record.index, record.phase, record.asked_isl, record.asked_osl, record.status) == (
        4,
        "measured",
        10,
        3,
        200,
    )


def test_token_without_text_counts_and_role_does_not() -> None:
    record = parsed(
        HEAD + framed(chunk(0, "", role="assistant")),
        framed(chunk(1, "")),
        framed(chunk(3), usage(3), DONE) + b"0\r\n\r\n",
    )
    assert record.chunk_ns == (2000, 3000)
    assert record.chunk_tokens == (1, 3)


def test_without_continuous_usage_text_decides_and_tokens_per_chunk_stay_unknown() -> None:
    reasoning = chunk(None, "", reasoning="hm")
    record = parsed(
        HEAD + framed(chunk(None, "", role="assistant")),
        framed(reasoning),
        framed(chunk(None), usage(2), DONE),
    )
    assert record.ok
    assert record.chunk_ns == (2000, 3000)
    assert record.chunk_tokens == ()
    assert record.completion_tokens == 2


def test_event_over_two_reads_is_stamped_with_the_second() -> None:
    body = framed(chunk(1), chunk(2), DONE) + b"0\r\n\r\n"
    record = parsed(HEAD + body[:20], body[20:])
    assert record.chunk_ns == (2000, 2000)
    assert record.ok


@pytest.mark.parametrize(
    ("reads", "reason"),
    [
        (
            [HEAD + framed(chunk(1)), framed(b'data: {"choices": [\n\n', DONE)],
            "malformed chunk after 1 good ones",
        ),
        ([HEAD + framed(b"data: [1]\n\n", DONE)], "malformed chunk after 0 good ones"),
        ([HEAD + framed(chunk(1)) + b"zz\r\n"], "malformed chunk after 1 good ones"),
        ([HEAD + framed(chunk(1))], "the stream ended without [DONE]"),
        ([HEAD + framed(chunk(0, "", role="assistant"), DONE)], "the stream carried no token"),
        (
            [HEAD + framed(b'data: {"error": {"message": "engine  dead"}}\n\n', DONE)],
            "the server reported an error in the stream: engine dead",
        ),
        ([b"HTTP/1.1 429 Too Many\r\ncontent-length: 4\r\n\r\nslow"], "HTTP status 429: slow"),
        ([b"HTTP/1.1 503 Service Unavailable\r\n\r\n", b"go\naway"], "HTTP status 503: go away"),
    ],
)
def test_every_failure_has_its_reason(reads: list[bytes], reason: str) -> None:
    assert parsed(*reads).error.startswith(reason)


def test_the_transports_own_reason_wins_and_tokens_are_kept() -> None:
    record = parsed(HEAD + framed(chunk(1)), framed(chunk(2)), error="stalled: no data for 1 s")
    assert record.error == "stalled: no data for 1 s"
    assert record.completion_tokens == 2
    assert parsed(error="no connection: refused").status is None
    assert (
        parsed(b"SSH-2.0\r\n\r\n", error="the server's answer is not HTTP").error
        == "the server's answer is not HTTP"
    )


@given(cuts=st.lists(st.integers(1, 400), max_size=12), chunked=st.booleans())
def test_events_do_not_depend_on_how_the_network_cuts_them(cuts: list[int], chunked: bool) -> None:
    payloads = [chunk(1), chunk(2, "é"), chunk(3), usage(3), DONE]
    body = framed(*payloads) + b"0\r\n\r\n" if chunked else b"".join(payloads)
    data = (HEAD if chunked else b"HTTP/1.1 200 OK\r\n\r\n") + body
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    reads = [(end, data[start:end]) for start, end in pairwise(edges)]
    found = list(events(decode(reads).pieces))
    assert [event for _, _, event in found] == [payload[6:-2] for payload in payloads]
    # the stamp is the offset up to which the network had delivered: never before the event was
    # complete
    for stamp, _, event in found:
        assert stamp >= data.find(event) + len(event)


@given(st.binary(max_size=200))
def test_garbage_after_the_head_never_escapes_as_an_exception(garbage: bytes) -> None:
    assert parsed(HEAD + garbage).error


def test_parse_head_reads_framing() -> None:
    framing = parse_head(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\nConnection: Close\r\n\r\nbody")
    assert framing is not None
    assert (framing.status, framing.length, framing.chunked, framing.keep_alive) == (
        200,
        12,
        False,
        False,
    )
    assert parse_head(b"HTTP/1.1 200 OK\r\nCont") is None
    with pytest.raises(ValueError, match="not an HTTP/1 response"):
        parse_head(b"SSH-2.0-OpenSSH\r\n")


def test_records_survive_json() -> None:
    record = parsed(HEAD + framed(chunk(1)), framed(chunk(2), DONE))
    assert RequestRecord.from_json(json.loads(json.dumps(record.to_json()))) == record
