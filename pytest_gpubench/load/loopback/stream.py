"""What the loopback server is to do, what it did and what it counts, and one completion: chunks at
known times, in vLLM's shape and names. Standard library only."""

from __future__ import annotations

import heapq
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from pytest_gpubench.load.loopback.http_server import (
    STREAM_END,
    STREAM_HEAD,
    Connection,
    Response,
    chunk,
)
from pytest_gpubench.load.timing import TimerFd


@dataclass(frozen=True, slots=True)
class Schedule:
    """When tokens are sent, in seconds after the request has arrived: token n (from 1) at ``ttft +
    (n - 1) * token_time``.

    The first chunk carries one token, as after a prefill, the others ``tokens_per_chunk`` (the last
    one what is left); a chunk goes out when its last token is due, so the time per output token is
    exactly ``token_time`` whatever the chunks.
    """

    ttft: float = 0.05
    token_time: float = 0.01
    tokens_per_chunk: int = 1
    num_speculative_tokens: int = 0
    """Above 0, every chunk after the first is one verified draft: ``tokens in the chunk - 1``
    tokens of it were accepted."""
    eos_after: int | None = None
    """Tokens after which the model would stop; requests with ``ignore_eos`` run on."""

    def chunks(self, tokens: int) -> list[tuple[float, int]]:
        """(offset in seconds, cumulative tokens) of every chunk of an answer of so many tokens."""
        totals = [tokens]
        if tokens > 1:
            totals = [1, *range(1 + self.tokens_per_chunk, tokens, self.tokens_per_chunk), tokens]
        return [(self.ttft + (total - 1) * self.token_time, total) for total in totals]


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with one request; stream faults happen instead of chunk ``after_chunks`` (0
    is the first)."""

    kind: Literal["status", "malformed", "disconnect", "stall", "error-event", "short", "letters"]
    """``letters``: every chunk carries one letter of a long word, whatever it claims."""
    status: int = 503
    after_chunks: int = 1

    @property
    def breaks_stream(self) -> bool:
        """Whether the stream goes wrong at ``after_chunks``; the others change the whole answer."""
        return self.kind not in ("status", "short", "letters")


@dataclass(slots=True)
class Served:
    """The truth about one request: the server's own times (``time.monotonic_ns``, one clock for all
    processes of a host)."""

    index: int
    request_id: str
    """The client's ``X-Request-Id``, or empty."""
    arrival_ns: int
    """When its bytes arrived in the kernel (``http_server.arrival_of``)."""
    prompt_tokens: int
    asked_tokens: int
    chunk_ns: list[int] = field(default_factory=list)
    """Taken right before each token-carrying chunk is written to the socket; chunks that were late
    together share a write."""
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
class Counters:
    """Live counters of a loopback server; every change is made on its event loop."""

    prompt_tokens: int = 0
    generation_tokens: int = 0
    running: int = 0
    waiting: int = 0
    finished: Counter[str] = field(default_factory=Counter)
    """Finished requests by finish reason."""
    preemptions: int = 0
    prefix_cache_queries: int = 0
    prefix_cache_hits: int = 0
    drafts: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    accepted_per_position: list[int] = field(default_factory=list)

    def count_draft(self, proposed: int, accepted: int) -> None:
        """One verification step: ``accepted`` of ``proposed`` draft tokens were right, from the
        first position on."""
        self.drafts += 1
        self.draft_tokens += proposed
        self.accepted_tokens += accepted
        missing = proposed - len(self.accepted_per_position)
        self.accepted_per_position.extend([0] * max(0, missing))
        for position in range(accepted):
            self.accepted_per_position[position] += 1

    def metrics_text(self, model: str, *, speculative: bool) -> str:
        """The ``/metrics`` page (Prometheus text format) with vLLM's names and labels."""
        labels = f'engine="0",model_name="{model}"'
        # As of one process: pages of several lack it.
        lines = [
            "# HELP python_info Python platform information",
            "# TYPE python_info gauge",
            "python_info 1.0",
        ]

        def put(name: str, kind: str, values: dict[str, float]) -> None:
            lines.append(f"# HELP {name} {name}")
            lines.append(f"# TYPE {name} {kind}")
            lines.extend(
                f"{name}{{{labels}{extra}}} {float(value)}" for extra, value in values.items()
            )

        put("vllm:num_requests_running", "gauge", {"": self.running})
        put("vllm:num_requests_waiting", "gauge", {"": self.waiting})
        put("vllm:num_preemptions_total", "counter", {"": self.preemptions})
        put("vllm:prompt_tokens_total", "counter", {"": self.prompt_tokens})
        put("vllm:generation_tokens_total", "counter", {"": self.generation_tokens})
        put("vllm:prefix_cache_queries_total", "counter", {"": self.prefix_cache_queries})
        put("vllm:prefix_cache_hits_total", "counter", {"": self.prefix_cache_hits})
        reasons = {reason: self.finished[reason] for reason in ("stop", "length", "abort", "error")}
        put(
            "vllm:request_success_total",
            "counter",
            {f',finished_reason="{reason}"': n for reason, n in reasons.items()},
        )
        if speculative:
            put("vllm:spec_decode_num_drafts_total", "counter", {"": self.drafts})
            put("vllm:spec_decode_num_draft_tokens_total", "counter", {"": self.draft_tokens})
            put("vllm:spec_decode_num_accepted_tokens_total", "counter", {"": self.accepted_tokens})
            positions = {f',position="{i}"': n for i, n in enumerate(self.accepted_per_position)}
            put("vllm:spec_decode_num_accepted_tokens_per_pos_total", "counter", dict(positions))
        return "\n".join(lines) + "\n"


