"""The few HTTP questions that a server is asked outside a measurement, and what its address may be.

Never through a proxy, and no redirect is followed: the key goes nowhere else. A limit is that of
the whole answer, however its bytes drip; sizes are bounded.
"""

from __future__ import annotations

import http.client
import io
import json
import re
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

MAX_ANSWER = 32 * 2**20
"""Bytes of an answer that are read."""
NO_ANSWER = "no answer"
_TOO_LARGE = f"an answer of more than {MAX_ANSWER // 2**20} MiB"
_SHOWN = 200
"""Characters of a server's own text in a sentence."""
_ODD = re.compile(r"[\s\x00-\x1f\x7f\\]")
EXAMPLE = "write http://HOST:PORT, with or without /v1"


class Answer(NamedTuple):
    """What came back."""

    status: int | None = None
    """HTTP status; None: there was no whole answer."""
    body: bytes = b""
    location: str = ""
    """Where a redirect points."""
    fault: str = NO_ANSWER
    """Where there is no status, what there was instead."""

    @property
    def hopeless(self) -> bool:
        """Whether asking again will not help: a redirect, or an answer beyond all bounds."""
        return self.redirected or (self.status is None and self.fault == _TOO_LARGE)

    @property
    def redirected(self) -> bool:
        return self.status in (301, 302, 303, 307, 308)

    def __str__(self) -> str:
        if self.status is None:
            return self.fault
        if not self.redirected:
            return f"HTTP status {self.status}"
        target = self.location or "nowhere"
        return f"HTTP status {self.status}, a redirect to {target}, which is not followed"


@dataclass(frozen=True, slots=True)
class ModelList:
    """What ``/v1/models`` says."""

    answer: Answer
    entries: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    """By name, in the server's order."""
    problem: str = ""
    """Why an answer with status 200 is no list of models."""

    def __str__(self) -> str:
        return ", but ".join(filter(None, (str(self.answer), self.problem)))


@dataclass(frozen=True, slots=True)
class Identity:
    """Who answers on the port of a server that starts."""

    who: Literal["waiting", "unhealthy", "ready", "foreign", "wrong"]
    """``foreign``: somebody else's server. ``wrong``: no OpenAI-compatible server, or somebody
    else's."""
    said: str = ""
    """What it answered, for a sentence."""


class _TooLargeError(OSError):
    """More than `MAX_ANSWER` bytes have come."""


class _Limited(io.RawIOBase):
    """The reading end of a socket, with one deadline and one size for all reads together."""

    def __init__(self, connected: socket.socket, deadline: float) -> None:
        self._socket = connected
        self._deadline = deadline
        self._received = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._socket.settimeout(_left(self._deadline))
        received = self._socket.recv_into(buffer)
        self._received += received
        if self._received > MAX_ANSWER:  # also what a broken framing would read for ever
            raise _TooLargeError
        return received


class _Connection(http.client.HTTPConnection):
    """A connection whose answer is read under one deadline."""

    def answer_by(self, deadline: float) -> http.client.HTTPResponse:
        response = http.client.HTTPResponse(self.sock, method="GET")
        response.fp.close()
        response.fp = io.BufferedReader(_Limited(self.sock, deadline))
        response.begin()
        return response


class _SecureConnection(_Connection, http.client.HTTPSConnection):
    """The same over TLS."""


def get(url: str, api_key: str | None = None, timeout: float = 5.0) -> Answer:
    """The answer to a GET; never raises.

    Args:
        timeout: seconds for all of it.
    """
    deadline = time.monotonic() + timeout
    connection: _Connection | None = None
    try:
        parts = urlsplit(url)
        make = _SecureConnection if parts.scheme == "https" else _Connection
        connection = make(parts.hostname or "", parts.port, timeout=timeout)
        headers = {"Connection": "close"}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        target = parts.path or "/"
        if parts.query:
            target += f"?{parts.query}"
        connection.request("GET", target, headers=headers)
        response = connection.answer_by(deadline)
        location = _clipped(response.headers.get("Location") or "")
        return Answer(response.status, response.read(), location)
    except TimeoutError:
        return Answer(fault=f"no whole answer within {timeout:.1f} s")
    except http.client.HTTPException as error:
        return Answer(fault=f"a malformed answer ({type(error).__name__})")
    except _TooLargeError:
        return Answer(fault=_TOO_LARGE)
    except ssl.SSLCertVerificationError as error:
        return Answer(fault=f"a TLS certificate that is not trusted here ({error.verify_message})")
    except ssl.SSLError as error:
        return Answer(fault=f"no TLS connection ({error.reason or type(error).__name__})")
    except ValueError:  # not the error's own words: they may show the key
        return Answer(
            fault="no answer: the address or the key cannot be sent, or the answer is malformed"
        )
    except OSError:
        return Answer()
    finally:
        if connection is not None:
            connection.close()


