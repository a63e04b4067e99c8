"""What the loopback server is to do, what it did and what it counts, in vLLM's names. Standard
library only."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal


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
