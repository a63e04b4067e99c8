"""Which metric of an engine's ``/metrics`` page says what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Counters:
    """Names on one engine's page (Prometheus text format); None: the engine does not tell that.

    Gauges are of this moment; everything else counts up from the engine's start, and only
    differences between two idle moments mean something.
    """

    prefix: str
    """What every name of the engine's own begins with."""
    running: str
    """Gauge: requests that are served now."""
    waiting: str
    """Gauge: requests that wait for a place."""
    prompt_tokens: str | None = None
    generated_tokens: str | None = None
    """Output tokens, the first of each request included."""
    live_tokens: tuple[str, ...] = ()
    """Counters that move while a request runs, where `generated_tokens` moves only at its end; with
    a label where only a part of one does: ``NAME{label="value"}``."""
    steps: tuple[str, ...] = ()
    """Counters of other work that move while requests run."""
    requests: str | None = None
    """Requests that ended."""
    preemptions: str | None = None
    prefix_cache_hits: str | None = None
    """Prompt tokens whose keys and values were in the cache."""
    prefix_cache_queries: str | None = None
    """Prompt tokens that were looked up there; None: all are."""
    offload_stored: str | None = None
    """Bytes of keys and values that were written to where they are offloaded to."""
    offload_loaded: str | None = None
    """Bytes that came back from there."""
    kv_cache_usage: str | None = None
    """Gauge: share of the KV cache in use, 0 to 1."""
    rank: str = "engine"
    """Label that tells the engines of a data-parallel server apart."""
    drafts: str | None = None
    """Verification steps that had a draft."""
    draft_tokens: str | None = None
    accepted_tokens: str | None = None
    """Draft tokens that were accepted."""
    accepted_per_position: str | None = None
    """Likewise, by the label ``position``."""
    verify_steps: str | None = None
    """Instead of `drafts` and `accepted_tokens`: steps, each of which gives one token and those
    that it accepts."""
    generated_when: Literal["token", "end"] = "token"
    """Whether `generated_tokens` moves with each token, or when a request ends."""

    stale_gauges: bool = False
    """Whether several processes may share the page, so that a gauge can stay at what one of them
    said last."""

    @property
    def progress(self) -> tuple[str, ...]:
        """What moves while an engine lives and has work."""
        names = (
            self.generated_tokens,
            *self.live_tokens,
            self.prompt_tokens,
            self.requests,
            *self.steps,
        )
        return tuple(name for name in names if name is not None)

    @property
    def rate(self) -> tuple[str, ...]:
        """The counters whose sum grows with every output token."""
        if self.live_tokens:
            return self.live_tokens
        return (self.generated_tokens,) if self.generated_tokens else ()

    @property
    def watched(self) -> tuple[str, ...]:
        """What is sampled while a load runs."""
        names = (
            *(self.running, self.waiting, self.kv_cache_usage, self.preemptions),
            *(self.prefix_cache_hits, self.offload_stored, self.offload_loaded),
            *self.rate,
        )
        return tuple(name.partition("{")[0] for name in names if name is not None)
