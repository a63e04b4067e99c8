"""What a load run is asked to do and what it brings back, as frozen types that travel as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, TypeAlias

from pytest_gpubench.dialects.registry import DEFAULT
from pytest_gpubench.model.frozen import FrozenMap, thaw
from pytest_gpubench.model.workload import Workload

Phase: TypeAlias = Literal["warmup", "measured"]
StopReason: TypeAlias = Literal["count", "duration", "interval"]


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """One load run: a workload against a server. The API key is not part of it; it travels through
    the worker's environment."""

    base_url: str
    """Root of the server; a trailing ``/v1`` is accepted."""
    model: str
    """Served model name."""
    workload: Workload
    framework: str = DEFAULT
    """The engine whose words the server takes."""
    launch: str = "launch-1"
    """Label of the launch: prompts differ between launches, their lengths do not."""
    salt: str = ""
    """Further makes prompts unique; the case's id."""
    connect_timeout: float = 10.0
    """Seconds for one TCP connection."""
    read_timeout: float = 300.0
    """Seconds that one stream may be silent before its request counts as failed."""
    deadline: float | None = None
    """Seconds for the whole run, prompts included, after which the worker is killed; None: none."""
    priority: bool = True
    """Whether the measuring thread takes real-time priority where the host permits it."""
    context: int | None = None
    """Tokens that the server takes in one request, answer included; None: not known."""
    share: int = 0
    """Which part of the load this process makes, from 0; set by ``run_load`` where the workload has
    several workers."""

    @property
    def root(self) -> str:
        """Root URL without ``/v1`` and slash."""
        return self.base_url.rstrip("/").removesuffix("/v1").rstrip("/")

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``json.dumps``."""
        plain: dict[str, Any] = {item.name: getattr(self, item.name) for item in fields(self)}
        workload = {item.name: getattr(self.workload, item.name) for item in fields(Workload)}
        workload["chat_template_kwargs"] = thaw(self.workload.chat_template_kwargs)
        workload["slo"] = thaw(self.workload.slo)
        return {**plain, "workload": workload}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> LoadPlan:
        workload = dict(plain["workload"])
        workload["chat_template_kwargs"] = FrozenMap(workload["chat_template_kwargs"])
        workload["slo"] = FrozenMap(workload["slo"])
        return cls(**{**plain, "workload": Workload(**workload)})


@dataclass(frozen=True, slots=True)
class EngineView:
    """What the engine itself says about one request (where it is asked to, and can).
    Seconds; None: not said."""

    queue: float | None = None
    """From its arrival at the engine to its first scheduling."""
    ttft: float | None = None
    """From scheduling to the first token."""
    generation: float | None = None
    """From the first token to the last."""
    drafts: int | None = None
    """Verification steps (``--per-request-spec-decode-metrics``)."""
    draft_tokens: int | None = None
    accepted_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request, as the client saw it. Times are ``time.monotonic_ns`` of this host; None where
    the event did not happen."""

    index: int
    """Counts from 0 within its phase."""
    phase: Phase
    request_id: str
    """Sent as ``X-Request-Id``."""
    asked_isl: int
    asked_osl: int
    due_ns: int
    """When the request should have been sent: the start of the phase, the end of the request before
    it in its slot, the end of the turn before it and the think time, or the time of an open loop's
    schedule."""
    send_ns: int | None = None
    """Right before the request was written; ``send_ns - due_ns`` is the send lag."""
    first_token_ns: int | None = None
    last_token_ns: int | None = None
    end_ns: int | None = None
    """The end of the response, or of the failure."""
    chunk_ns: tuple[int, ...] = ()
    """Socket-read stamps of the chunks that carried tokens; chunks of one read share their
    stamp."""
    chunk_tokens: tuple[int, ...] = ()
    """Cumulative output tokens after each of these chunks; empty where the server does not tell
    (``continuous_usage_stats``)."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    finish_reason: str | None = None
    status: int | None = None
    """HTTP status."""
    cached_tokens: int | None = None
    """Prompt tokens from the prefix cache, where the server tells
    (``--enable-prompt-tokens-details``)."""
    turn: int = 0
    """Which turn of its conversation, from 0."""
    session: str = ""
    """Of a trace of sessions: which."""
    root: str = ""
    """The session of the trace's own that it belongs to: itself, or what has spawned it."""
    session_turns: int = 0
    """Turns that its session was to have."""
    kept_tokens: int | None = None
    """Prompt tokens at its start, by the trace, that a prompt answered before began with as
    well."""
    shared_tokens: int | None = None
    """Likewise of any prompt sent before, with what the template may have put before them: no cache
    can hold more; None: prompts may share more than the trace says."""
    engine: EngineView | None = None
    error: str = ""
    """Why the request failed, in one sentence; empty: it did not."""
    text_tokens: int | None = None
    """Tokens of the streamed text, counted again after the run by the server's ``/tokenize``; None:
    not in the sample."""
    silent_tokens: int | None = None
    """Output tokens of an answer in the sample that came in chunks without text."""
    model: str | None = None
    """What the answer says it is from."""

    @property
    def ok(self) -> bool:
        return not self.error

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``json.dumps``."""
        plain = {item.name: getattr(self, item.name) for item in fields(self)}
        return {**plain, "engine": None if self.engine is None else asdict(self.engine)}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> RequestRecord:
        record = cls(**plain)
        view = plain.get("engine")
        return replace(
            record,
            chunk_ns=tuple(record.chunk_ns),
            chunk_tokens=tuple(record.chunk_tokens),
            engine=None if view is None else EngineView(**view),
        )


@dataclass(frozen=True, slots=True)
class ClientFacts:
    """What the measuring process was and what it cost."""

    openai: str
    """Version of the OpenAI client that built the requests."""
    python: str
    event_loop: str
    """``uvloop 0.22`` or ``asyncio``."""
    cpu_seconds: float = 0.0
    """CPU time of the worker within the measured window."""
    window_seconds: float = 0.0
    """Length of the measured window, first due time to last end."""
    started_unix: float = 0.0
    """Wall-clock time at the window's start, in seconds since 1970."""
    lag_mean: float = 0.0
    """Seconds by which the event loop was late for a kernel timer within the window: a read is late
    by as much."""
    lag_p99: float = 0.0
    lag_max: float = 0.0
    lag_samples: int = 0
    clock_drift: float = 0.0
    """Seconds by which the wall clock and the monotonic clock disagree about the window's
    length."""
    stopped_by: StopReason = "count"
    """What ended the sending: all requests were sent, the time was over, or the confidence interval
    was narrow."""
    planned: int | None = None
    """Measured requests that were ready to be sent; None: as many as the workload says."""
    workers: int = 1
    """Processes; with several, CPU share and lags are those of the worst."""
    priority: str = ""
    """``real-time`` or ``nice -20`` where the host permitted it; empty: as any process."""
    recount: str = ""
    """Why no answer was tokenized again after the run; empty: a sample was, or there was no
    answer."""
    notes: tuple[tuple[str, str], ...] = ()
    """Of how a dataset was read: codes of flags and their sentences."""

    @property
    def cpu_share(self) -> float:
        """CPU seconds per second of the window; one event loop cannot use more than 1."""
        return self.cpu_seconds / self.window_seconds if self.window_seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class LoadResult:
    """Everything that the worker saw."""

    plan: LoadPlan
    client: ClientFacts
    records: tuple[RequestRecord, ...] = field(repr=False)
    """Warm-up first, then measured, each by index. Without measured ones the warm-up had failed and
    the run stopped there."""
    pages: tuple[tuple[int, str], ...] = field(default=(), repr=False)
    """``/metrics`` during the run: (time as ``monotonic_ns``, the page or the wanted part of
    it)."""

    def of_phase(self, phase: Phase) -> Iterator[RequestRecord]:
        return (record for record in self.records if record.phase == phase)

    @property
    def failed(self) -> tuple[RequestRecord, ...]:
        """Failed requests of both phases."""
        return tuple(record for record in self.records if not record.ok)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is."""

    stage: Literal["prompts", "warmup", "measured"]
    done: int
    total: int
