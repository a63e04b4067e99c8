"""What AIPerf wrote as a Measurement: its numbers by our names, our rules where they fit. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pytest_gpubench.dialects.counters import Counters
from pytest_gpubench.dialects.metrics_page import Scrape
from pytest_gpubench.load.aiperf.output import (
    SUMMARY,
    AiperfOutput,
    changed,
    is_number,
    promised_hits,
)
from pytest_gpubench.load.protocol import ClientFacts, RequestRecord
from pytest_gpubench.measure import session_figures
from pytest_gpubench.measure.checks import find_flags, find_problems, not_injected
from pytest_gpubench.measure.compute import (
    drafting_of,
    hit_rate,
    quantiles_of,
    series_of,
    totals_of,
    window_of,
)
from pytest_gpubench.measure.measurement import Flag, Measurement, Totals
from pytest_gpubench.measure.validity import (
    SEND_LAG_FLOOR,
    SEND_LAG_SHARE,
    TAIL_LAG_FLOOR,
    TAIL_LAG_SHARE,
    Validity,
    compilation,
    look,
    reasons,
)
from pytest_gpubench.model.frozen import thaw
from pytest_gpubench.model.metrics import ACCEPTANCE, METRICS
from pytest_gpubench.model.specs import Topology
from pytest_gpubench.model.workload import AGENTIC, Workload

MEASURED_BY = "measured-by"
"""Code of the flag that says which tool measured."""
LATE_SHARE = 0.01
"""Of the looks at its event loops: so many may be later than our 99th percentile may be."""
LOOK_S = 0.25
"""Between AIPerf's looks at an event loop."""
_NOT_ITS = frozenset({"no-steady-state", "prompts-exhausted"})
"""Codes of flags that are about our own way of measuring."""
_PROMPT_OFF = 0.05
BLOCK = 16
"""Tokens of a block of the prefix cache where the recipe does not say."""


@dataclass(frozen=True, slots=True)
class Mapped:
    """One of our metrics, by AIPerf's name for it."""

    ours: str
    theirs: str
    stat: str
    unit: str
    """Theirs; another one is another output."""
    factor: float = 1.0
    """Ours over theirs."""
    per_gpu: bool = False
    needed: bool = True
    """Whether every run has it; the others are left out where a run has nothing to make them of."""


def _latencies(ours: str, theirs: str, *, needed: bool = True) -> Iterator[Mapped]:
    stats = {"mean": "avg", "p50": "p50", "p90": "p90", "p99": "p99"}
    for name, stat in stats.items():
        yield Mapped(f"{ours}_{name}", theirs, stat, "ms", 1e-3, needed=needed)


TABLE: tuple[Mapped, ...] = (
    Mapped("output_tput", "output_token_throughput", "avg", "tokens/sec"),
    Mapped("output_tput_per_gpu", "output_token_throughput", "avg", "tokens/sec", per_gpu=True),
    Mapped("input_tput_per_gpu", "input_token_throughput", "avg", "tokens/sec", per_gpu=True),
    Mapped("total_tput_per_gpu", "total_token_throughput", "avg", "tokens/sec", per_gpu=True),
    Mapped("request_tput", "request_throughput", "avg", "requests/sec"),
    *_latencies("ttft", "time_to_first_token"),
    *_latencies("tpot", "inter_token_latency", needed=False),
    *_latencies("e2e", "request_latency"),
    *_latencies("icl", "inter_chunk_latency", needed=False),
    Mapped("goodput", "goodput", "avg", "requests/sec", needed=False),
    Mapped("duration", "benchmark_duration", "avg", "sec"),
)
"""Ours from theirs. Its time to first token begins when a request is sent, ours when it was due;
its inter-token latency is what we call TPOT; failed requests are in none of its numbers."""
_DERIVED = frozenset(
    {
        *("interactivity", ACCEPTANCE, "prefix_hit_rate", "gpu_power", "energy_per_output_token"),
        *("session_duration_mean", "session_duration_p50", "session_output_tput"),
        "session_goodput",
    }
)
"""Made here: from the table, from what engine and GPUs tell, and of sessions from its records."""
_NO_LOADS = frozenset({"accuracy", "engine_init"})


def left_out() -> tuple[str, ...]:
    """Our metrics that AIPerf has no equal of."""
    known = {it.ours for it in TABLE} | _DERIVED | _NO_LOADS
    return tuple(name for name in METRICS if name not in known)


