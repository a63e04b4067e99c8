"""Short questions to the server that is measured, over connections of the load's own kind: with its
key, through no proxy, following no redirect.

A general HTTP client takes four times the CPU for each, and prompts are sized by hundreds of them.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from pytest_gpubench.load.framing import Response, decode
from pytest_gpubench.load.transport import Exchange, Pool

_LOOK_S = 1.0
_TOKEN_S = 2.0
_ENOUGH_BYTES = 2**20


class NotAnsweredError(Exception):
    """There is no whole answer; the text says why."""


class Asker:
    """Asks one server, several questions at a time."""

    def __init__(
        self, root: str, api_key: str, connect_timeout: float, *, keeps_connections: bool = True
    ) -> None:
        parts = urlsplit(root)
        self._prefix = parts.path
        key = f"authorization: Bearer {api_key}\r\n" if api_key else ""
        self._head = (
            f"host: {parts.netloc.rpartition('@')[2]}\r\naccept: */*\r\naccept-encoding: "
            f"identity\r\ncontent-type: application/json\r\n{key}content-length: "
        )
        self._pool = Pool(root, connect_timeout, math.inf, self._ended, keeps_connections)
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._asked = 0

    async def post(self, path: str, body: bytes, most_bytes: int) -> Response:
        """The whole answer to a question; how long it may take is the caller's to limit.

        Raises:
            NotAnsweredError: if there is none, or it has more bytes than ``most_bytes``.
        """
        number = self._asked = self._asked + 1
        exchange = Exchange(number, time.monotonic_ns(), most_bytes=most_bytes)
        over = self._waiting[number] = asyncio.get_running_loop().create_future()
        head = f"POST {self._prefix}{path} HTTP/1.1\r\n{self._head}{len(body)}\r\n\r\n"
        self._pool.send(exchange, head.encode("latin-1") + body)
        try:
            while not over.done():
                await asyncio.wait([over], timeout=_LOOK_S)
                self._pool.fail_silent()  # an answer that breaks HTTP's framing never ends
        finally:
            self._waiting.pop(number, None)
        if exchange.error:
            raise NotAnsweredError(exchange.error)
        response = decode(exchange.reads)
        if response.fault:
            raise NotAnsweredError(response.fault)
        return response

    def close(self) -> None:
        """Drop every connection."""
        self._pool.close()

    def _ended(self, exchange: Exchange, _now: int) -> None:
        over = self._waiting.get(exchange.number)
        if over is not None and not over.done():
            over.set_result(None)


def gives_a_token(root: str, api_key: str, model: str) -> bool:
    """Whether the server makes a token now: proof that nothing of it has died, where all of it
    takes part in each (no data parallelism)."""
    body = {"model": model, "prompt": "a", "max_tokens": 1, "temperature": 0}

    async def ask() -> bool:
        asker = Asker(root, api_key, _TOKEN_S, keeps_connections=False)
        try:
            question = asker.post("/v1/completions", json.dumps(body).encode(), _ENOUGH_BYTES)
            response = await asyncio.wait_for(question, _TOKEN_S)
        except (NotAnsweredError, TimeoutError):
            return False
        finally:
            asker.close()
        return response.status == 200 and response.whole and _has_choice(response)

    with ThreadPoolExecutor(1) as apart:  # this thread may have a loop that runs
        return apart.submit(lambda: asyncio.run(ask())).result()


def _has_choice(response: Response) -> bool:
    try:
        answer = json.loads(b"".join(piece for _, piece in response.pieces))
    except ValueError:
        return False
    return isinstance(answer, dict) and bool(answer.get("choices"))
