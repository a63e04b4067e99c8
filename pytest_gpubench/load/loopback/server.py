"""A server with a known schedule that speaks vLLM's OpenAI API: the truth that load generators are
measured against.

Standard library only, so that a stub engine can start within milliseconds; uvloop is used where it
is installed.

    async with LoopbackServer(Schedule(ttft=0.05, token_time=0.01)) as server:
        ...  # server.url, server.truth, server.counters

    with LoopbackServer().in_thread() as server: ...        # from synchronous code
    python -m pytest_gpubench.load.loopback --port 8000     # prints its URL, ends on SIGTERM
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from pytest_gpubench.load.loopback.http_server import (
    Connection,
    Handler,
    Listener,
    Request,
    Response,
)
from pytest_gpubench.load.loopback.stream import (
    Completion,
    Counters,
    Fault,
    Schedule,
    Served,
    Ticker,
)

__all__ = [
    "Counters",
    "Fault",
    "Handler",
    "LoopbackServer",
    "Request",
    "Response",
    "Schedule",
    "Served",
    "serve_forever",
]

TRUTH_PATH = "/loopback/truth"
"""GET: everything in ``LoopbackServer.truth`` as JSON, for measuring sides in other processes;
DELETE: forget it."""
_TEMPLATE_TOKENS = 9
"""What the toy chat template adds to the contents of the messages."""


class LoopbackServer:
    """The server. Routes can be added or replaced through ``routes`` before or while it runs.

    Args:
        schedule: when tokens are sent; may be replaced while the server runs (it holds for requests
        that arrive later).
        model: the served model name, on ``/v1/models`` and in the metrics' labels; other names are
        answered with 404.
        reuse_port: let other servers listen on the same port; the kernel shares connections out.
        api_key: required as a bearer token under ``/v1``, as vLLM does it; None asks for none.
        faults: gives the fault of the n-th completion request (counted from 0), or None.
        prefix_caching: count what prompts begin with that one before did as well as prefix-cache
            hits (the times stay as scheduled).
        cache_block: tokens of a block of that cache, which has room for everything.
        per_request_metrics: tell the own times in the last chunk, as vLLM does with
            ``--enable-per-request-metrics``.
    """

    def __init__(
        self,
        schedule: Schedule | None = None,
        *,
        model: str = "loopback",
        host: str = "127.0.0.1",
        port: int = 0,
        reuse_port: bool = False,
        api_key: str | None = None,
        max_model_len: int = 1 << 20,
        routes: Mapping[tuple[str, str], Handler] | None = None,
        faults: Callable[[int], Fault | None] = lambda _index: None,
        prefix_caching: bool = False,
        cache_block: int = 16,
        per_request_metrics: bool = False,
    ) -> None:
        self.schedule = schedule or Schedule()
        self.model = model
        self.host = host
        self.port = port
        self.reuse_port = reuse_port
        self.api_key = api_key
        self.max_model_len = max_model_len
        self.faults = faults
        self.prefix_caching = prefix_caching
        self.cache_block = cache_block
        self.per_request_metrics = per_request_metrics
        self.healthy = True
        """False: ``/health`` answers 503, as vLLM does when its engine has died."""
        self.counters = Counters()
        self.truth: list[Served] = []
        """One entry per completion request that was accepted, in the order of reading."""
        self.connections: set[Connection] = set()
        self.routes: dict[tuple[str, str], Handler] = {
            ("GET", "/health"): lambda _request: Response(status=200 if self.healthy else 503),
            ("GET", "/version"): lambda _request: Response.of_json({"version": "0.0.0+loopback"}),
            ("GET", "/v1/models"): self._models,
            ("GET", "/metrics"): lambda _request: Response(
                self.counters.metrics_text(
                    self.model, speculative=self.schedule.num_speculative_tokens > 0
                ).encode(),
                content_type="text/plain; version=0.0.4; charset=utf-8",
            ),
            ("GET", TRUTH_PATH): lambda _request: Response.of_json(
                [asdict(served) for served in self.truth]
            ),
            ("DELETE", TRUTH_PATH): self._forget,
            ("POST", "/tokenize"): self._tokenize,
            ("POST", "/detokenize"): self._detokenize,
            ("POST", "/v1/chat/completions"): self._complete,
            ("POST", "/v1/completions"): self._complete,
            **(routes or {}),
        }
        self._requests = 0
        self._cached: set[int] = set()
        """Hashes of prompts' beginnings, a whole number of blocks each."""
        self._listener: Listener | None = None
        self._ticker: Ticker | None = None

    @property
    def url(self) -> str:
        """The root URL, without ``/v1``; the port is known once the server runs."""
        return f"http://{self.host}:{self.port}"

    async def start(self) -> None:
        """Listen; port 0 is replaced by the one that was found.

        Raises:
            OSError: if the port is taken.
        """
        self._listener = Listener(self, self.host, self.port, reuse_port=self.reuse_port)
        self.port = self._listener.port
        self._ticker = Ticker()

    async def stop(self) -> None:
        """Close the listening socket and every connection, streams included."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for connection in list(self.connections):
            connection.abort()
        if self._ticker is not None:
            self._ticker.close()

    async def __aenter__(self) -> LoopbackServer:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    @contextlib.contextmanager
    def in_thread(self) -> Iterator[LoopbackServer]:
        """Run on an event loop in a thread of its own, for synchronous callers; read ``truth``
        after the load has ended."""
        ready, failed = threading.Event(), []
        loop_of_thread: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

        async def main() -> None:
            leave = asyncio.Event()
            loop_of_thread.append((asyncio.get_running_loop(), leave))
            try:
                async with self:
                    ready.set()
                    await leave.wait()
            except OSError as error:
                failed.append(error)
                ready.set()

        thread = threading.Thread(target=_run, args=(main,), name="loopback", daemon=True)
        thread.start()
        ready.wait()
        if failed:
            raise failed[0]
        try:
            yield self
        finally:
            loop, leave = loop_of_thread[0]
            loop.call_soon_threadsafe(leave.set)
            thread.join()

    def handle(self, request: Request) -> Response | Awaitable[Response | None] | None:
        """Answer one request: check the key, find the route."""
        if (
            self.api_key is not None
            and request.path.startswith("/v1")
            and not self._authorized(request)
        ):
            return Response.of_json({"error": "Unauthorized"}, 401)
        handler = self.routes.get((request.method, request.path))
        if handler is None:
            return Response.of_json({"detail": "Not Found"}, 404)
        return handler(request)

    def _authorized(self, request: Request) -> bool:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and key == self.api_key

    def _models(self, _request: Request) -> Response:
        card = {
            "id": self.model,
            "object": "model",
            "created": 0,
            "owned_by": "vllm",
            "max_model_len": self.max_model_len,
        }
        return Response.of_json({"object": "list", "data": [card]})

    def _tokenize(self, request: Request) -> Response:
        body = request.json()
        text, extra = _prompt_of(body)
        tokens = [0] * extra + word_tokens(text)
        return Response.of_json(
            {
                "count": len(tokens),
                "max_model_len": self.max_model_len,
                "tokens": tokens,
                "token_strs": None,
            }
        )

    def _forget(self, _request: Request) -> Response:
        self.truth.clear()
        return Response.of_json({})

    def _detokenize(self, request: Request) -> Response:
        return Response.of_json({"prompt": words_text(request.json()["tokens"])})

    def _found(self, tokens: list[int]) -> int:
        """How many tokens of a prompt are in the cache, which then has all of its whole blocks. As
        in vLLM the last token is always computed."""
        size, chain, hits, known = self.cache_block, 0, 0, True
        for end in range(size, len(tokens) + 1, size):
            chain = hash((chain, *tokens[end - size : end]))
            known = known and chain in self._cached
            hits = end if known and end < len(tokens) else hits
            self._cached.add(chain)
        return hits

    def _complete(self, request: Request) -> Response | None:
        index, self._requests = self._requests, self._requests + 1
        fault = self.faults(index)
        if fault is not None and fault.kind == "status":
            return Response.error(fault.status, "refused on purpose", "ServiceUnavailableError")
        body: dict[str, Any] = request.json()
        if body.get("model") != self.model:
            return Response.error(
                404, f"The model `{body.get('model')}` does not exist.", "NotFoundError"
            )
        text, extra = _prompt_of(body)
        prompt_tokens = extra + count_word_tokens(text)
        asked = int(body.get("max_completion_tokens") or body.get("max_tokens") or 16)
        if prompt_tokens + asked > self.max_model_len:
            message = f"This model's maximum context length is {self.max_model_len} tokens."
            return Response.error(
                400, f"{message} However, your request has {prompt_tokens} input tokens."
            )
        tokens = asked
        if self.schedule.eos_after is not None and not body.get("ignore_eos"):
            tokens = min(asked, self.schedule.eos_after)
        if fault is not None and fault.kind == "short":
            tokens = max(1, tokens // 2)
        if self.prefix_caching:
            self.counters.prefix_cache_queries += prompt_tokens
            self.counters.prefix_cache_hits += self._found([0] * extra + word_tokens(text))
        truth = Served(
            index, request.headers.get("x-request-id", ""), request.arrival_ns, prompt_tokens, asked
        )
        self.truth.append(truth)
        options = body.get("stream_options") or {}
        include = bool(options.get("include_usage"))
        assert self._ticker is not None  # noqa: S101  # it runs
        Completion(
            connection=request.connection,
            ticker=self._ticker,
            schedule=self.schedule,
            counters=self.counters,
            truth=truth,
            model=self.model,
            chat=request.path.endswith("/chat/completions"),
            stream=bool(body.get("stream")),
            tokens=tokens,
            finish_reason="length" if tokens == asked else "stop",
            include_usage=include,
            continuous_usage=include and bool(options.get("continuous_usage_stats")),
            fault=fault,
            per_request_metrics=self.per_request_metrics,
        ).start()
        return None


def _prompt_of(body: Mapping[str, Any]) -> tuple[str, int]:
    """The text of a request and the tokens that the toy template adds."""
    if "messages" in body:
        return " ".join(str(message["content"]) for message in body["messages"]), _TEMPLATE_TOKENS
    if isinstance(body.get("prompt"), list):  # token ids: as they are, one word each
        return " ".join(f"{int(token) % 4096:03x}" for token in body["prompt"]), 0
    return str(body.get("prompt", "")), int(bool(body.get("add_special_tokens", True)))


def word_tokens(text: str) -> list[int]:
    """The loopback server's toy tokenizer: every word is cut into pieces of three characters, each
    piece one token.

    A piece is a number in base 95 (printable ASCII); other characters count as ``?``.
    ``words_text`` is its inverse up to spaces.
    """
    tokens = []
    for word in text.split():
        for start in range(0, len(word), 3):
            number = 0
            for char in word[start : start + 3].ljust(3):
                code = ord(char) - 32
                number = number * 95 + (code if 0 <= code < 95 else ord("?") - 32)
            tokens.append(number)
    return tokens


def count_word_tokens(text: str) -> int:
    """``len(word_tokens(text))``, cheaply."""
    return sum((len(word) + 2) // 3 for word in text.split())


def words_text(tokens: list[int]) -> str:
    """Text of which ``word_tokens`` makes the same tokens again; pieces are separated by spaces."""
    pieces = []
    for token in tokens:
        chars = [chr(32 + token // 95**power % 95) for power in (2, 1, 0)]
        pieces.append("".join(chars).strip())
    return " ".join(pieces)


def _run(main: Callable[[], Any]) -> None:
    try:
        import uvloop
    except ImportError:
        asyncio.run(main())
    else:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())


def serve_forever(
    server: LoopbackServer, *, on_ready: Callable[[LoopbackServer], None] | None = None
) -> None:
    """Run a server in this process until SIGTERM or SIGINT; ``on_ready`` is called once it
    listens."""

    async def main() -> None:
        leave = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, leave.set)
        async with server:
            if on_ready is not None:
                on_ready(server)
            await leave.wait()

    _run(main)
