"""Requests in the OpenAI client's own dialect, built and serialised before the clock starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import httpx2
import openai

from pytest_gpubench.dialects.registry import dialect_of
from pytest_gpubench.load.prompts import Message, Prompt
from pytest_gpubench.load.protocol import LoadPlan
from pytest_gpubench.model.frozen import thaw
from pytest_gpubench.model.workload import Workload


@dataclass(frozen=True, slots=True)
class WireRequest:
    """A request as bytes, head and body."""

    prompt: Prompt
    request_id: str
    wire: bytes


class _Recorder(httpx2.AsyncBaseTransport):
    """Takes requests instead of sending them, so that the client's public interface does the
    serialisation."""

    def __init__(self) -> None:
        self.wire = b""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        body = await request.aread()
        head = [b"%b %b HTTP/1.1" % (request.method.encode(), request.url.raw_path)]
        head += [b"%b: %b" % (name, value) for name, value in request.headers.raw]
        self.wire = b"\r\n".join(head) + b"\r\n\r\n" + body
        return httpx2.Response(
            200,
            headers={"content-type": "text/event-stream"},
            content=b"data: [DONE]\n\n",
            request=request,
        )


async def import_ahead() -> None:
    """Let the client import what it imports with the first request."""
    plan = LoadPlan("http://127.0.0.1", "none", Workload(1, 1, 1, 1, 0))
    await build_requests(plan, "", [Prompt(0, "measured", "", 1, 1)])


async def build_requests(
    plan: LoadPlan,
    api_key: str,
    prompts: Sequence[Prompt],
    on_built: Callable[[], None] = lambda: None,
) -> list[WireRequest]:
    """Serialise the requests of a phase with the OpenAI client: its types, headers and encoding, no
    retries, no proxies."""
    recorder = _Recorder()
    http = httpx2.AsyncClient(transport=recorder, trust_env=False)
    built = []
    async with openai.AsyncOpenAI(
        base_url=f"{plan.root}/v1", api_key=api_key or "none", max_retries=0, http_client=http
    ) as client:
        for prompt in prompts:
            request_id = f"gpubench-{prompt.phase}-{prompt.index}"
            headers = {"X-Request-Id": request_id, "Accept-Encoding": "identity"}
            stream = await _create(client, plan, prompt, headers)
            await stream.close()
            kept = prompt
            if prompt.place is not None:  # a trace of sessions may have gigabytes of text
                kept = replace(prompt, text="", history=())
            built.append(WireRequest(kept, request_id, recorder.wire))
            on_built()
    return built


async def _create(
    client: openai.AsyncOpenAI, plan: LoadPlan, prompt: Prompt, headers: dict[str, str]
) -> openai.AsyncStream[Any]:
    workload = plan.workload
    extra: dict[str, Any] = {"ignore_eos": workload.ignore_eos}
    usage: Any = {"include_usage": True}
    if dialect_of(plan.framework).continuous_usage:
        usage["continuous_usage_stats"] = True  # no part of OpenAI's; the client passes it through
    # typed by none of the client's overloads, which all three endpoints have
    every: Any = {
        "model": plan.model,
        "temperature": workload.temperature,
        "stream": True,
        "extra_body": extra,
        "extra_headers": headers,
    }
    answer: openai.AsyncStream[Any]
    if workload.api == "completions":
        text = prompt.text if prompt.token_ids is None else prompt.token_ids.tolist()
        answer = await client.completions.create(
            prompt=text, max_tokens=prompt.osl, stream_options=usage, **every
        )
        return answer
    if workload.chat_template_kwargs:
        extra["chat_template_kwargs"] = thaw(workload.chat_template_kwargs)
    messages = openai_messages(prompt.text, prompt.history)
    if workload.api == "responses":
        answer = await client.responses.create(
            input=messages, max_output_tokens=prompt.osl, store=False, **every
        )
    else:
        answer = await client.chat.completions.create(
            messages=messages, max_completion_tokens=prompt.osl, stream_options=usage, **every
        )
    return answer


def openai_messages(text: str, history: tuple[Message, ...]) -> Any:
    """The messages of a chat request whose last one is ``text``."""
    return [{"role": role, "content": content} for role, content in (*history, ("user", text))]
