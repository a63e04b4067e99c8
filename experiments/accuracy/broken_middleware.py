"""Middleware for vLLM's server (``--middleware broken_middleware.Refuse``) that breaks it from the
outside: ``Refuse`` refuses one completion in twenty, as a gateway in front of an overloaded server
does; ``Change`` gives one in seven another text, as an engine does that accepts drafted tokens which
its model would not have said (vLLM's own switch for that does not work on a CPU)."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

App = Callable[..., Awaitable[None]]
COMPLETIONS = "/v1/chat/completions"


class Refuse:
    """Counts completions and refuses every twentieth."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._seen = 0

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope.get("path") == COMPLETIONS:
            self._seen += 1
            if self._seen % 20 == 0:
                head = [(b"content-type", b"application/json")]
                await send({"type": "http.response.start", "status": 503, "headers": head})
                body = b'{"error": {"message": "overloaded"}}'
                await send({"type": "http.response.body", "body": body})
                return
        await self._app(scope, receive, send)


class Change:
    """Counts completions and puts a word before every seventh answer."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._seen = 0

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        self._seen += scope.get("path") == COMPLETIONS
        if scope.get("path") != COMPLETIONS or self._seen % 7:
            await self._app(scope, receive, send)
            return
        held: list[dict[str, Any]] = []

        async def hold(message: dict[str, Any]) -> None:
            held.append(message)

        await self._app(scope, receive, hold)
        start, *parts = held
        said = json.loads(b"".join(part.get("body", b"") for part in parts))
        message = said["choices"][0]["message"]
        message["content"] = f"Well, {message['content']}"
        body = json.dumps(said).encode()
        kept = [pair for pair in start["headers"] if pair[0].lower() != b"content-length"]
        await send({**start, "headers": [*kept, (b"content-length", str(len(body)).encode())]})
        await send({"type": "http.response.body", "body": body})
