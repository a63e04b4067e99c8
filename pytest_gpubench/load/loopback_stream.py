"""One completion of the loopback server: chunks at known times, in vLLM's shape. Standard library only."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any, Literal

from pytest_gpubench.load.loopback_http import Connection, Response
from pytest_gpubench.load.loopback_state import Counters


@dataclass(frozen=True, slots=True)
class Schedule:
    """When tokens are sent, in seconds after the request has arrived: token n (from 1) at ``ttft + (n - 1) * token_time``.

    The first chunk carries one token, as after a prefill, the others ``tokens_per_chunk`` (the last one what is left); a chunk goes
    out when its last token is due, so the time per output token is exactly ``token_time`` whatever the chunks.
    """

    ttft: float = 0.05
    token_time: float = 0.01
    tokens_per_chunk: int = 1
    num_speculative_tokens: int = 0
    """Above 0, every chunk after the first is one verified draft: ``tokens in the chunk - 1`` tokens of it were accepted."""
    eos_after: int | None = None
    """Tokens after which the model would stop; requests with ``ignore_eos`` run on."""

    def chunks(self, tokens: int) -> list[tuple[float, int]]:
        """(offset in seconds, cumulative tokens) of every chunk of an answer of so many tokens."""
        totals = [1, *range(1 + self.tokens_per_chunk, tokens, self.tokens_per_chunk), tokens] if tokens > 1 else [tokens]
        return [(self.ttft + (total - 1) * self.token_time, total) for total in totals]


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with one request; stream faults happen instead of chunk ``after_chunks`` (0 is the first)."""

    kind: Literal["status", "malformed", "disconnect", "stall", "error-event", "short"]
    status: int = 503
    after_chunks: int = 1


@dataclass(slots=True)
class Served:
    """The truth about one request: the server's own times (``time.monotonic_ns``, one clock for all processes of a host)."""

    index: int
    request_id: str
    """The client's ``X-Request-Id``, or empty."""
    arrival_ns: int
    prompt_tokens: int
    asked_tokens: int
    chunk_ns: list[int] = field(default_factory=list)
    """Taken right before each token-carrying chunk is written to the socket."""
    chunk_totals: list[int] = field(default_factory=list)
    """Cumulative output tokens after each of these chunks."""
    finish_reason: str = ""

    @property
    def ttft(self) -> float:
        """Seconds from arrival to the first chunk."""
        return (self.chunk_ns[0] - self.arrival_ns) / 1e9

    @property
    def tpot(self) -> float:
        """Seconds per output token after the first (there must be a second one)."""
        return (self.chunk_ns[-1] - self.chunk_ns[0]) / 1e9 / (self.chunk_totals[-1] - 1)


