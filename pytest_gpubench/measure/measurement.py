"""What one workload on one launch measured: the type that gates, reports and records share; and
several of them as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from typing import Any

from pydantic import TypeAdapter

from pytest_gpubench.model.metrics import mean_of


@dataclass(frozen=True, slots=True)
class Flag:
    """Something about the quality of a measurement that does not void it."""

    code: str
    """Stable kebab-case name: ``few-requests``, ``no-steady-state``, ``preemptions``,
    ``tokens-unchecked``."""
    message: str
    metrics: tuple[str, ...] = ()
    """Metrics that are reported but must not be gated."""
    hidden: tuple[str, ...] = ()
    """The part of ``metrics`` that tables leave out as well: records keep them."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts of requests and tokens."""

    requests: int
    """Measured requests."""
    failed: int
    """Failed requests, warm-up included."""
    prompt_tokens: int
    """Of the measured requests."""
    output_tokens: int
    """Of the measured requests."""
    output_tokens_with_warmup: int
    """Comparable with the engine's counter."""
    engine_output_tokens: int | None
    """Difference of the engine's counter of output tokens, idle to idle; None: the engine does not
    count."""
    preemptions: int | None = None
    prefix_cache_hits: int | None = None
    """In tokens."""


@dataclass(frozen=True, slots=True)
class Drafting:
    """Speculative decoding by the engine's counters, idle to idle, warm-up included."""

    drafts: int
    draft_tokens: int
    accepted_tokens: int
    acceptance_per_position: tuple[float, ...] = ()
    """Share of drafts whose token at the position was accepted, from the first position on."""
    requests_acceptance_length: float | None = None
    """Acceptance length by the per-request numbers, where the server gives them: the same requests,
    counted elsewhere."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """Metrics with what is needed to trust them."""

    metrics: Mapping[str, float]
    """By the names of ``model.metrics.METRICS``; a metric that is undefined here is absent. Empty
    when there are problems."""
    totals: Totals
    problems: tuple[str, ...] = ()
    """Reasons to fail before any statistics, one sentence each."""
    invalid: tuple[str, ...] = ()
    """Reasons why the numbers do not count, one sentence each: the verdict is INVALID. The metrics
    are there to be looked at."""
    flags: tuple[Flag, ...] = ()
    drafting: Drafting | None = None
    """None: the engine counted no drafts."""
    send_lag_max: float = 0.0
    """Seconds between the due time and the write of a request, the worst of the measured ones."""
    client_cpu_share: float | None = None
    """CPU seconds per second of the load generator within the measured window; near 1 it is the
    client that was measured."""
    started_unix: float | None = None
    """Wall-clock start of the measured window, seconds since 1970."""
    client: Mapping[str, str] = field(default_factory=dict)
    """Versions of the measuring client."""
    validity: Mapping[str, float | int | None] = field(default_factory=dict)
    """What the validity rules looked at: the fields of ``measure.validity.Validity``."""
    calibration: Mapping[str, Any] | None = None
    """The calibration of this host's client that speaks for this run; None: the client was never
    calibrated here."""
    series: tuple[Mapping[str, float | None], ...] = ()
    """The engine over the run: the fields of ``measure.compute.Point``."""
    gpus: tuple[Mapping[str, Any], ...] = ()
    """The server's GPUs over the window, one summary each (``measure.energy``); empty where they
    were not sampled."""
    gpu_series: tuple[Mapping[str, float], ...] = ()
    """Power and lowest clock of the server's GPUs over the run (``measure.energy.gpu_series``)."""
    quantiles: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """How ``ttft``, ``tpot`` and ``e2e`` are distributed over the measured requests: 21 values in
    seconds, the least, every 5%, the greatest; for charts, nothing is gated on them."""
    turns: tuple[Mapping[str, float | None], ...] = ()
    """Of conversations, one row for each turn: the fields of ``measure.session_figures.Group``."""
    prefixes: tuple[Mapping[str, float | None], ...] = ()
    """Of a trace of sessions, one row for each doubling of what a prompt before had as well."""
    prefix_cache: Mapping[str, int | None] = field(default_factory=dict)
    """Of a trace of sessions: the fields of ``measure.session_figures.PrefixCache``."""
    recount: Mapping[str, Any] = field(default_factory=dict)
    """A sample of answers that were tokenized again: the fields of ``measure.validity.Recount``."""
    stopped_by: str = "count"
    """What ended the run: ``count``, ``duration`` or ``interval``."""
    rounds: tuple[Mapping[str, float], ...] = ()
    """The metrics of each round, where there was more than one: then ``metrics`` are their means,
    ``totals`` and ``drafting`` their sums, and what describes one run is that of the last."""

    @property
    def not_gated(self) -> frozenset[str]:
        """Metrics that may be shown but not gated."""
        return frozenset(name for flag in self.flags for name in flag.metrics)

    @property
    def hidden(self) -> frozenset[str]:
        """Metrics that rest on too few requests even to be shown."""
        return frozenset(name for flag in self.flags for name in flag.hidden)

    def to_json(self) -> dict[str, Any]:
        """Plain data for a record, without NaN."""
        return asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Measurement:
        """The inverse of ``to_json``, also after a trip through JSON text."""
        return _adapter().validate_python(plain)


