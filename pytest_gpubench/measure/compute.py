"""From request records, two scrapes and the pages between them to a Measurement. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

from pytest_gpubench.dialects.counters import Counters
from pytest_gpubench.dialects.metrics_page import Scrape, parse_metrics
from pytest_gpubench.load.client_error import Calibration, best_of
from pytest_gpubench.load.protocol import ClientFacts, RequestRecord
from pytest_gpubench.measure import definitions, session_figures
from pytest_gpubench.measure.checks import find_flags, find_problems, not_injected, other_name
from pytest_gpubench.measure.measurement import Drafting, Flag, Measurement, Totals
from pytest_gpubench.measure.validity import (
    buffering,
    chunk_rate,
    compilation,
    disagreement,
    look,
    most_in_flight,
    reasons,
    recount_flags,
    recounted,
    unstreamed,
)
from pytest_gpubench.model.frozen import thaw
from pytest_gpubench.model.specs import Topology
from pytest_gpubench.model.workload import SESSIONS, Workload

_TIMES = {"ttft": definitions.ttft, "tpot": definitions.tpot, "e2e": definitions.e2e}


@dataclass(frozen=True, slots=True)
class Point:
    """One look at the engine; None: the page lacked it."""

    seconds: float
    """After the first measured request was due; below 0 in the warm-up."""
    running: float | None = None
    waiting: float | None = None
    kv_cache_usage: float | None = None
    """Share of the KV cache in use, 0 to 1, the mean over the engines of a data-parallel server."""
    preemptions: float | None = None
    """This and what follows since the engine's start."""
    generated_tokens: float | None = None
    prefix_cache_hits: float | None = None
    """In tokens."""
    offload_stored: float | None = None
    """Bytes of keys and values."""
    offload_loaded: float | None = None
    """Bytes that came back."""


def compute(
    records: Sequence[RequestRecord],
    before: Scrape,
    after: Scrape,
    workload: Workload,
    topology: Topology,
    client: ClientFacts,
    *,
    counters: Counters,
    speculative: bool,
    prefix_caching: bool,
    pages: Sequence[tuple[int, str]] = (),
    calibrations: Sequence[Calibration] = (),
    compiled: Sequence[str] = (),
    attempts: int = 1,
    made_up_weights: bool = False,
    served_name: str = "",
    cache_block: int | None = None,
    injected: float | None = None,
    sent_before: bool = False,
) -> Measurement:
    """The measurement of a load run.

    Args:
        records: of all requests, warm-up included.
        before: scrape of the idle engine before the first request (of the warm-up).
        after: scrape of the idle engine after the last one.
        counters: the engine's names for what is counted.
        speculative: whether the server was asked to draft; then it must have.
        prefix_caching: whether hits are allowed.
        calibrations: of this host's client; none: it was never calibrated, and nothing is said
        about its capacity.
        compiled: kernels that the engine compiled in the measured window (``window_of``).
        attempts: how often the case was measured on this launch; all but the last were spoilt by
            compilations.
        made_up_weights: of the engine (made-up weights); then its text says nothing.
        served_name: the model that was asked for; empty: whatever answers is right.
        cache_block: tokens of a block of the engine's prefix cache; None: it does not say.
        injected: acceptance length that the engine was told to make up; None: none.
        sent_before: whether this server was sent the same trace of sessions before.

    Raises:
        ValueError: if counters went backwards between the scrapes.
    """
    counted = after.since(before)
    measured = [record for record in records if record.phase == "measured" and record.ok]
    totals = totals_of(records, counted, counters)
    drafting = drafting_of(counted, counters, records)
    cache = session_figures.prefix_cache(records, totals.prefix_cache_hits, cache_block)
    problems = (
        *session_figures.ended_early(records),
        *find_problems(records, workload, drafting, client, speculative=speculative),
    )
    calibration = best_of(calibrations, most_in_flight(measured), chunk_rate(measured) or 0.0)
    seen = look(measured, client, calibration)
    recount = recounted(measured, client, made_up_weights=made_up_weights)
    metrics: dict[str, float] = {}
    quantiles: dict[str, tuple[float, ...]] = {}
    invalid: tuple[str, ...] = ()
    flags: tuple[Flag, ...] = ()
    if not problems:
        metrics = _metrics(records, totals, drafting, workload, topology)
        if prefix_caching:
            metrics |= hit_rate(records, totals, counted, counters)
        quantiles = quantiles_of(measured)
        ttft_p50, window = metrics.get("ttft_p50", 0.0), metrics.get("duration", 0.0)
        invalid = disagreement(recount)
        invalid += reasons(
            seen, totals, ttft_p50, window, prefix_caching=prefix_caching, calibration=calibration
        )
        invalid += session_figures.broken_promise(
            cache, prefix_caching=prefix_caching, sent_before=sent_before
        )
        invalid += not_injected(drafting, injected)
        invalid += compilation(compiled, attempts)
        step = metrics.get("acceptance_length", 1.0)
        invalid += buffering(measured, step) + unstreamed(measured, step)
        vanished = after.vanished(before, counters)
        flags = (
            *find_flags(metrics, totals, len(measured), workload, seen, client, attempts, vanished),
            *recount_flags(recount),
            *other_name(measured, served_name),
            *session_figures.missed(cache, prefix_caching=prefix_caching),
            *session_figures.unfinished_flag(records, client.stopped_by),
        )
    start_ns = min((record.due_ns for record in measured), default=0)
    return Measurement(
        metrics=metrics,
        totals=totals,
        problems=problems,
        invalid=invalid,
        flags=flags,
        drafting=drafting,
        send_lag_max=seen.send_lag_max or 0.0,
        client_cpu_share=client.cpu_share,
        started_unix=client.started_unix,
        client={
            name: getattr(client, name) for name in ("openai", "python", "event_loop", "priority")
        },
        validity=asdict(seen),
        calibration=None if calibration is None else calibration.to_json(),
        series=tuple(asdict(point) for point in series_of(pages, start_ns, counters)),
        quantiles=quantiles,
        turns=session_figures.by_turn(measured),
        prefixes=session_figures.by_prefix(measured),
        prefix_cache={} if cache is None else asdict(cache),
        recount=asdict(recount),
        stopped_by=client.stopped_by,
    )


