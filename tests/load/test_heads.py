"""The quick way to read a stream's head says what the slow way says."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from pytest_gpubench.load import framing
from pytest_gpubench.load.framing import Framing, parse_head

NEVER = re.compile(rb"(?!)")
NAMES = st.sampled_from(
    [
        "Transfer-Encoding",
        "transfer-encoding",
        "x-transfer-encoding",
        "Content-Length",
        "Connection",
        "Date",
        "TE",
        "x",
        "",
        "a b",
        "é",
    ]
)
VALUES = st.sampled_from(
    [
        "chunked",
        "Chunked",
        "gzip, chunked",
        "chunkedly",
        "identity",
        "12",
        "close",
        "Close",
        "keep-alive",
        "",
        " ",
        "a:b",
    ]
)
SPACE = st.sampled_from(["", " ", "\t", "  "])
LINES = st.lists(
    st.tuples(NAMES, SPACE, VALUES, SPACE).map(lambda it: f"{it[0]}:{it[1]}{it[2]}{it[3]}"),
    max_size=5,
)
FIRST = st.sampled_from(
    [
        "HTTP/1.1 200 OK",
        "HTTP/1.1 503",
        "HTTP/1.0 200 OK",
        "HTTP/1.1 20 OK",
        "HTTP/2 200",
        "HTTP/1.1 2000 OK",
        "x",
        "",
    ]
)
BODY = st.sampled_from(
    [
        b"",
        b"5\r\ndata:",
        b"\r\n\r\n",
        b"connection: close\r\n\r\n",
        b"transfer-encoding: chunked\r\n\r\n",
    ]
)


def outcome(data: bytes) -> Framing | str | None:
    try:
        return parse_head(data)
    except ValueError as error:
        return str(error)


@given(first=FIRST, lines=LINES, body=BODY, cut=st.integers(0, 200))
@example(
    first="HTTP/1.1 200 OK",
    lines=["transfer-encoding: chunked", "Transfer-Encoding: identity"],
    body=b"",
    cut=200,
)
@example(
    first="HTTP/1.1 200 OK",
    lines=["transfer-encoding: chunked", "connection: close"],
    body=b"",
    cut=200,
)
def test_both_ways_agree(first: str, lines: list[str], body: bytes, cut: int) -> None:
    data = ("\r\n".join([first, *lines]) + "\r\n\r\n").encode() + body
    for part in (data, data[:cut]):
        quick = outcome(part)
        kept: Any = framing._STREAM
        framing._STREAM = NEVER
        try:
            slow = outcome(part)
        finally:
            framing._STREAM = kept
        assert quick == slow


@given(st.binary(max_size=300))
def test_nothing_but_a_value_error_comes_of_any_bytes(data: bytes) -> None:
    outcome(data)
    outcome(b"HTTP/1.1 200 OK\r\n" + data)
