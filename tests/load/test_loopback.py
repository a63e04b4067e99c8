from __future__ import annotations

import json
import resource
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gpubench.load.loopback.http_server import (
    Connection,
    Handler,
    Request,
    Response,
    arrival_of,
)
from pytest_gpubench.load.loopback.server import LoopbackServer, word_tokens, words_text
from pytest_gpubench.load.loopback.stream import Counters, Fault, Schedule

FAST = Schedule(ttft=0.02, token_time=0.002)


MESSAGES: Any = [{"role": "user", "content": "one two"}]


def connect(server: LoopbackServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="secret", max_retries=0)


def ask(server: LoopbackServer, **extra: Any) -> Any:
    with connect(server) as client:
        return client.chat.completions.create(
            model="loopback", messages=MESSAGES, max_completion_tokens=8, **extra
        )


def stream(server: LoopbackServer, **extra: Any) -> list[Any]:
    with connect(server) as client:
        create: Any = client.chat.completions.create
        return list(
            create(
                model="loopback", messages=MESSAGES, max_completion_tokens=8, stream=True, **extra
            )
        )


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as response:
        text: str = response.read().decode()
        return text


@given(tokens=st.integers(1, 300), per_chunk=st.integers(1, 9))
def test_schedule_sends_every_token_once_at_its_time(tokens: int, per_chunk: int) -> None:
    chunks = Schedule(0.05, 0.01, per_chunk).chunks(tokens)
    totals = [total for _, total in chunks]
    assert totals[0] == 1
    assert totals[-1] == tokens
    assert all(0 < later - earlier <= per_chunk for earlier, later in pairwise(totals))
    assert all(offset == pytest.approx(0.05 + (total - 1) * 0.01) for offset, total in chunks)


