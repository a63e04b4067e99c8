"""Questions to a server: whole answers, or a sentence why there is none."""

from __future__ import annotations

import asyncio

import pytest

from pytest_gpubench.load.asking import Asker, NotAnsweredError, gives_a_token
from pytest_gpubench.load.framing import Response as Answer
from pytest_gpubench.load.load_run import ask_again
from pytest_gpubench.load.loopback.http_server import Connection, Request, Response
from pytest_gpubench.load.loopback.server import LoopbackServer
from pytest_gpubench.model.failures import BenchmarkError, Failure


def ask(
    url: str, *bodies: bytes, key: str = "", most: int = 1000, keeps: bool = True
) -> list[Answer]:
    async def all_at_once() -> list[Answer]:
        asker = Asker(url, key, 5.0, keeps_connections=keeps)
        try:
            return await asyncio.gather(*(asker.post("/ask", body, most) for body in bodies))
        finally:
            asker.close()

    return asyncio.run(all_at_once())


def test_questions_are_answered_side_by_side_below_the_path_of_the_address() -> None:
    seen: list[Request] = []

    def echo(request: Request) -> Response:
        seen.append(request)
        return Response(request.body[::-1])

    with LoopbackServer(routes={("POST", "/below/ask"): echo}).in_thread() as server:
        answers = ask(
            f"{server.url}/below", *(b"%d!" % number for number in range(10, 30)), key="k"
        )
    assert [b"".join(part for _, part in one.pieces) for one in answers] == [
        b"!%s" % str(number)[::-1].encode() for number in range(10, 30)
    ]
    assert {one.headers["authorization"] for one in seen} == {"Bearer k"}
    assert {one.headers["host"] for one in seen} == {server.url.removeprefix("http://")}


@pytest.mark.parametrize("keeps", [True, False])
def test_a_connection_is_used_again_where_the_engine_keeps_them(keeps: bool) -> None:
    used: list[Connection] = []

    def note(request: Request) -> Response:
        used.append(request.connection)
        return Response(b"{}")

    async def one_after_another(url: str) -> None:
        asker = Asker(url, "", 5.0, keeps_connections=keeps)
        for _ in range(3):
            await asker.post("/ask", b"", 1000)
        asker.close()

    with LoopbackServer(routes={("POST", "/ask"): note}).in_thread() as server:
        asyncio.run(one_after_another(server.url))
    assert len(set(used)) == (1 if keeps else 3)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-6\r\nabc", "malformed answer"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n" + b"x" * 2000, "does not end"),
        (b"hello\r\n\r\n", "malformed answer"),
        (b"", "the connection was closed before any answer"),
    ],
)
def test_what_is_no_answer_is_a_sentence(raw: bytes, words: str) -> None:
    def odd(request: Request) -> None:
        if raw:
            request.connection.send_raw(raw)  # and keeps the connection open
        else:
            request.connection.drop()

    odd_one = LoopbackServer(routes={("POST", "/ask"): odd})
    with odd_one.in_thread() as server, pytest.raises(NotAnsweredError, match=words):
        ask(server.url, b"{}")


def test_nobody_there() -> None:
    with LoopbackServer().in_thread() as server:
        url = server.url
    with pytest.raises(NotAnsweredError, match="no connection: "):
        ask(url, b"{}")


@pytest.mark.parametrize(
    ("status", "body", "lives"),
    [
        (200, b'{"choices": [{"text": "x", "finish_reason": "length"}]}', True),
        (200, b'{"choices": []}', False),
        (200, b"ok", False),
        (500, b'{"error": "EngineDeadError"}', False),
    ],
)
def test_a_token_proves_that_a_server_lives(status: int, body: bytes, lives: bool) -> None:
    asked: list[Request] = []

    def answer(request: Request) -> Response:
        asked.append(request)
        return Response(body, status)

    routes = {("POST", "/v1/completions"): answer}
    with LoopbackServer(routes=routes).in_thread() as server:
        assert gives_a_token(server.url, "k", "m") is lives
    assert b'"max_tokens": 1' in asked[0].body
    assert not gives_a_token("http://127.0.0.1:9", "k", "m")


def test_a_server_that_is_proven_to_live_is_not_waited_for() -> None:
    looks: list[None] = []
    ask_again(lambda: looks.append(None), grace=3600.0, well=lambda: True)
    assert len(looks) == 2
    dead = Failure("engine-died", "engine", "It died.")
    answers = iter([None, dead])
    with pytest.raises(BenchmarkError, match="It died"):
        ask_again(lambda: next(answers), grace=3600.0, well=lambda: True)
