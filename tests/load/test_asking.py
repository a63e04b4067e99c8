"""Questions to a server: whole answers, or a sentence why there is none."""

from __future__ import annotations

import asyncio

import pytest

from pytest_gpubench.load.asking import Asker, NotAnsweredError
from pytest_gpubench.load.framing import Response as Answer
from pytest_gpubench.load.loopback.http_server import Connection, Request, Response
from pytest_gpubench.load.loopback.server import LoopbackServer


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
