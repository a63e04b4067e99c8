"""Requests in the OpenAI client's own dialect, built and serialised before the clock starts."""

from __future__ import annotations

import asyncio
import json
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import httpx2
import openai

from pytest_gpubench.load.prompts import Message, Prompt
from pytest_gpubench.load.protocol import LoadPlan
from pytest_gpubench.model.failures import BenchmarkError, Failure
from pytest_gpubench.model.frozen import thaw

_TOKENIZE_TIMEOUT = 30.0
"""Seconds for a whole answer; a prompt of a million tokens takes a few."""
_LARGEST_ANSWER = 64 * 2**20
_MOST_TOKENS = 10**9
_PARALLEL = 8


@dataclass(frozen=True, slots=True)
class WireRequest:
    """A request as bytes, head and body."""

    prompt: Prompt
    request_id: str
    wire: bytes


class _TooLargeError(Exception):
    """An answer has more bytes than any count of tokens."""


class _Recorder(httpx2.AsyncBaseTransport):
    """Takes requests instead of sending them, so that the client's public interface does the serialisation."""

    def __init__(self) -> None:
        self.wire = b""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        body = await request.aread()
        head = [b"%b %b HTTP/1.1" % (request.method.encode(), request.url.raw_path)]
        head += [b"%b: %b" % (name, value) for name, value in request.headers.raw]
        self.wire = b"\r\n".join(head) + b"\r\n\r\n" + body
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=b"data: [DONE]\n\n", request=request)


async def build_requests(
    plan: LoadPlan, api_key: str, prompts: Sequence[Prompt], on_built: Callable[[], None] = lambda: None
) -> list[WireRequest]:
    """Serialise the requests of a phase with the OpenAI client: its types, headers and encoding, no retries, no proxies."""
    recorder = _Recorder()
    http = httpx2.AsyncClient(transport=recorder, trust_env=False)
    built = []
    async with openai.AsyncOpenAI(base_url=f"{plan.root}/v1", api_key=api_key or "none", max_retries=0, http_client=http) as client:
        for prompt in prompts:
            request_id = f"gpubench-{prompt.phase}-{prompt.index}"
            headers = {"X-Request-Id": request_id, "Accept-Encoding": "identity"}
            stream = await _create(client, plan, prompt, headers)
            await stream.close()
            built.append(WireRequest(prompt, request_id, recorder.wire))
            on_built()
    return built


async def _create(client: openai.AsyncOpenAI, plan: LoadPlan, prompt: Prompt, headers: dict[str, str]) -> openai.AsyncStream[Any]:
    workload = plan.workload
    extra: dict[str, Any] = {"ignore_eos": workload.ignore_eos}
    # continuous_usage_stats is vLLM's own; the client passes it through
    usage: Any = {"include_usage": True, "continuous_usage_stats": True}
    if workload.api == "completions":
        return await client.completions.create(
            model=plan.model,
            prompt=prompt.text if prompt.token_ids is None else prompt.token_ids.tolist(),
            max_tokens=prompt.osl,
            temperature=workload.temperature,
            stream=True,
            stream_options=usage,
            extra_body=extra,
            extra_headers=headers,
        )
    if workload.chat_template_kwargs:
        extra["chat_template_kwargs"] = thaw(workload.chat_template_kwargs)
    return await client.chat.completions.create(
        model=plan.model,
        messages=_messages(prompt.text, prompt.history),
        max_completion_tokens=prompt.osl,
        temperature=workload.temperature,
        stream=True,
        stream_options=usage,
        extra_body=extra,
        extra_headers=headers,
    )


