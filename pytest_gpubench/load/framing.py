"""HTTP/1's framing of an answer: its head quickly, while the clock runs; all of it by httptools,
once it has stopped or where an answer does not end as usual."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import httptools

MALFORMED = "malformed answer"
"""Begins the sentence about an answer that breaks HTTP's framing."""
MAX_HEAD = 64 * 2**10
_HEADER = rb"[!-9;-~]+:[^\r\n]*\r\n"
_STREAM = re.compile(
    rb"HTTP/1\.1 (2\d\d)(?: [^\r\n]*)?\r\n(?:%b)*?"
    rb"(?i:transfer-encoding):[ \t]*(?i:chunked)\r\n(?:%b)*\r\n" % (_HEADER, _HEADER)
)
_CHUNKED_END = b"\r\n0\r\n\r\n"
_ODD_END = re.compile(rb"\n0+[ \t]*(?:;[^\r\n]*)?\r\n(?:%b)*\r\n\Z" % _HEADER)
"""A last chunk as RFC 9112 allows it, too: with more zeros, an extension, trailers."""
_LONGEST_END = 4096
_READS_OF_AN_END = 16
_SWITCHING = 101


@dataclass(frozen=True, slots=True)
class Framing:
    """What the head of a response says about its body."""

    status: int
    head_size: int
    """Bytes up to and including the empty line, those of informational heads before it
    included."""
    chunked: bool
    length: int | None
    """None: not given; the body then ends with the connection unless it is chunked."""
    keep_alive: bool


@dataclass(frozen=True, slots=True)
class Response:
    """A response as far as it has come."""

    status: int
    """0: its head is not whole."""
    headers: dict[str, str]
    """By name in lower case."""
    pieces: tuple[tuple[int, bytes], ...]
    """The body without transfer coding: (stamp of the read that brought the piece, bytes)."""
    whole: bool
    """Whether its framing says that it has ended; a body that ends with the connection never
    has."""
    fault: str = ""
    """How it breaks HTTP's framing; empty: it does not, so far."""


@dataclass(slots=True)
class _Messages:
    """httptools' callbacks; informational responses (1xx) come before the one that counts."""

    parser: httptools.HttpResponseParser | None = None
    stamp: int = 0
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    pieces: list[tuple[int, bytes]] = field(default_factory=list)
    headed: bool = False
    whole: bool = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").strip().lower()] = value.decode("latin-1").strip()

    def on_headers_complete(self) -> None:
        status = self.parser.get_status_code() if self.parser is not None else 0
        if 100 <= status < 200 and status != _SWITCHING:
            self.headers.clear()
        else:
            self.status, self.headed = status, True

    def on_body(self, body: bytes) -> None:
        self.pieces.append((self.stamp, body))

    def on_message_complete(self) -> None:
        self.whole = self.headed


def _parser() -> tuple[httptools.HttpResponseParser, _Messages]:
    messages = _Messages()
    parser = messages.parser = httptools.HttpResponseParser(messages)
    # Sloppy and unambiguous: both a length and chunks (RFC 9112, 6.3: the chunks count), and sizes
    # padded with spaces, as old servers reserve room for them.
    parser.set_dangerous_leniencies(
        lenient_chunked_length=True, lenient_spaces_after_chunk_size=True
    )
    return parser, messages


def decode(reads: Sequence[tuple[int, bytes]]) -> Response:
    """An answer from its reads, each with its stamp."""
    parser, messages = _parser()
    fault = ""
    try:
        for messages.stamp, data in reads:
            parser.feed_data(data)
            if messages.whole:
                break
    except httptools.HttpParserUpgrade:
        fault = f"{MALFORMED}: it changes to another protocol"
    except httptools.HttpParserError as error:
        if not messages.whole:  # else it is what follows the answer, which nobody asked for
            fault = f"{MALFORMED}: {str(error) or type(error).__name__}"
    return Response(
        messages.status, messages.headers, tuple(messages.pieces), messages.whole, fault
    )


def parse_head(data: bytes) -> Framing | None:
    """The framing of a response, or None while its head is incomplete.

    Raises:
        ValueError: if this is no HTTP/1 response.
    """
    # A stream's head comes with its first token, often many at once: one expression is a quarter of
    # the time, and that is error.
    stream = _STREAM.match(data)
    if stream is not None:
        head = data[: stream.end()].lower()
        if (
            head.count(b"\ntransfer-encoding:") == 1
            and b"\nconnection:" not in head
            and b"\ncontent-length:" not in head
        ):
            return Framing(int(stream[1]), stream.end(), True, None, True)
    start = 0
    while (end := data.find(b"\r\n\r\n", start)) >= 0:
        found = _one_head(data[start : end + 4], end + 4)
        if found is not None:
            return found
        start = end + 4
    if len(data) - start > MAX_HEAD:
        raise ValueError(f"{MALFORMED}: its head has more than {MAX_HEAD // 2**10} KiB")
    if not b"HTTP/1.".startswith(data[start : start + 7]):
        raise ValueError(f"{MALFORMED}: not an HTTP/1 response")
    return None


def _one_head(head: bytes, end: int) -> Framing | None:
    """None: of an informational response, another head follows."""
    parser, messages = _parser()
    try:
        parser.feed_data(head)
    except httptools.HttpParserError as error:
        raise ValueError(f"{MALFORMED}: {str(error) or type(error).__name__}") from None
    if not messages.headed:
        return None
    length = messages.headers.get("content-length")
    chunked = messages.headers.get("transfer-encoding", "").lower().endswith("chunked")
    return Framing(
        messages.status,
        end,
        chunked,
        int(length) if length and not chunked else None,
        parser.should_keep_alive(),
    )


def ends_here(data: bytes, reads: Sequence[tuple[int, bytes]]) -> bool:
    """Whether a chunked answer ends with this read, the last of ``reads``.

    A stream ends where a read ends with the last chunk: nothing is pipelined, and no chunk is
    parsed while the clock runs. An unusual end is looked at closely, and no other read.
    """
    if len(data) < len(_CHUNKED_END):  # the terminator may be spread over the last reads
        data = b"".join(read for _, read in reads[-_READS_OF_AN_END:])
    if data.endswith(_CHUNKED_END):
        return True
    if not data.endswith(b"\r\n\r\n"):
        return False
    tail = b"".join(read for _, read in reads[-_READS_OF_AN_END:])[-_LONGEST_END:]
    return _ODD_END.search(tail) is not None and decode(reads).whole


def says_done(reads: Sequence[tuple[int, bytes]]) -> bool:
    """Whether a stream of events has said that it is over, whatever its framing says."""
    return b"[DONE]" in b"".join(read for _, read in reads[-_READS_OF_AN_END:])[-_LONGEST_END:]