def hit_rate(
    records: Sequence[RequestRecord], totals: Totals, counted: Scrape, counters: Counters
) -> dict[str, float]:
    """What part of the prompts was in the prefix cache; nothing where the engine does not count."""
    looked_up = _total(counted, counters.prefix_cache_queries)
    if looked_up is None:
        looked_up = sum(record.prompt_tokens or 0 for record in records)
    if not looked_up or totals.prefix_cache_hits is None:
        return {}
    return {"prefix_hit_rate": totals.prefix_cache_hits / looked_up}


def window_of(records: Sequence[RequestRecord]) -> tuple[int, int]:
    """First start to last end of measured requests, in nanoseconds; (0, 0) if there are none."""
    measured = [record for record in records if record.phase == "measured"]
    return min((record.due_ns for record in measured), default=0), max(
        (record.end_ns or 0 for record in measured), default=0
    )


def quantiles_of(measured: Sequence[RequestRecord]) -> dict[str, tuple[float, ...]]:
    """How the times of a measurement's requests are distributed."""
    times = {name: _values(definition, measured) for name, definition in _TIMES.items()}
    return {name: definitions.quantiles(values) for name, values in times.items() if values}


def totals_of(records: Sequence[RequestRecord], counted: Scrape, counters: Counters) -> Totals:
    """Requests and tokens of a run.

    Args:
        counted: what the engine counted meanwhile, idle to idle.
    """
    measured = [record for record in records if record.phase == "measured"]
    return Totals(
        requests=len(measured),
        failed=sum(not record.ok for record in records),
        prompt_tokens=sum(record.prompt_tokens or 0 for record in measured),
        output_tokens=sum(record.completion_tokens or 0 for record in measured),
        output_tokens_with_warmup=sum(record.completion_tokens or 0 for record in records),
        engine_output_tokens=_integer(_total(counted, counters.generated_tokens)),
        preemptions=_integer(_total(counted, counters.preemptions)),
        prefix_cache_hits=_integer(_total(counted, counters.prefix_cache_hits)),
    )


def _integer(value: float | None) -> int | None:
    return None if value is None else round(value)


def _total(page: Scrape, name: str | None) -> float | None:
    return None if name is None else page.total(name)


def drafting_of(
    counted: Scrape, counters: Counters, records: Sequence[RequestRecord]
) -> Drafting | None:
    """What the engine counted of its drafts; None: it counted none."""
    if counters.verify_steps is not None:
        return _by_steps(counted, counters)
    drafts = _total(counted, counters.drafts)
    if drafts is None:
        return None
    positions = {}
    if counters.accepted_per_position is not None:
        positions = counted.by_label(counters.accepted_per_position, "position")
    rates = tuple(positions[key] / drafts for key in sorted(positions, key=int) if drafts)
    proposed = _total(counted, counters.draft_tokens) or 0.0
    accepted = _total(counted, counters.accepted_tokens) or 0.0
    views = [
        record.engine
        for record in records
        if record.engine is not None and record.engine.drafts is not None
    ]
    steps = sum(view.drafts or 0 for view in views)
    by_request = None
    if steps:
        by_request = 1 + sum(view.accepted_tokens or 0 for view in views) / steps
    return Drafting(round(drafts), round(proposed), round(accepted), rates, by_request)


