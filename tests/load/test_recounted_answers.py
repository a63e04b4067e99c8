"""Answers that are tokenized again after the run: which, what of a stream is text, and how a count
is made."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gpubench.load.load_run import run_load
from pytest_gpubench.load.loopback.http_server import Request, Response
from pytest_gpubench.load.loopback.server import LoopbackServer, count_word_tokens
from pytest_gpubench.load.loopback.stream import Fault, Schedule
from pytest_gpubench.load.parser import Answer, answer_of
from pytest_gpubench.load.protocol import LoadPlan, LoadResult
from pytest_gpubench.load.tokenization import SAMPLE, recount, sample, tokens_of
from pytest_gpubench.load.transport import Exchange
from pytest_gpubench.model.workload import Workload

WORKLOAD = Workload(isl=32, osl=30, conc=2, num_prompts=40, num_warmups=2)


def _exchange(*chunks: dict[str, Any]) -> Exchange:
    events = (
        b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)
        + b"data: [DONE]\n\n"
    )
    head = (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n"
        % len(events)
    )
    return Exchange(0, 0, reads=[(1, head), (2, events)])


def _chunk(
    delta: dict[str, Any] | str, total: int | None, finish: str | None = None
) -> dict[str, Any]:
    part = {"text": delta} if isinstance(delta, str) else {"delta": delta}
    usage = {"usage": {"prompt_tokens": 5, "completion_tokens": total}} if total is not None else {}
    return {"choices": [{"index": 0, "finish_reason": finish, **part}], **usage}


def test_content_reasoning_and_tool_calls_are_text_and_nothing_is_text_twice() -> None:
    answer = answer_of(
        _exchange(
            _chunk({"role": "assistant", "content": ""}, 0),
            _chunk({"reasoning": "hm ", "reasoning_content": "hm "}, 1),
            _chunk({"content": "one two"}, 3),
            _chunk(
                {
                    "tool_calls": [
                        {
                            "index": 0,
                            "id": "c1",
                            "type": "function",
                            "function": {"name": "f", "arguments": "{}"},
                        }
                    ]
                },
                5,
            ),
        )
    )
    assert answer == Answer("hm one twof{}", 5, 0)


def test_a_chunk_without_text_speaks_for_as_many_tokens_as_chunks_usually_carry() -> None:
    single = answer_of(
        _exchange(_chunk("a ", 1), _chunk("", 2), _chunk("b", 3), _chunk("", 9, "length"))
    )
    assert single == Answer("a b", 9, 2), "six tokens in one silent chunk are not believed"
    drafted = answer_of(_exchange(_chunk("a b c", 3), _chunk("", 6), _chunk("d e f", 9)))
    assert drafted == Answer("a b cd e f", 9, 3)


def test_without_continuous_usage_silent_chunks_count_one_each() -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 4}}
    chunks = (
        _chunk({"role": "assistant", "content": ""}, None),
        _chunk({"content": "a"}, None),
        _chunk({"content": ""}, None),
    )
    assert answer_of(_exchange(*chunks, _chunk({}, None, "stop"), usage)) == Answer("a", 4, 1)


def test_what_cannot_be_read_is_no_answer() -> None:
    assert answer_of(Exchange(0, 0, reads=[(1, b"no http")])) is None
    assert answer_of(_exchange({"choices": 5})) is None
    assert answer_of(_exchange(_chunk("a", None))) is None


def _count(answer: Answer, tokenizer: Any = count_word_tokens) -> int:
    async def ask(text: str) -> int:
        return int(tokenizer(text))

    return asyncio.run(tokens_of(answer, ask))


@pytest.mark.parametrize(
    ("text", "claimed", "counted"),
    [
        ("x x ", 7, 2),
        ("one two six", 3, 3),
        ("", 5, 0),
        ("!!!!!!!!!!!!", 12, 12),  # a model that repeats one token; the tokenizer knows longer ones
        ("ha" * 9, 9, 9),
        (
            "abcdefgh" * 20,
            20,
            22,
        ),  # each repetition may be one token, though the tokenizer makes more of it
        (" tok" * 30, 10, 30),  # but words are words
        (" tok" * 8, 16, 8),  # repeated words are not counted twice
        ("abcdefghijkl", 12, 4),  # a letter a token is more than any tokenizer makes of a word
        ("one two" + "\ufffd" * 30, 4, 4),
        ("\ud800 lone", 3, 3),
    ],
)
def test_doubts_are_to_the_claims_favour_and_lies_are_not(
    text: str, claimed: int, counted: int
) -> None:
    assert _count(Answer(text, claimed, 0)) == counted


@given(st.lists(st.sampled_from(["one", "two", "six", "a", "-"]), min_size=1, max_size=40))
def test_an_honest_count_stays_as_it_is(words: list[str]) -> None:
    assert _count(Answer(" ".join(words), len(words), 0)) == len(words)


@given(st.integers(0, 200), st.integers(1, 40))
def test_a_sample_is_spread_over_the_run_and_the_same_again(number: int, count: int) -> None:
    numbers = list(range(0, 3 * number, 3))
    chosen = sample(numbers, count, "seed")
    assert chosen == sample(numbers, count, "seed")
    assert len(chosen) == len(set(chosen)) == min(number, count)
    assert set(chosen) <= set(numbers)
    assert chosen == sorted(chosen)
    gaps = [later - earlier for earlier, later in itertools.pairwise(chosen)]
    assert not gaps or max(gaps) <= 3 * 2 * -(-number // count)


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer(Schedule(ttft=0.002, token_time=0.0002)).in_thread() as running:
        yield running


def _run(server: LoopbackServer, workers: int = 1, **change: Any) -> LoadResult:
    workload = replace(WORKLOAD, workers=workers, **change)
    return run_load(LoadPlan(server.url, "loopback", workload))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_sample_of_an_honest_run_agrees(server: LoopbackServer, workers: int) -> None:
    result = _run(server, workers)
    again = [record for record in result.records if record.text_tokens is not None]
    assert len(again) == SAMPLE
    assert {record.phase for record in again} == {"measured"}
    assert all(record.text_tokens == record.completion_tokens for record in again)
    assert not result.client.recount
    assert all(
        type(record).from_json(json.loads(json.dumps(record.to_json()))) == record
        for record in again
    )


def test_text_that_is_shorter_than_the_claim_is_seen(server: LoopbackServer) -> None:
    server.faults = lambda _index: Fault("letters")
    again = [record for record in _run(server).records if record.text_tokens is not None]
    assert len(again) == SAMPLE
    assert all(record.text_tokens == -(-(record.completion_tokens or 0) // 3) for record in again)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (Response(b"{}", 404), "/tokenize answered 404"),
        (Response(b"[]"), "/tokenize answered without a count"),
        (Response(b'{"count": "7"}'), "/tokenize answered without a count"),
        (Response(b'{"count": -1}'), "/tokenize answered without a count"),
        (Response(b"\xff"), "/tokenize answered without a count"),
        (None, "/tokenize did not answer (the connection was closed before any answer)"),
    ],
)
def test_a_server_that_cannot_count_is_no_failure(
    server: LoopbackServer, answer: Response | None, why: str
) -> None:
    def tokenize(request: Request) -> Response | None:
        if answer is None:
            request.connection.drop()
        return answer

    server.routes["POST", "/tokenize"] = tokenize
    plan = LoadPlan(server.url, "loopback", WORKLOAD)
    assert asyncio.run(recount(plan, "", {3: Answer("one", 1, 0)})) == ({}, why)


def test_a_server_that_does_not_answer_is_not_waited_for(
    server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_gpubench.load.tokenization.LIMIT_S", 0.2)
    server.routes["POST", "/tokenize"] = lambda _request: None
    plan = LoadPlan(server.url, "loopback", WORKLOAD)
    counts, why = asyncio.run(recount(plan, "", {3: Answer("one", 1, 0)}))
    assert not counts
    assert "/tokenize" in why
