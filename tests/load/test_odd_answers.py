"""Answers that no server should give: each request fails with a name, and the others of its case
are kept."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from typing import Any

import psutil
import pytest

from pytest_gpubench.load import workers
from pytest_gpubench.load.framing import decode, parse_head
from pytest_gpubench.load.load_run import run_load
from pytest_gpubench.load.loopback.http_server import STREAM_HEAD, Request, Response, chunk
from pytest_gpubench.load.loopback.server import LoopbackServer
from pytest_gpubench.load.loopback.stream import Schedule
from pytest_gpubench.load.protocol import LoadPlan, Progress, RequestRecord
from pytest_gpubench.model.failures import BenchmarkError
from pytest_gpubench.model.workload import Workload
from tests.load.test_parser import DONE, HEAD, framed, parsed
from tests.load.test_parser import chunk as token
from tests.raw_server import answer, raw_server

END = b"0\r\n\r\n"
WORKLOAD = Workload(isl=16, osl=4, conc=1, num_prompts=3, num_warmups=0)


def ended(
    extra: str = "",
    usage: str = '{"prompt_tokens": 10, "completion_tokens": 3}',
    finish: str = '"length"',
) -> RequestRecord:
    """The record of a whole answer of three tokens whose last chunk is as given."""
    last = (
        f'data: {{"choices": [{{"delta": {{}}, "finish_reason": {finish}}}], "usage": '
        f"{usage}{extra}}}\n\n"
    )
    return parsed(HEAD, framed(token(1), token(2), token(3)), framed(last.encode(), DONE) + END)


@pytest.mark.parametrize(
    "body",
    [
        b"-6\r\nabcdefgh\r\n" + END,
        b"-3\r\nabcdef\r\n" + END,
        b"+3\r\nabc\r\n" + END,
        b"0x3\r\nabc\r\n" + END,
        b"1_0\r\nabc\r\n" + END,
        b" 3\r\nabc\r\n" + END,
        b"zz\r\nabc\r\n" + END,
        b"\r\nabc\r\n" + END,
        b"f" * 400 + b"\r\nabc\r\n" + END,
        b"3\r\nabcdef\r\n" + END,
        b"3\nabc\n0\n\n",
        b"1" * 5000,
    ],
)
def test_a_chunk_that_is_none_is_a_malformed_answer(body: bytes) -> None:
    """Whether it is found when the answer has ended, or while it is silent."""
    assert decode([(1, HEAD), (2, body)]).fault.startswith("malformed answer")
    assert "malformed answer" in parsed(HEAD + body).error


@pytest.mark.parametrize("cut", range(1, 30))
def test_an_answer_that_is_not_whole_yet_is_not_malformed(cut: int) -> None:
    body = b"3;name=value\r\nabc\r\nA \r\n0123456789\r\n" + END
    answer_so_far = decode([(1, HEAD), (2, body[:cut])])
    assert (answer_so_far.fault, answer_so_far.whole) == ("", False)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 20x OK\r\n\r\n",
        b"HTTP/1.1 99999 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: " + b"9" * 5000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000,
        b"SSH-2.0-OpenSSH\r\n\r\n",
    ],
)
def test_a_head_that_is_none_is_a_malformed_answer(head: bytes) -> None:
    with pytest.raises(ValueError, match="malformed answer"):
        parse_head(head)


@pytest.mark.parametrize("reason", ["abort", "error", "content_filter", "halted"])
def test_an_answer_that_ends_otherwise_has_failed(reason: str) -> None:
    assert (
        ended(finish=json.dumps(reason)).error == f"the answer ended with finish reason {reason!r}"
    )


@pytest.mark.parametrize("reason", ["stop", "length", "tool_calls", "function_call"])
def test_an_answer_that_ends_well_has_not(reason: str) -> None:
    assert ended(finish=json.dumps(reason)).ok


@pytest.mark.parametrize(
    "count",
    ['"3"', "1e999", "-3", "true", "3.5", "[3]", "9" * 400, "NaN", '{"a": 1}'],
    ids=lambda text: str(text)[:9],
)
def test_a_usage_that_is_no_count_fails_its_request(count: str) -> None:
    for usage in (
        f'{{"prompt_tokens": {count}, "completion_tokens": 3}}',
        f'{{"prompt_tokens": 10, "completion_tokens": {count}}}',
    ):
        record = ended(usage=usage)
        assert record.error.startswith("malformed chunk after 3 good ones: ")
        json.dumps(record.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    "metrics",
    [
        '"none"',
        "7",
        "[]",
        "null",
        '{"queue_time_ms": 1e999, "generation_time_ms": -1e999, "time_to_first_token_ms": -5}',
        '{"queue_time_ms": "1", "generation_time_ms": [1], "time_to_first_token_ms": true}',
        '{"speculative_decoding": 7}',
        '{"speculative_decoding": {"num_spec_steps": "3", "num_draft_tokens": 1e999, '
        '"num_accepted_draft_tokens": -1}}',
        '{"queue_time_ms": ' + "9" * 400 + "}",
    ],
)
def test_metrics_of_one_request_that_are_none_are_dropped(metrics: str) -> None:
    record = ended(f', "metrics": {metrics}')
    assert record.ok
    view = record.engine
    assert view is None or {
        view.queue,
        view.ttft,
        view.generation,
        view.drafts,
        view.draft_tokens,
    } == {None}
    json.dumps(record.to_json(), allow_nan=False)


def test_what_stands_beside_the_counts_is_dropped_too() -> None:
    for details in (
        '"x"',
        "[]",
        '{"cached_tokens": "5"}',
        '{"cached_tokens": -1}',
        '{"cached_tokens": 1e999}',
    ):
        record = ended(
            usage=(
                '{"prompt_tokens": 10, "completion_tokens": 3, "prompt_tokens_details": '
                f"{details}}}"
            )
        )
        assert (record.ok, record.cached_tokens) == (True, None)


def test_a_redirect_is_named_and_not_followed() -> None:
    record = parsed(answer(b"", "307 Temporary Redirect", "Location: http://elsewhere/v1"))
    assert (
        record.error
        == "HTTP status 307: a redirect to 'http://elsewhere/v1', which is not followed"
    )


def odd_server(answers: list[bytes], *, whole: bool = False, **options: Any) -> LoopbackServer:
    """A loopback server that gives these bytes first, one per completion, and then answers as it
    should. ``whole``: they are whole answers, the next request may follow on the connection."""
    server = LoopbackServer(Schedule(ttft=0.02, token_time=0.002), **options)
    complete = server.routes["POST", "/v1/chat/completions"]
    left = list(answers)

    def odd(request: Request) -> Response | None:
        if not left:
            found = complete(request)
            assert found is None or isinstance(found, Response)
            return found
        request.connection.send_raw(left.pop(0))
        if whole:
            request.connection.end_raw()
        return None

    server.routes["POST", "/v1/chat/completions"] = odd
    return server


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (STREAM_HEAD + b"-6\r\nabc", "malformed answer: Invalid character in chunk size"),
        (
            STREAM_HEAD + chunk(b"data: x\n\n")[:-2] + b"xy",
            "malformed answer: Expected LF after chunk data",
        ),
        (b"hello\r\n", "malformed answer: not an HTTP/1 response"),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n",
            "malformed answer: Invalid character in Content-Length",
        ),
        (STREAM_HEAD + chunk(b": " + b"y" * 2**21), "the answer does not end: more than 1 MiB"),
    ],
)
def test_a_broken_answer_ends_at_once_and_the_others_are_kept(data: bytes, words: str) -> None:
    """The connection stays open, as that of an engine that has lost its way: nobody waits for its
    silence to end."""
    with odd_server([data]).in_thread() as server:
        result = run_load(LoadPlan(server.url, "loopback", WORKLOAD, read_timeout=1000.0))
    assert [record.error for record in result.records if record.error] == [words]
    assert len(result.records) == 3


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"count": 1e999, "tokens": []}', "without a count"),
        (b'{"count": "3"}', "without a count"),
        (b'{"count": true}', "without a count"),
        (b'{"count": -3}', "without a count"),
        (b'{"count": ' + b"9" * 5000 + b"}", "without a count"),
        (b"[" * 100_000, "without a count"),
        (b"\xff", "without a count"),
    ],
)
def test_a_count_of_tokens_that_is_none_is_a_sentence(body: bytes, words: str) -> None:
    odd = LoopbackServer(routes={("POST", "/tokenize"): lambda _request: Response(body)})
    with odd.in_thread() as server, pytest.raises(BenchmarkError, match=words) as found:
        run_load(LoadPlan(server.url, "loopback", WORKLOAD))
    assert found.value.failure.cause == "tokenize-failed"


@pytest.mark.parametrize("count", [30_000_001, 2])
def test_an_answer_far_longer_than_any_count_is_refused_at_once(count: int) -> None:
    body = b'{"count": %d, "tokens": [%s1]}' % (count, b"1, " * 1_000_000)
    odd = LoopbackServer(routes={("POST", "/tokenize"): lambda _request: Response(body)})
    with odd.in_thread() as server, pytest.raises(BenchmarkError, match="more than") as found:
        run_load(LoadPlan(server.url, "loopback", WORKLOAD))
    assert found.value.failure.failure_class == "engine"


def test_tokenizing_follows_no_redirect() -> None:
    keys: list[bytes] = []

    def keep(connected: socket.socket, head: bytes) -> None:
        keys.append(head)

    with raw_server(keep) as other:
        redirect = Response(b"", 307, headers={"location": f"{other}/tokenize"})
        odd = LoopbackServer(routes={("POST", "/tokenize"): lambda _request: redirect})
        words = f"a redirect to '{other}/tokenize' that is not followed"
        with odd.in_thread() as server, pytest.raises(BenchmarkError, match=words):
            run_load(LoadPlan(server.url, "loopback", WORKLOAD), api_key="sk-secret")
    assert keys == []


@pytest.mark.parametrize("stage", ["prompts", "measured"])
def test_a_halted_worker_is_named(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "HALTED_S", 0.5)
    halted: list[psutil.Process] = []

    def halt(progress: Progress) -> None:
        if progress.stage == stage and not halted:
            halted.extend(
                child
                for child in psutil.Process().children()
                if "pytest_gpubench.load.worker" in child.cmdline()
            )
            for child in halted:
                child.suspend()

    workload = replace(WORKLOAD, num_prompts=200)
    with (
        LoopbackServer(Schedule(ttft=5.0)).in_thread() as server,
        pytest.raises(BenchmarkError) as found,
    ):
        run_load(LoadPlan(server.url, "loopback", workload), on_progress=halt)
    failure = found.value.failure
    assert (failure.cause, failure.failure_class) == ("load-worker-stopped", "client")
    assert failure.summary.startswith(
        f"the load worker stopped while it {workers._DOING[stage]}: its process (pid "
    )
    assert not any(process.is_running() for process in halted)


def test_a_worker_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "PREPARING_S", 1.0)
    monkeypatch.setattr(workers, "SILENCE_S", 1.0)
    monkeypatch.setattr(workers.Worker, "_read_messages", lambda _worker: None)
    with (
        LoopbackServer(Schedule(ttft=30.0)).in_thread() as server,
        pytest.raises(BenchmarkError) as found,
    ):
        run_load(LoadPlan(server.url, "loopback", WORKLOAD))
    assert "nothing was heard of its process" in found.value.failure.summary