def measured_by_aiperf(
    output: AiperfOutput,
    cpu: Sequence[tuple[int, Mapping[int, float]]],
    before: Scrape,
    after: Scrape,
    workload: Workload,
    topology: Topology,
    *,
    counters: Counters,
    speculative: bool,
    prefix_caching: bool,
    pages: Sequence[tuple[int, str]] = (),
    compiled: Sequence[str] = (),
    attempts: int = 1,
    started_unix: float | None = None,
    block: int = BLOCK,
    injected: float | None = None,
) -> Measurement:
    """The measurement of a run of AIPerf.

    Args:
        cpu: CPU seconds of each of its workers, by ``monotonic_ns``.
        before: scrape of the idle engine before its first request.
        after: likewise after its last one.
        compiled: kernels that the engine compiled in the measured window.
        started_unix: wall clock at the start of that window.
        block: tokens of a block of the prefix cache.
        injected: acceptance length that the engine was told to make up; None: none.

    Raises:
        ValueError: if counters went backwards between the scrapes.
        BenchmarkError: if its summary is not as it was known.
    """
    records = output.records
    measured = [record for record in records if record.phase == "measured" and record.ok]
    counted = after.since(before)
    totals = totals_of(records, counted, counters)
    seen = replace(
        look(measured, _client(), None),
        cpu_share=busiest(cpu, window_of(records)),
        lag_max=max(output.late, default=None),
    )
    client = _client(
        planned=sum(record.phase == "measured" for record in records) if workload.traced else None,
        stopped_by="duration" if output.timed_out else "count",
    )
    asked = _asked(workload, records)
    drafting = drafting_of(counted, counters, records)
    problems = (
        *_problems(output, workload),
        *find_problems(records, asked, drafting, client, speculative=speculative),
    )
    metrics: dict[str, float] = {}
    invalid: tuple[str, ...] = ()
    flags: tuple[Flag, ...] = ()
    if not problems:
        metrics = metrics_of(output.summary, topology)
        if prefix_caching:
            metrics |= hit_rate(records, totals, counted, counters)
        limits = {name: float(limit) for name, limit in thaw(workload.slo).items()}
        whole = [record for record in measured if record.session_turns]
        metrics |= session_figures.session_metrics(whole, limits)
        if drafting is not None and drafting.drafts > 0:
            metrics[ACCEPTANCE] = 1 + drafting.accepted_tokens / drafting.drafts
        invalid = tuple(_invalid(output, seen, totals, metrics, prefix_caching=prefix_caching))
        invalid += compilation(compiled, attempts) + not_injected(drafting, injected)
        vanished = after.vanished(before, counters)
        flags = (
            *_own_flags(output, workload, seen.cpu_share),
            *_prefix_flags(output, totals, block if prefix_caching else 0),
            *find_flags(metrics, totals, len(measured), asked, seen, client, attempts, vanished),
        )
        flags = tuple(flag for flag in flags if flag.code not in _NOT_ITS)
    if output.cancelled and not problems:
        # Whatever the engine made for them is in its counter only.
        totals = replace(totals, engine_output_tokens=None)
    start_ns, _ = window_of(records)
    return Measurement(
        metrics=metrics,
        totals=totals,
        problems=problems,
        invalid=invalid,
        flags=flags,
        drafting=drafting,
        send_lag_max=seen.send_lag_max or 0.0,
        client_cpu_share=seen.cpu_share,
        started_unix=started_unix,
        client={"aiperf": output.version},
        validity=asdict(seen),
        series=tuple(asdict(point) for point in series_of(pages, start_ns, counters)),
        quantiles={} if problems else quantiles_of(measured),
        stopped_by=client.stopped_by,
        turns=session_figures.by_turn(measured),
    )


def metrics_of(summary: Mapping[str, Mapping[str, Any]], topology: Topology) -> dict[str, float]:
    """The table, applied.

    Raises:
        BenchmarkError: if a metric is missing, or has another unit.
    """
    metrics: dict[str, float] = {}
    for it in TABLE:
        entry = summary.get(it.theirs)
        if entry is None and not it.needed:
            continue
        if entry is None:
            raise changed(f"{SUMMARY} has no '{it.theirs}', which {it.ours} is made of")
        value, unit = entry.get(it.stat), entry.get("unit")
        if not is_number(value):
            raise changed(f"{SUMMARY} has no number for '{it.theirs}.{it.stat}'")
        if unit != it.unit:
            raise changed(f"'{it.theirs}' of {SUMMARY} is in {unit!r}, not in {it.unit}")
        metrics[it.ours] = value * it.factor / (topology.gpus if it.per_gpu else 1)
    if metrics.get("tpot_p50", 0.0) > 0:
        metrics["interactivity"] = 1 / metrics["tpot_p50"]
    return metrics


def busiest(
    cpu: Sequence[tuple[int, Mapping[int, float]]], window: tuple[int, int]
) -> float | None:
    """CPU share of the busiest worker within a window; None: looked at less than twice in it."""
    inside = [look for look in cpu if window[0] <= look[0] <= window[1] and look[1]]
    if len(inside) < 2:
        return None
    (start, first), (end, last) = inside[0], inside[-1]
    spent = (last[pid] - first.get(pid, 0.0) for pid in last)
    return max(spent, default=0.0) / ((end - start) / 1e9)


def _client(**more: Any) -> ClientFacts:
    return ClientFacts(openai="", python="", event_loop="", **more)