def _by_steps(counted: Scrape, counters: Counters) -> Drafting | None:
    """Of an engine that counts its verification steps and what it delivers: each step gives one
    token and those that it accepts.

    The first token of a request comes from no step, and what the last step gives beyond the asked
    length is not delivered: with 2 to 3 tokens a step both are about one token, and cancel.
    """
    steps, made = _total(counted, counters.verify_steps), _total(counted, counters.generated_tokens)
    if steps is None or made is None:
        return None
    accepted = max(0.0, made - steps)
    proposed = _total(counted, counters.draft_tokens) or 0.0
    return Drafting(round(steps), round(proposed), round(accepted), (), None)


def _metrics(
    records: Sequence[RequestRecord],
    totals: Totals,
    drafting: Drafting | None,
    workload: Workload,
    topology: Topology,
) -> dict[str, float]:
    metrics: dict[str, float] = {}
    measured = [record for record in records if record.phase == "measured"]
    duration = definitions.span(measured)
    if duration is not None and duration > 0:
        per_gpu = duration * topology.gpus
        metrics["output_tput"] = totals.output_tokens / duration
        metrics["output_tput_per_gpu"] = totals.output_tokens / per_gpu
        metrics["input_tput_per_gpu"] = totals.prompt_tokens / per_gpu
        metrics["total_tput_per_gpu"] = (totals.prompt_tokens + totals.output_tokens) / per_gpu
        metrics["request_tput"] = len(measured) / duration
        metrics["duration"] = duration
    for name, definition in _TIMES.items():
        metrics |= definitions.summary(name, _values(definition, measured))
    metrics |= definitions.summary("icl", definitions.chunk_gaps(measured))
    metrics |= definitions.summary("itl", definitions.token_gaps(measured))
    views = [record.engine for record in measured if record.engine is not None]
    for name, times in (
        ("engine_ttft", [view.ttft for view in views]),
        ("queue", [view.queue for view in views]),
    ):
        metrics |= definitions.summary(name, [time for time in times if time is not None])
    limits = {name: float(limit) for name, limit in thaw(workload.slo).items()}
    metrics |= session_figures.session_metrics(measured, limits)
    for name, value in (
        ("peak_output_tput", definitions.peak_throughput(measured)),
        ("goodput", definitions.goodput(measured, limits)),
        ("steady_output_tput", _steady(records, measured, workload)),
    ):
        if value is not None:
            metrics[name] = value
    if metrics.get("tpot_p50", 0.0) > 0:
        metrics["interactivity"] = 1 / metrics["tpot_p50"]
    if drafting is not None and drafting.drafts > 0:
        metrics["acceptance_length"] = 1 + drafting.accepted_tokens / drafting.drafts
    return metrics


def _values(
    definition: Callable[[RequestRecord], float | None], records: Sequence[RequestRecord]
) -> list[float]:
    return [value for value in map(definition, records) if value is not None]


def _steady(
    records: Sequence[RequestRecord], measured: Sequence[RequestRecord], workload: Workload
) -> float | None:
    pauses = workload.dataset == SESSIONS or (workload.turns > 1 and workload.think_time > 0)
    if workload.open_loop or pauses:
        return None
    if workload.handover == "drain":
        return definitions.steady_throughput(measured, workload.conc)
    return definitions.steady_throughput(
        records, workload.conc, min(record.due_ns for record in measured)
    )


def series_of(
    pages: Iterable[tuple[int, str]], start_ns: int, counters: Counters
) -> tuple[Point, ...]:
    """The points of sampled pages; a page that cannot be read is left out."""
    points = []
    for stamp_ns, text in pages:
        try:
            scrape = parse_metrics(text)
        except ValueError:
            continue
        usage = _total(scrape, counters.kv_cache_usage)
        by_rank = scrape.by_label(counters.kv_cache_usage or "", counters.rank)
        if by_rank:
            usage = sum(by_rank.values()) / len(by_rank)
        rates = [value for name in counters.rate if (value := scrape.total(name)) is not None]
        values = (
            scrape.total(counters.running),
            scrape.total(counters.waiting),
            usage,
            _total(scrape, counters.preemptions),
            sum(rates) if rates else None,
            _total(scrape, counters.prefix_cache_hits),
            _total(scrape, counters.offload_stored),
            _total(scrape, counters.offload_loaded),
        )
        points.append(Point(round((stamp_ns - start_ns) / 1e9, 3), *map(_known, values)))
    return tuple(points)


def _known(value: float | None) -> float | None:
    """A number that a page may show, None for infinities and NaN."""
    return value if value is not None and math.isfinite(value) else None