_BATCH = 8
"""Streams that are served in one go."""


class Ticker:
    """Calls the server's streams when they are due; one kernel timer for all of them."""

    def __init__(self) -> None:
        self._timer = TimerFd(self._fire)
        self._due: list[tuple[int, int, Completion]] = []
        self._count = 0

    def at(self, when_ns: int, completion: Completion) -> None:
        """Call ``completion.tick`` at this time."""
        self._count += 1
        heapq.heappush(self._due, (when_ns, self._count, completion))
        if self._due[0][2] is completion:
            self._timer.at(when_ns)

    def close(self) -> None:
        """Call nobody any more."""
        self._timer.close()
        self._due.clear()

    def _fire(self, _when_ns: int) -> None:
        due = self._due
        # then look at the sockets: also while every stream is late, requests must be read
        for _ in range(_BATCH):
            if not due or due[0][0] > time.monotonic_ns():
                break
            _, _, completion = heapq.heappop(due)
            when_ns = completion.tick()
            if when_ns is not None:
                self._count += 1
                heapq.heappush(due, (when_ns, self._count, completion))
        if due:
            self._timer.at(due[0][0])


@lru_cache(maxsize=256)
def _plan(schedule: Schedule, tokens: int) -> tuple[tuple[int, int], ...]:
    return tuple((round(offset * 1e9), total) for offset, total in schedule.chunks(tokens))