@given(st.lists(st.text("abcdefghijklmnopqrstuvwxyz", min_size=1), max_size=20))
def test_toy_tokenizer_keeps_its_count_through_detokenize(words: list[str]) -> None:
    tokens = word_tokens(" ".join(words))
    assert len(tokens) == sum(-(-len(word) // 3) for word in words)
    assert word_tokens(words_text(tokens)) == tokens


def test_stream_has_the_shape_of_vllm() -> None:
    with LoopbackServer(Schedule(0.02, 0.002, 3)).in_thread() as server:
        chunks = stream(
            server, stream_options={"include_usage": True, "continuous_usage_stats": True}
        )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.usage.completion_tokens for chunk in chunks] == [0, 1, 4, 7, 8, 8]
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [
        None,
        None,
        None,
        None,
        "length",
    ]
    assert chunks[-1].choices == []
    truth = server.truth[0]
    assert truth.chunk_totals == [1, 4, 7, 8]
    assert truth.ttft > 0.018
    assert server.counters.generation_tokens == 8
    assert server.counters.prompt_tokens == chunks[-1].usage.prompt_tokens
    assert server.counters.running == 0


def test_usage_comes_only_when_asked_for() -> None:
    with LoopbackServer(FAST).in_thread() as server:
        chunks = stream(server)
    assert all(chunk.usage is None for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "length"


def test_answers_without_stream() -> None:
    with LoopbackServer(FAST).in_thread() as server:
        answer = ask(server)
    assert answer.usage.completion_tokens == 8
    assert answer.choices[0].finish_reason == "length"


def test_eos_ends_only_requests_that_do_not_ignore_it() -> None:
    with LoopbackServer(Schedule(0.01, 0.001, eos_after=3)).in_thread() as server:
        assert ask(server).usage.completion_tokens == 3
        assert ask(server, extra_body={"ignore_eos": True}).usage.completion_tokens == 8


def test_api_key_is_needed_under_v1_only() -> None:
    with LoopbackServer(FAST, api_key="other").in_thread() as server:
        with pytest.raises(openai.AuthenticationError):
            ask(server)
        assert get(f"{server.url}/health") == ""
    with LoopbackServer(FAST, api_key="secret").in_thread() as server:
        assert ask(server).usage.completion_tokens == 8


def test_metrics_page_counts_drafts() -> None:
    counters = Counters()
    counters.count_draft(3, 2)
    counters.count_draft(3, 0)
    page = counters.metrics_text("m", speculative=True)
    assert 'vllm:spec_decode_num_drafts_total{engine="0",model_name="m"} 2.0' in page
    assert 'per_pos_total{engine="0",model_name="m",position="1"} 1.0' in page
    assert "spec_decode" not in counters.metrics_text("m", speculative=False)


def test_routes_can_be_added_and_replaced() -> None:
    async def later(request: Request) -> Response:
        return Response.of_json({"path": request.path})

    def version(request: Request) -> Response:
        return Response.of_json({"version": "9"})

    routes: dict[tuple[str, str], Handler] = {
        ("GET", "/version"): version,
        ("GET", "/later"): later,
    }
    with LoopbackServer(FAST, routes=routes).in_thread() as server:
        assert json.loads(get(f"{server.url}/version")) == {"version": "9"}
        assert json.loads(get(f"{server.url}/later")) == {"path": "/later"}
        with pytest.raises(urllib.error.HTTPError) as found:
            get(f"{server.url}/nothing")
        assert found.value.code == 404
        found.value.close()


def test_health_says_when_the_engine_is_dead() -> None:
    with LoopbackServer(FAST).in_thread() as server:
        server.healthy = False
        with pytest.raises(urllib.error.HTTPError) as found:
            get(f"{server.url}/health")
        assert found.value.code == 503
        found.value.close()


@pytest.mark.parametrize(
    ("body", "status"),
    [({"model": "other"}, 404), ({"model": "loopback", "prompt": "a b c", "max_tokens": 100}, 400)],
)
def test_bad_requests_are_refused(body: dict[str, Any], status: int) -> None:
    with LoopbackServer(FAST, max_model_len=50).in_thread() as server:
        request = urllib.request.Request(f"{server.url}/v1/completions", json.dumps(body).encode())
        with pytest.raises(urllib.error.HTTPError) as found:
            urllib.request.urlopen(request, timeout=60)
        assert found.value.code == status
        found.value.close()


def test_faults_hit_the_request_they_are_meant_for() -> None:
    faults = {1: Fault("status", status=429)}
    with LoopbackServer(FAST, faults=faults.get).in_thread() as server:
        assert ask(server).usage.completion_tokens == 8
        with pytest.raises(openai.RateLimitError):
            ask(server)
        assert ask(server).usage.completion_tokens == 8


def test_client_that_goes_away_is_counted_as_aborted() -> None:
    with LoopbackServer(Schedule(0.01, 0.05)).in_thread() as server:
        with connect(server) as client:
            create: Any = client.chat.completions.create
            answer = create(
                model="loopback", messages=MESSAGES, max_completion_tokens=8, stream=True
            )
            next(iter(answer))
            answer.close()
        limit = time.monotonic() + 60
        while server.counters.running and time.monotonic() < limit:
            get(f"{server.url}/health")
        assert server.counters.finished == {"abort": 1}


def test_taken_port_is_an_error() -> None:
    with (
        LoopbackServer(FAST).in_thread() as server,
        pytest.raises(OSError),
        LoopbackServer(FAST, port=server.port).in_thread(),
    ):
        pass


def test_runs_as_a_process_until_sigterm() -> None:
    argv = [sys.executable, "-m", "pytest_gpubench.load.loopback", "--ttft", "0.01"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert get(f"{url}/health") == ""
        process.terminate()
        assert process.wait(120) == 0


def raw_request(path: str, body: bytes = b"") -> bytes:
    method = "POST" if body else "GET"
    return (
        f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode() + body


def dial(server: LoopbackServer) -> socket.socket:
    return socket.create_connection((server.host, server.port), timeout=60)


def wait_until(reached: Callable[[], bool]) -> None:
    limit = time.monotonic() + 60
    while not reached() and time.monotonic() < limit:
        time.sleep(0.002)
    assert reached()


LOOPS = pytest.mark.parametrize("loop", ["uvloop", "asyncio"])


def choose_loop(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if loop == "asyncio":
        monkeypatch.setitem(sys.modules, "uvloop", None)
    else:
        pytest.importorskip(loop)


@LOOPS
def test_arrival_is_when_the_bytes_came_not_when_they_were_read(
    loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose_loop(loop, monkeypatch)
    begun, release = threading.Event(), threading.Event()
    ends: list[int] = []

    def block(_request: Request) -> Response:
        begun.set()
        release.wait(60)
        ends.append(time.monotonic_ns())
        return Response()

    body = b'{"model":"loopback","prompt":"a","max_tokens":1}'
    with LoopbackServer(FAST, routes={("GET", "/block"): block}).in_thread() as server:
        # the first of a host may come before the kernel has begun to stamp
        for attempt in range(50):
            begun.clear()
            release.clear()
            with dial(server) as blocking, dial(server) as asking:
                blocking.sendall(raw_request("/block"))
                assert begun.wait(60)
                sent = time.monotonic_ns()
                asking.sendall(raw_request("/v1/completions", body))
                time.sleep(0.02)
                release.set()
                assert asking.recv(1)
            assert server.truth[attempt].arrival_ns > sent - 1_000_000
            if server.truth[attempt].arrival_ns < ends[attempt] - 15_000_000:
                return
    pytest.fail("no request had the time of its arrival")


def control(age_ns: int) -> list[tuple[int, int, bytes]]:
    """What the kernel says of bytes that came so long ago."""
    stamp = divmod(time.time_ns() - age_ns, 1_000_000_000)
    return [(socket.SOL_SOCKET, 35, struct.pack("@ll", *stamp))]


def test_arrival_is_the_kernels_stamp() -> None:
    before = time.monotonic_ns()
    arrival = arrival_of(control(5_000_000_000))
    assert before - 5_100_000_000 < arrival <= time.monotonic_ns() - 5_000_000_000


@pytest.mark.parametrize(
    "notes",
    [
        lambda: [],
        lambda: control(-10_000_000_000),  # the clock was set back in between
        lambda: control(3600_000_000_000),  # or forward
        lambda: [(socket.SOL_SOCKET, 35, b"short")],
        lambda: [(socket.SOL_SOCKET, 36, control(1_000_000)[0][2])],
        lambda: [(socket.IPPROTO_TCP, 35, control(1_000_000)[0][2])],
    ],
)
def test_arrival_without_a_usable_stamp_is_the_read(
    notes: Callable[[], list[tuple[int, int, bytes]]],
) -> None:
    found, before = notes(), time.monotonic_ns()
    assert before <= arrival_of(found) <= time.monotonic_ns()


@LOOPS
def test_all_that_was_sent_arrives_before_a_drop(
    loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose_loop(loop, monkeypatch)
    answer = b"0123456789abcdef" * (1 << 19)

    def drop(request: Request) -> None:
        request.connection.send_raw(answer[:-1])
        request.connection.send_raw(answer[-1:])
        request.connection.drop()
        request.connection.send_raw(b"not this")

    def half_close(request: Request) -> None:
        request.connection.send_raw(answer)
        request.connection.half_close()
        request.connection.send_raw(b"not this")

    routes: dict[tuple[str, str], Handler] = {
        ("GET", "/drop"): drop,
        ("GET", "/half"): half_close,
    }
    with LoopbackServer(FAST, routes=routes).in_thread() as server:
        for path in ("/drop", "/half"):
            with dial(server) as client:
                client.sendall(raw_request(path))
                got = bytearray()
                while data := client.recv(1 << 20):
                    got += data
                assert got == answer
                if path == "/half":
                    assert server.connections
                else:
                    wait_until(lambda: not server.connections)
        wait_until(lambda: not server.connections)


@LOOPS
@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("unsent", [True, False])
def test_lost_client_is_told_once_and_writes_to_it_are_nothing(
    loop: str, reset: bool, unsent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose_loop(loop, monkeypatch)
    taken: list[Connection] = []
    lost: list[str] = []

    def take(request: Request) -> None:
        request.connection.on_lost = lambda: lost.append("lost")
        if unsent:
            request.connection.send_raw(b"x" * (1 << 23))
        taken.append(request.connection)

    with LoopbackServer(FAST, routes={("GET", "/take"): take}).in_thread() as server:
        with dial(server) as client:
            client.sendall(raw_request("/take"))
            wait_until(lambda: bool(taken))
            assert taken[0].open
            if reset:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wait_until(lambda: not taken[0].open)
        assert not server.connections
        taken[0].send_raw(b"x")
        taken[0].half_close()
        taken[0].drop()
        assert get(f"{server.url}/health") == ""
    assert lost == ["lost"]


def test_requests_in_pieces_and_together_are_answered_in_their_order() -> None:
    big = json.dumps({"model": "loopback", "prompt": "word " * 60_000}).encode()
    wire = raw_request("/tokenize", big) + raw_request("/version") + raw_request("/nothing")
    with LoopbackServer(FAST).in_thread() as server, dial(server) as client:
        for start in range(0, len(wire), 100_001):
            client.sendall(wire[start : start + 100_001])
        client.shutdown(socket.SHUT_WR)
        got = bytearray()
        while data := client.recv(1 << 20):
            got += data
    assert [part[:3] for part in got.split(b"HTTP/1.1 ")[1:]] == [b"200", b"200", b"404"]


def test_connections_wait_while_no_descriptor_is_free() -> None:
    argv = [sys.executable, "-m", "pytest_gpubench.load.loopback"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        _, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (4, hard))
        host, _, port = url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=0.3) as client:
            client.sendall(raw_request("/version"))
            with pytest.raises(TimeoutError):
                client.recv(1)
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (256, hard))
            client.settimeout(60)
            assert client.recv(100).startswith(b"HTTP/1.1 200")
        process.terminate()
        assert process.wait(120) == 0
