"""What a load run is asked to do and what it brings back, as frozen types that travel as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeAlias

from pytest_gpubench.domain.frozen import FrozenMap, thaw
from pytest_gpubench.domain.workload import Workload

Phase: TypeAlias = Literal["warmup", "measured"]


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """One load run: a workload against a server. The API key is not part of it; it travels through the worker's environment."""

    base_url: str
    """Root of the server; a trailing ``/v1`` is accepted."""
    model: str
    """Served model name."""
    workload: Workload
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

    @property
    def root(self) -> str:
        """Root URL without ``/v1`` and slash."""
        return self.base_url.rstrip("/").removesuffix("/v1").rstrip("/")

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``json.dumps``."""
        plain: dict[str, Any] = {item.name: getattr(self, item.name) for item in fields(self)}
        workload = {item.name: getattr(self.workload, item.name) for item in fields(Workload)}
        workload["chat_template_kwargs"] = thaw(self.workload.chat_template_kwargs)
        return {**plain, "workload": workload}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> LoadPlan:
        workload = dict(plain["workload"])
        workload["chat_template_kwargs"] = FrozenMap(workload["chat_template_kwargs"])
        return cls(**{**plain, "workload": Workload(**workload)})


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request, as the client saw it. Times are ``time.monotonic_ns`` of this host; None where the event did not happen."""

    index: int
    """Counts from 0 within its phase."""
    phase: Phase
    request_id: str
    """Sent as ``X-Request-Id``."""
    asked_isl: int
    asked_osl: int
    due_ns: int
    """When the request should have been sent: the start of the phase, or the end of the request before it in its slot."""
    send_ns: int | None = None
    """Right before the request was written; ``send_ns - due_ns`` is the send lag."""
    first_token_ns: int | None = None
    last_token_ns: int | None = None
    end_ns: int | None = None
    """The end of the response, or of the failure."""
    chunk_ns: tuple[int, ...] = ()
    """Socket-read stamps of the chunks that carried tokens; chunks of one read share their stamp."""
    chunk_tokens: tuple[int, ...] = ()
    """Cumulative output tokens after each of these chunks; empty where the server does not tell (``continuous_usage_stats``)."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    finish_reason: str | None = None
    status: int | None = None
    """HTTP status."""
    error: str = ""
    """Why the request failed, in one sentence; empty: it did not."""

    @property
    def ok(self) -> bool:
        return not self.error

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``json.dumps``."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> RequestRecord:
        record = cls(**plain)
        return replace(record, chunk_ns=tuple(record.chunk_ns), chunk_tokens=tuple(record.chunk_tokens))


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
    """Warm-up first, then measured, each by index. Without measured ones the warm-up had failed and the run stopped there."""

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