@dataclass(slots=True, eq=False)
class Completion:
    """The state of one answer being streamed (or collected, when the request does not stream)."""

    connection: Connection
    ticker: Ticker
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
    per_request_metrics: bool = False
    _step: int = 0
    _sent: int = 0
    _accepted: int = 0
    _plan: tuple[tuple[int, int], ...] = ()
    _head: str = ""
    _middle: bytes = b""
    """A chunk in the middle of the stream, to be filled with the totals."""
    _over: bool = False

    def start(self) -> None:
        """Begin now, on the running loop."""
        self._plan = _plan(self.schedule, self.tokens)
        prefix, kind = ("chatcmpl", "chat.completion") if self.chat else ("cmpl", "text_completion")
        if self.chat and self.stream:
            kind += ".chunk"
        name = f"{prefix}-{self.truth.request_id or self.truth.index}"
        head = {"id": name, "object": kind, "created": int(time.time()), "model": self.model}
        self._head = json.dumps(head, separators=(",", ":"))[:-1]
        self.counters.running += 1
        self.connection.on_lost = self._aborted
        self.ticker.at(self.truth.arrival_ns + self._plan[0][0], self)

    def tick(self) -> int | None:
        """Send everything that is due, and say when the next is; None: nothing is any more."""
        if self._over:
            return None
        now, arrival, plan = time.monotonic_ns(), self.truth.arrival_ns, self._plan
        parts: list[bytes] = []
        broken = False
        while self._step < len(plan) and arrival + plan[self._step][0] <= now:
            if (
                self.fault is not None
                and self.fault.breaks_stream
                and self._step == self.fault.after_chunks
            ):
                broken = True
                break
            parts.append(self._advance(plan[self._step][1]))
        ended = self._step == len(plan)
        if self.stream:
            data = b"".join([*parts, self._tail()] if ended else parts)
        stamp = time.monotonic_ns()
        if self.stream and data:
            self.connection.send_raw(data)
        self.truth.chunk_ns += [stamp] * len(parts)
        if broken:
            self._break()
            return None
        if not ended:
            return arrival + plan[self._step][0]
        self._end(self.finish_reason)
        if self.stream:
            self.connection.end_raw()
        else:
            self.connection.answer(Response.of_json(self._whole()))
        return None

    def _advance(self, total: int) -> bytes:
        """Count the next chunk and return its bytes."""
        new = total - self._sent
        if self._step == 0:
            self.counters.prompt_tokens += self.truth.prompt_tokens
        elif self.schedule.num_speculative_tokens:
            accepted = min(new - 1, self.schedule.num_speculative_tokens)
            self._accepted += accepted
            self.counters.count_draft(self.schedule.num_speculative_tokens, accepted)
        self.counters.generation_tokens += new
        self.truth.chunk_totals.append(total)
        data = self._bytes(total, new) if self.stream else b""
        self._sent = total
        self._step += 1
        return data

    def _bytes(self, total: int, new: int) -> bytes:
        last = self._step + 1 == len(self._plan)
        if self._step == 0:
            role = self._event('{"role":"assistant","content":""}', 0) if self.chat else ""
            return STREAM_HEAD + chunk(
                (role + self._event(self._delta(new), total, last=last)).encode()
            )
        if last or new != self.schedule.tokens_per_chunk or self._spells:
            return chunk(self._event(self._delta(new), total, last=last).encode())
        if not self._middle:
            text = self._event(self._delta(new), 0, usage=False)
            usage = b""
            if self.continuous_usage:
                usage = (
                    b',"usage":{"prompt_tokens":%d,"total_tokens":%%d,"completion_tokens":%%d}'
                    % self.truth.prompt_tokens
                )
            self._middle = (
                text.encode().replace(b"%", b"%%").removesuffix(b"}\n\n") + usage + b"}\n\n"
            )
        if not self.continuous_usage:
            return chunk(self._middle % ())
        return chunk(self._middle % (self.truth.prompt_tokens + total, total))

    def _delta(self, new: int) -> str:
        text = " tok" * new
        if self._spells:
            text = chr(ord("a") + (7 * self._step + self._step // 26) % 26)
        return f'{{"content":"{text}"}}' if self.chat else text

    @property
    def _spells(self) -> bool:
        return self.fault is not None and self.fault.kind == "letters"

    def _event(self, delta: str, total: int, *, last: bool = False, usage: bool = True) -> str:
        finish = f'"{self.finish_reason}"' if last else "null"
        inner = f'"delta":{delta}' if self.chat else f'"text":"{delta}"'
        choice = f'{{"index":0,{inner},"logprobs":null,"finish_reason":{finish}}}'
        counted = f',"usage":{self._usage(total)}' if usage and self.continuous_usage else ""
        return f'data: {self._head},"choices":[{choice}]{counted}}}\n\n'

    def _usage(self, total: int) -> str:
        prompt = self.truth.prompt_tokens
        whole = prompt + total
        return f'{{"prompt_tokens":{prompt},"total_tokens":{whole},"completion_tokens":{total}}}'

    def _tail(self) -> bytes:
        """Everything after the last token."""
        events = "data: [DONE]\n\n"
        if self.include_usage:
            metrics = (
                f',"metrics":{json.dumps(self._own_view())}' if self.per_request_metrics else ""
            )
            events = (
                f'data: {self._head},"choices":[],"usage":{self._usage(self._sent)}{metrics}}}\n\n'
                + events
            )
        return chunk(events.encode()) + STREAM_END

    def _own_view(self) -> dict[str, Any]:
        """What vLLM tells about a request with ``--enable-per-request-metrics`` and
        ``--per-request-spec-decode-metrics``."""
        first = self.truth.chunk_ns[0] if self.truth.chunk_ns else time.monotonic_ns()
        view: dict[str, Any] = {
            "queue_time_ms": 0.0,
            "time_to_first_token_ms": (first - self.truth.arrival_ns) / 1e6,
            "generation_time_ms": (time.monotonic_ns() - first) / 1e6,
        }
        if self.schedule.num_speculative_tokens:
            steps = len(self._plan) - 1
            view["speculative_decoding"] = {
                "num_spec_steps": steps,
                "num_draft_tokens": steps * self.schedule.num_speculative_tokens,
                "num_accepted_draft_tokens": self._accepted,
            }
        return view

    def _whole(self) -> Any:
        text = " tok" * self._sent
        part: dict[str, Any] = {"text": text}
        if self.chat:
            part = {"message": {"role": "assistant", "content": text}}
        choice = {"index": 0, **part, "logprobs": None, "finish_reason": self.finish_reason}
        return {
            **json.loads(self._head + "}"),
            "choices": [choice],
            "usage": json.loads(self._usage(self._sent)),
        }

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
            self.connection.send(
                b'data: {"id": "chatcmpl-x", "choices": [{"delta"\n\ndata: [DONE]\n\n'
            )
            self.connection.end_stream()
        else:
            message = {
                "error": {
                    "message": "EngineCore encountered an issue.",
                    "type": "InternalServerError",
                    "code": 500,
                }
            }
            self.connection.send(f"data: {json.dumps(message)}\n\ndata: [DONE]\n\n".encode())
            self.connection.end_stream()

    def _aborted(self) -> None:
        self._end("abort")

    def _end(self, reason: str) -> None:
        self._over = True
        self.truth.finish_reason = reason
        self.counters.running -= 1
        self.counters.finished[reason] += 1
        self.connection.on_lost = None