@dataclass(slots=True)
class Completion:
    """The state of one answer being streamed (or collected, when the request does not stream)."""

    connection: Connection
    schedule: Schedule
    counters: Counters
    truth: Served
    model: str
    chat: bool
    stream: bool
    tokens: int
    finish_reason: str
    include_usage: bool
    continuous_usage: bool
    fault: Fault | None = None
    _timer: asyncio.TimerHandle | None = None
    _step: int = 0
    _sent: int = 0
    _plan: list[tuple[float, int]] = field(default_factory=list)
    _head: str = ""

    def start(self) -> None:
        """Begin now, on the running loop."""
        loop = asyncio.get_running_loop()
        self._plan = self.schedule.chunks(self.tokens)
        self._head = json.dumps(
            {
                "id": f"{'chatcmpl' if self.chat else 'cmpl'}-{self.truth.request_id or self.truth.index}",
                "object": ("chat.completion" if self.chat else "text_completion") + (".chunk" if self.chat and self.stream else ""),
                "created": int(time.time()),
                "model": self.model,
            },
            separators=(",", ":"),
        )[:-1]
        self.counters.running += 1
        self.connection.on_lost = self._aborted
        self._timer = loop.call_at(self.truth.arrival_ns / 1e9 + self._plan[0][0], self._tick)

    def _tick(self) -> None:
        total = self._plan[self._step][1]
        if self.fault is not None and self.fault.kind not in ("status", "short") and self._step == self.fault.after_chunks:
            self._break()
            return
        if self._step == 0:
            self.counters.prompt_tokens += self.truth.prompt_tokens
        elif self.schedule.num_speculative_tokens:
            accepted = min(total - self._sent - 1, self.schedule.num_speculative_tokens)
            self.counters.count_draft(self.schedule.num_speculative_tokens, accepted)
        self.counters.generation_tokens += total - self._sent
        last = self._step + 1 == len(self._plan)
        self.truth.chunk_ns.append(time.monotonic_ns())
        self.truth.chunk_totals.append(total)
        if self.stream:
            self._send_tokens(total, last)
        self._sent = total
        self._step += 1
        if last:
            self._finish()
        else:
            when = self.truth.arrival_ns / 1e9 + self._plan[self._step][0]
            self._timer = asyncio.get_running_loop().call_at(when, self._tick)

    def _send_tokens(self, total: int, last: bool) -> None:
        if self._step == 0:
            self.connection.begin_stream()
        role = self._event('{"role":"assistant","content":""}', 0) if self._step == 0 and self.chat else ""
        text = " tok" * (total - self._sent)
        delta = f'{{"content":"{text}"}}' if self.chat else text
        self.connection.send((role + self._event(delta, total, self.finish_reason if last else None)).encode())

    def _event(self, delta: str, total: int, finish_reason: str | None = None) -> str:
        finish = f'"{finish_reason}"' if finish_reason else "null"
        inner = f'"delta":{delta}' if self.chat else f'"text":"{delta}"'
        choice = f'{{"index":0,{inner},"logprobs":null,"finish_reason":{finish}}}'
        usage = f',"usage":{self._usage(total)}' if self.continuous_usage else ""
        return f'data: {self._head},"choices":[{choice}]{usage}}}\n\n'

    def _usage(self, total: int) -> str:
        prompt = self.truth.prompt_tokens
        return f'{{"prompt_tokens":{prompt},"total_tokens":{prompt + total},"completion_tokens":{total}}}'

    def _finish(self) -> None:
        self._end(self.finish_reason)
        if not self.stream:
            self.connection.answer(Response.of_json(self._whole()))
            return
        tail = f'data: {self._head},"choices":[],"usage":{self._usage(self._sent)}}}\n\n' if self.include_usage else ""
        self.connection.send((tail + "data: [DONE]\n\n").encode())
        self.connection.end_stream()

    def _whole(self) -> Any:
        text = " tok" * self._sent
        part = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        choice = {"index": 0, **part, "logprobs": None, "finish_reason": self.finish_reason}
        return {**json.loads(self._head + "}"), "choices": [choice], "usage": json.loads(self._usage(self._sent))}

    def _break(self) -> None:
        assert self.fault is not None  # noqa: S101  # only called with one
        if self.stream and self._step == 0:
            self.connection.begin_stream()
        if self.fault.kind == "stall":
            return  # stays "running" until the client gives up
        self._end("error")
        if self.fault.kind == "disconnect":
            self.connection.drop()
        elif self.fault.kind == "malformed":
            self.connection.send(b'data: {"id": "chatcmpl-x", "choices": [{"delta"\n\ndata: [DONE]\n\n')
            self.connection.end_stream()
        else:
            message = {"error": {"message": "EngineCore encountered an issue.", "type": "InternalServerError", "code": 500}}
            self.connection.send(f"data: {json.dumps(message)}\n\ndata: [DONE]\n\n".encode())
            self.connection.end_stream()

    def _aborted(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._end("abort")

    def _end(self, reason: str) -> None:
        self.truth.finish_reason = reason
        self.counters.running -= 1
        self.counters.finished[reason] += 1
        self.connection.on_lost = None