@cache
def _adapter() -> TypeAdapter[Measurement]:
    return TypeAdapter(Measurement)


def combined(rounds: Sequence[Measurement]) -> Measurement:
    """One measurement of all rounds of a case on one server.

    Metrics are geometric means, as the gate compares logarithms (arithmetic ones where a round has
    0); a metric that a round lacks is left out. Every problem, every reason not to count and every
    flag of a round is one of the whole. What describes a single run (series, GPUs, quantiles,
    validity) is that of the last round.

    Raises:
        ValueError: for no round.
    """
    if not rounds:
        raise ValueError("no round was measured")
    last = rounds[-1]
    if len(rounds) == 1:
        return last
    return replace(
        last,
        metrics=_means([one.metrics for one in rounds]),
        totals=_sum_of([one.totals for one in rounds]),
        problems=tuple(dict.fromkeys(words for one in rounds for words in one.problems)),
        invalid=tuple(dict.fromkeys(words for one in rounds for words in one.invalid)),
        flags=_flags(rounds),
        drafting=_drafting([one.drafting for one in rounds]),
        send_lag_max=max(one.send_lag_max for one in rounds),
        started_unix=rounds[0].started_unix,
        rounds=tuple(dict(one.metrics) for one in rounds),
    )


def _means(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    shared = [name for name in metrics[0] if all(name in one for one in metrics)]
    return {name: mean_of([one[name] for one in metrics]) for name in shared}


def _sum_of(totals: Sequence[Totals]) -> Totals:
    sums: dict[str, Any] = {}
    for item in fields(Totals):
        values = [getattr(one, item.name) for one in totals]
        sums[item.name] = None if None in values else sum(values)
    return Totals(**sums)


def _flags(rounds: Sequence[Measurement]) -> tuple[Flag, ...]:
    """Each code once, with the words of the first round that has it and the metrics of all."""
    found: dict[str, Flag] = {}
    for flag in (flag for one in rounds for flag in one.flags):
        before = found.get(flag.code, flag)
        found[flag.code] = replace(
            before,
            metrics=tuple(dict.fromkeys((*before.metrics, *flag.metrics))),
            hidden=tuple(dict.fromkeys((*before.hidden, *flag.hidden))),
        )
    return tuple(found.values())


def _drafting(rounds: Sequence[Drafting | None]) -> Drafting | None:
    """Sums of the counters; the rates are those of the last round."""
    counted = [one for one in rounds if one is not None]
    if len(counted) < len(rounds):
        return None
    return replace(
        counted[-1],
        drafts=sum(one.drafts for one in counted),
        draft_tokens=sum(one.draft_tokens for one in counted),
        accepted_tokens=sum(one.accepted_tokens for one in counted),
    )
