"""Questions to servers that misbehave: one limit for the whole answer, no redirect, bounded sizes,
never an exception."""

from __future__ import annotations

import socket
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gpubench.dialects.engine_facts import whole_number
from pytest_gpubench.engines import http_probe
from tests.raw_server import always, answer, drip, raw_server

BEGINNINGS = {
    "body": b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n",
    "chunked body": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1000\r\n",
    "header": b"HTTP/1.1 200 OK\r\nx: ",
    "status line": b"HTTP/1.1 200 ",
    "nothing": b"",
}


@pytest.mark.parametrize("beginning", BEGINNINGS.values(), ids=list(BEGINNINGS))
def test_the_limit_is_that_of_the_whole_answer(beginning: bytes) -> None:
    begun = time.monotonic()
    with raw_server(drip(beginning)) as url:
        found = http_probe.get(url, timeout=0.5)
    assert (found.status, str(found)) == (None, "no whole answer within 0.5 s")
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("elsewhere", [True, False])
def test_no_redirect_is_followed(status: int, elsewhere: bool) -> None:
    keys: list[bytes] = []
    with raw_server(lambda connected, head: keys.append(head)) as other:
        target = f"{other}/health" if elsewhere else "/health"
        with raw_server(always(answer(b"", f"{status} Moved", f"Location: {target}"))) as url:
            found = http_probe.get(f"{url}/health", "sk-secret", 5.0)
    assert keys == []
    assert found.redirected
    assert str(found) == f"HTTP status {status}, a redirect to {target}, which is not followed"


def test_an_answer_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_probe, "MAX_ANSWER", 100_000)
    for head in (
        b"content-length: 10000000",
        b"transfer-encoding: chunked\r\n\r\nfffffff",
        b"x: y",
    ):

        def flood(connected: socket.socket, _head: bytes, head: bytes = head) -> None:
            connected.sendall(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n")
            while True:
                connected.sendall(b"y" * 65536)

        with raw_server(flood) as url:
            found = http_probe.get(url, timeout=30.0)
        assert (found.status, found.hopeless) == (None, True)


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\ncut",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-6\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-1\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 500 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000 + b"\r\n\r\n",
        b"",
    ],
)
def test_what_is_no_answer_is_none(data: bytes) -> None:
    with raw_server(always(data)) as url:
        assert http_probe.get(url, "key", 5.0).status is None


def test_a_key_that_cannot_be_sent_is_not_shown() -> None:
    with raw_server(always(answer(b""))) as url:
        for key in ("sk-\n-line", "sk-\N{SNOWMAN}"):
            found = http_probe.get(url, key, 5.0)
            assert found.status is None
            assert "sk-" not in str(found)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"data": 7}', "says 7 for `data`"),
        (b'{"data": null}', "says null for `data`"),
        (b"{}", "lacks `data`"),
        (b"[]", "no JSON object"),
        (b"7", "no JSON object"),
        (b"", "no JSON object"),
        (b"\xff\xfe", "no JSON object"),
        (b'{"data": []}', "names none"),
        (b'{"data": [{}, 3, null, [[]], {"id": 5}, {"id": ""}, {"id": {"a": 1}}]}', "names none"),
        (b'{"data": ' + b"[" * 100_000, "no JSON object"),
        (b'{"data": ' + b"9" * 5000 + b"}", "no JSON object"),
        (b'{"data": "\\u001b[2J' + b"x" * 5000 + b'"}', "…"),
    ],
)
def test_a_list_of_models_that_is_none_says_why(body: bytes, words: str) -> None:
    with raw_server(always(answer(body))) as url:
        found = http_probe.models(url, None, 10.0)
        who = http_probe.identity(url, "", "ours", 10.0)
    assert not found.entries
    assert words in found.problem
    assert len(str(found)) < 400
    assert "\x1b" not in str(found)
    assert (who.who, words in who.said) == ("wrong", True)


def test_models_keep_the_servers_order() -> None:
    entries = ", ".join(f'{{"id": "m{number}"}}' for number in range(10_000))
    with raw_server(always(answer(f'{{"data": [{entries}]}}'.encode()))) as url:
        found = http_probe.models(url, None, 30.0)
    assert list(found.entries)[:2] == ["m0", "m1"]
    assert len(found.entries) == 10_000


@given(
    st.one_of(
        st.integers(), st.floats(), st.text(), st.booleans(), st.none(), st.lists(st.integers())
    )
)
def test_a_count_is_one_or_none(value: object) -> None:
    found = whole_number(value)
    assert found is None or (type(found) is int and 0 <= found <= 10**15)


def test_counts_of_servers() -> None:
    assert whole_number("128") == whole_number(128) == 128
    for value in (True, -1, 1e999, "9" * 5000, 10**400, "²", "1.5"):
        assert whole_number(value) is None