async def with_token_ids(prompts: Sequence[Prompt], counter: TokenCounter) -> list[Prompt]:
    """The prompts as the token ids that the server's tokenizer, and its template where the workload has one, makes of them."""
    gate = asyncio.Semaphore(_PARALLEL)
    made: dict[tuple[str, tuple[Message, ...]], array[int]] = {}

    async def one(prompt: Prompt) -> None:
        async with gate:
            key = prompt.text, prompt.history
            if key not in made:
                made[key] = await counter.token_ids(*key)

    await asyncio.gather(*(one(prompt) for prompt in prompts))
    return [replace(prompt, token_ids=made[prompt.text, prompt.history]) for prompt in prompts]


def _messages(text: str, history: tuple[Message, ...]) -> Any:
    return [{"role": role, "content": content} for role, content in (*history, ("user", text))]


class TokenCounter:
    """Counts tokens of a text as the workload would send it, through the server's ``/tokenize``."""

    def __init__(self, plan: LoadPlan, api_key: str) -> None:
        self._plan = plan
        timeout = httpx2.Timeout(_TOKENIZE_TIMEOUT, connect=plan.connect_timeout)
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx2.AsyncClient(
            base_url=plan.root, headers=headers, timeout=timeout, trust_env=False, follow_redirects=False
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def __call__(self, text: str, history: tuple[Message, ...] = ()) -> int:
        """Tokens of a request with this text as its last message.

        Raises:
            BenchmarkError: if the server does not answer, or not with a count.
        """
        return int(await self._ask(text, history, "count"))

    async def token_ids(self, text: str, history: tuple[Message, ...] = ()) -> array[int]:
        """The tokens themselves; raises as a call does."""
        found = await self._ask(text, history, "tokens")
        try:
            return array("I", found)
        except (TypeError, OverflowError, ValueError) as error:
            summary = f"{self._plan.root}/tokenize answered without token ids"
            raise BenchmarkError(Failure("tokenize-failed", "client", summary)) from error

    async def _posted(self, body: dict[str, Any]) -> tuple[int, str, bytes]:
        """Status, where a redirect points, and body of an answer."""
        async with self._http.stream("POST", "/tokenize", json=body) as response:
            data = bytearray()
            async for part in response.aiter_bytes():
                data += part
                if len(data) > _LARGEST_ANSWER:
                    raise _TooLargeError(f"more than {_LARGEST_ANSWER // 2**20} MiB")
            return response.status_code, response.headers.get("location", ""), bytes(data)

    async def _ask(self, text: str, history: tuple[Message, ...], wanted: str) -> Any:
        workload = self._plan.workload
        body: dict[str, Any] = {"model": self._plan.model}
        if workload.chat_template == "none":
            body["prompt"] = text
        else:
            body["messages"] = _messages(text, history)
            if workload.chat_template_kwargs:
                body["chat_template_kwargs"] = thaw(workload.chat_template_kwargs)
        try:
            async with asyncio.timeout(_TOKENIZE_TIMEOUT):
                status, location, data = await self._posted(body)
        except TimeoutError:
            raise self._failed(f"gave no whole answer within {_TOKENIZE_TIMEOUT:g} s") from None
        except (httpx2.HTTPError, _TooLargeError) as error:
            raise self._failed(f"did not answer: {type(error).__name__}: {error}") from error
        text = data[:500].decode("utf-8", "replace")
        if status != 200:
            said = f"{status}, a redirect to {location[:200]!r} that is not followed" if 300 <= status < 400 else status
            remedy = "The server must offer vLLM's /tokenize." if status == 404 else ""
            raise self._failed(f"answered {said}, so prompts cannot be sized", text, remedy)
        try:
            answer = json.loads(data)
            if type(answer["count"]) is not int or not 0 <= answer["count"] <= _MOST_TOKENS:
                raise ValueError("no count")
            return answer[wanted]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._failed("answered without a count or the tokens", text) from error

    def _failed(self, what: str, evidence: str = "", remedy: str = "") -> BenchmarkError:
        lines = (evidence,) if evidence else ()
        return BenchmarkError(Failure("tokenize-failed", "client", f"{self._plan.root}/tokenize {what}", lines, remedy))