def _asked(workload: Workload, records: Sequence[RequestRecord]) -> Workload:
    """The workload as our checks see it: a trace brings its own counts and shares prefixes."""
    if not workload.traced:
        return workload
    warm = sum(record.phase == "warmup" for record in records)
    return replace(workload, num_warmups=warm, dataset=AGENTIC)


def _problems(output: AiperfOutput, workload: Workload) -> Iterator[str]:
    over = [request for request in output.requests if request.overflowed]
    if over:
        first = over[0]
        yield (
            f"{len(over)} prompts were longer than the server's context, the first one in turn "
            f"{first.record.turn + 1} of session {first.session}: give the server a longer one, or "
            "leave such sessions out (max-context-length under client.arguments)"
        )
    failed = [it for it in output.requests if not it.record.ok and not it.overflowed]
    if failed and workload.traced:
        first = failed[0]
        yield (
            f"session {first.session} failed in turn {first.record.turn + 1}: {first.record.error}"
        )
    begun, finished = output.sessions, output.finished
    early = not output.timed_out and not output.cancelled
    if early and begun is not None and finished is not None and finished < begun:
        yield (f"{begun - finished} of {begun} sessions ended early, though the time was not over")
    off = [it for it in output.requests if it.off_length and it.record.ok]
    if off and workload.ignore_eos and workload.traced:
        first = off[0]
        yield (
            f"{len(off)} outputs are not as long as the trace asks, for instance turn "
            f"{first.record.turn + 1} of session {first.session}: "
            f"{first.record.completion_tokens} tokens"
        )


def _invalid(
    output: AiperfOutput,
    seen: Validity,
    totals: Totals,
    metrics: Mapping[str, float],
    *,
    prefix_caching: bool,
) -> Iterator[str]:
    ttft, window = metrics["ttft_p50"], metrics["duration"]
    client_tokens, engine_tokens = totals.output_tokens_with_warmup, totals.engine_output_tokens
    checked = totals
    if output.cancelled:
        checked = replace(totals, engine_output_tokens=None)
    # Its time to first token begins with the sending, so that a late one lowers the load alone.
    own = replace(seen, send_lag_mean=None)
    yield from reasons(own, checked, ttft, window, prefix_caching=prefix_caching)
    if output.cancelled and engine_tokens is not None and engine_tokens < client_tokens:
        yield (
            f"the engine counted {engine_tokens} generated tokens, AIPerf received more: "
            f"{client_tokens}"
        )
    limit = max(TAIL_LAG_FLOOR, TAIL_LAG_SHARE * ttft)
    late = sum(one > limit for one in output.late)
    looks = max(1.0, window / LOOK_S * max(1, output.loops))
    if late > LATE_SHARE * looks and late > 1:
        yield (
            f"AIPerf's event loops were late by more than {limit * 1e3:.0f} ms (a tenth of the "
            f"time to first token) in {late} of about {looks:.0f} looks, up to "
            f"{max(output.late) * 1e3:.0f} ms: it was too slow, or other work took its processor"
        )
    limit = max(SEND_LAG_FLOOR, SEND_LAG_SHARE * metrics["e2e_p50"])
    if seen.send_lag_mean is not None and seen.send_lag_mean > limit:
        yield (
            f"AIPerf sent requests {seen.send_lag_mean * 1e3:.1f} ms after they were due, in the "
            f"mean (limit {limit * 1e3:.1f} ms): the load was lower than asked"
        )


def _own_flags(output: AiperfOutput, workload: Workload, cpu_share: float | None) -> Iterator[Flag]:
    yield Flag(
        MEASURED_BY,
        f"measured by AIPerf {output.version}: its numbers are compared with its own only",
    )
    if output.cancelled:
        yield Flag(
            "tokens-unchecked",
            f"{output.cancelled} requests were cut off when the time was over, and AIPerf does not "
            "tell their tokens: totals were not compared with the engine's",
        )
    measured = [one.record for one in output.requests if one.record.phase == "measured"]
    asked = 0 if workload.traced else workload.isl
    mean = statistics.fmean(record.prompt_tokens or 0 for record in measured)
    if asked and abs(mean - asked) > _PROMPT_OFF * asked:
        yield Flag(
            "prompts-off",
            f"prompts had {mean:.0f} tokens in the mean, the row asks for {asked}: AIPerf counts "
            "them without the chat template, by its own tokenizer",
        )
    if cpu_share is None:
        yield Flag(
            "client-cpu-unchecked",
            "AIPerf's workers were not seen at work twice: how busy they were is not known",
        )


def _prefix_flags(output: AiperfOutput, totals: Totals, block: int) -> Iterator[Flag]:
    """Whether the prefix cache found what the turns of a trace repeat; block 0: it is off."""
    hits = totals.prefix_cache_hits
    if not block or hits is None:
        return
    promised = promised_hits(output.requests, block)
    if hits < promised:
        yield Flag(
            "prefix-hits-below-trace",
            f"the engine found {hits} tokens in its prefix cache, the turns of the trace repeat at "
            f"least {promised} in whole blocks of {block}: blocks were evicted, or prompts are not "
            "repeated word by word",
        )