def get_json(url: str, api_key: str | None = None, timeout: float = 5.0) -> tuple[Answer, Any]:
    """Like `get`, with the parsed body, or None where it is not JSON."""
    answer = get(url, api_key, timeout)
    if answer.status != 200:
        return answer, None
    try:
        return answer, json.loads(answer.body)
    except (ValueError, RecursionError):
        return answer, None


def models(url: str, api_key: str | None, timeout: float = 5.0) -> ModelList:
    """The entries of ``/v1/models``."""
    answer, page = get_json(f"{url}/v1/models", api_key, timeout)
    if answer.status != 200:
        return ModelList(answer)
    if not isinstance(page, dict):
        return ModelList(answer, problem="the answer is no JSON object")
    listed = page.get("data")
    if not isinstance(listed, list):
        said = "lacks"
        if "data" in page:
            said = f"says {_clipped(json.dumps(listed))} for"
        return ModelList(answer, problem=f"the answer {said} `data`, the list of models")
    entries = {
        entry["id"]: entry
        for entry in listed
        if isinstance(entry, dict) and isinstance(entry.get("id"), str) and entry["id"]
    }
    if not entries:
        return ModelList(answer, problem="its list of models names none")
    return ModelList(answer, entries)


def identity(url: str, api_key: str, served_name: str, timeout: float = 2.0) -> Identity:
    """Whether our own server answers: healthy, accepts our key, lists our name."""
    health = get(f"{url}/health", api_key, timeout)
    if health.hopeless:
        return Identity("wrong", f"/health gave {health}")
    if health.status is None and health.fault == NO_ANSWER:
        return Identity("waiting")
    if health.status != 200:
        return Identity("unhealthy" if health.status else "waiting", f"/health gave {health}")
    listed = models(url, api_key, timeout)
    if served_name in listed.entries:
        return Identity("ready")
    said = f"/v1/models gave {listed}"
    if listed.entries or listed.answer.status in (401, 403):
        return Identity("foreign", said)
    final = listed.problem or listed.answer.hopeless or listed.answer.status in (404, 405, 501)
    return Identity("wrong" if final else "waiting", said)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _clipped(text: str) -> str:
    """A server's text for a sentence: short, printable."""
    shown = "".join(
        part if part.isprintable() else "\N{REPLACEMENT CHARACTER}" for part in text[:_SHOWN]
    )
    return shown if len(text) <= _SHOWN else f"{shown}…"


def base_url_error(text: str) -> str | None:
    """Why a text is not an address of a server, as a clause that does not quote it; None if it is
    one.

    A password in it is not repeated: it would reach terminals and logs.
    """
    if not text.strip() or _ODD.search(text):
        return (
            "is not an address: it is empty or holds blanks, backslashes or control "
            f"characters: {EXAMPLE}"
        )
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        return f"is not an address ({str(error).lower()}): {EXAMPLE}"
    if parts.scheme not in ("http", "https"):
        scheme = f"begins with {parts.scheme}:" if parts.scheme else "names no scheme"
        return f"is not an address of a server: it {scheme}; it must be http or https: {EXAMPLE}"
    if "@" in parts.netloc:
        return f"holds a user or a password; give the server's key in OPENAI_API_KEY, and {EXAMPLE}"
    if not host:
        return f"is not an address: it names no host: {EXAMPLE}"
    if port == 0 or parts.netloc.endswith(":"):
        return f"is not an address: it has no usable port: {EXAMPLE}"
    if parts.query or parts.fragment or "?" in text or "#" in text:
        return f"holds a query or a fragment, which no path can follow: {EXAMPLE}"
    return None
