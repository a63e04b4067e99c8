"""Can the numbers be believed? Pure rules with fixed limits; each broken one voids the measurement
(INVALID) with its reason.

A delay in the client of some per cent of the time to first token is an error of as many per cent in
it: hence limits that are parts of the TTFT, with floors below which this host's kernel decides.
``experiments/client/README.md`` gives the grounds for each.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from pytest_gpubench.dialects.engine_facts import some_names
from pytest_gpubench.load.client_error import Calibration
from pytest_gpubench.load.protocol import ClientFacts, RequestRecord
from pytest_gpubench.measure.definitions import span, ttft
from pytest_gpubench.measure.measurement import Flag, Totals

MEAN_LAG_SHARE, MEAN_LAG_FLOOR = 0.01, 0.0005
"""Of the median TTFT, and seconds: the mean event-loop lag may be the greater of both."""
TAIL_LAG_SHARE, TAIL_LAG_FLOOR = 0.10, 0.005
"""Likewise for the 99th percentile of the event-loop lag."""
SEND_LAG_SHARE, SEND_LAG_FLOOR = 0.05, 0.002
"""Likewise for the mean send lag: a first wave is due at one moment, and sent one by one."""
CPU_LIMIT = 0.85
"""CPU seconds per second of one client process."""
ENGINE_GAP_SHARE, ENGINE_GAP_FLOOR = 0.50, 0.100
"""Of the median TTFT, and seconds: median of client TTFT minus the engine's own queue and
first-token time. Generous, since the API server's part of it is the server's; less is flagged."""
ENGINE_STRETCH = 0.05
"""By how much a stream may last longer at the client than at the engine, in the median."""
CLEARED = 0.2
"""Of time that passed outside the engine: a client whose own event loop was never later than this,
at the 99th percentile, did not cause it. An API server that cannot keep up is the server's
property, and a gate must be able to see it."""
IMPOSSIBLE = 0.001
"""Seconds by which a client may seem faster than the engine: two clocks are read at two places."""
CLOCK_SHARE, CLOCK_FLOOR = 0.001, 0.020
"""Of the window, and seconds: disagreement between the wall clock and the monotonic clock."""
BURST_SHARE, BURST_FLOOR = 0.25, 0.005
"""Of the chunks after the first of their stream, those that may come in one read with the chunk
before; and seconds: a read that comes sooner after the one before it hides no waiting."""
WHOLE_ANSWER = 16
"""Tokens of an answer that no engine makes at once."""
BURST_STEP = 1.25
"""Chunks of one read, over the tokens of one step of the engine: a draft's tokens come together."""
LEAST = 0.7
"""Tokens of the text, and those that came without text, over those claimed. Honest answers lie
above: what a model writes is nearly always what its tokenizer makes of the text, and even of ids
drawn at random it makes as many or a few more."""
MOST = 2.0
"""Likewise, and some more per answer: a few pieces of words make a short one read otherwise."""
_MORE = 4
_SILENT = 0.2


@dataclass(frozen=True, slots=True)
class Validity:
    """What the rules look at. Seconds; None: not known."""

    lag_mean: float | None = None
    """Event loop of the client, from a kernel timer that beats 40 times a second."""
    lag_p99: float | None = None
    lag_max: float | None = None
    send_lag_mean: float | None = None
    """From due time to write."""
    send_lag_p99: float | None = None
    send_lag_max: float | None = None
    cpu_share: float | None = None
    engine_gap: float | None = None
    """Median of client TTFT - (queue + first token) by the engine's own clock."""
    engine_stretch: float | None = None
    """Median of the stream's length at the client over that at the engine, minus 1."""
    stretch_seconds: float | None = None
    """Median of the stream's length at the client minus that at the engine."""
    clock_drift: float | None = None
    in_flight_max: int = 0
    chunk_rate: float | None = None
    """Chunks per second, mean of the run."""
    calibrated_conc: int | None = None
    calibrated_rate: float | None = None


def look(
    records: Sequence[RequestRecord], client: ClientFacts, calibration: Calibration | None
) -> Validity:
    """Collect what the rules need from the measured, good records."""
    lags = sorted(
        (record.send_ns - record.due_ns) / 1e9 for record in records if record.send_ns is not None
    )
    gaps, stretches, extra = [], [], []
    for record in records:
        view, client_ttft = record.engine, ttft(record)
        if view is None or client_ttft is None:
            continue
        if view.ttft is not None:
            gaps.append(client_ttft - view.ttft - (view.queue or 0.0))
        first, last = record.first_token_ns, record.last_token_ns
        if view.generation and last is not None and first is not None:
            length = (last - first) / 1e9
            stretches.append(length / view.generation - 1)
            extra.append(length - view.generation)
    probed = client.lag_samples > 0
    return Validity(
        lag_mean=client.lag_mean if probed else None,
        lag_p99=client.lag_p99 if probed else None,
        lag_max=client.lag_max if probed else None,
        send_lag_mean=statistics.fmean(lags) if lags else None,
        send_lag_p99=lags[min(len(lags) - 1, int(0.99 * len(lags)))] if lags else None,
        send_lag_max=lags[-1] if lags else None,
        cpu_share=client.cpu_share,
        engine_gap=_median(gaps),
        engine_stretch=_median(stretches),
        stretch_seconds=_median(extra),
        clock_drift=client.clock_drift,
        in_flight_max=most_in_flight(records),
        chunk_rate=chunk_rate(records),
        calibrated_conc=calibration.conc if calibration else None,
        calibrated_rate=calibration.chunk_rate if calibration else None,
    )


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def chunk_rate(records: Sequence[RequestRecord]) -> float | None:
    """Chunks per second that the client received, mean of the run."""
    duration = span(records)
    return sum(len(record.chunk_ns) for record in records) / duration if duration else None


def most_in_flight(records: Sequence[RequestRecord]) -> int:
    """The most requests that were under way at one time."""
    edges = chain.from_iterable(
        ((record.due_ns, 1), (record.end_ns or record.due_ns, -1)) for record in records
    )
    now = most = 0
    for _, step in sorted(edges):  # an end before a start at the same time
        now += step
        most = max(most, now)
    return most


def reasons(
    seen: Validity,
    totals: Totals,
    ttft_p50: float,
    window: float,
    *,
    prefix_caching: bool,
    calibration: Calibration | None = None,
) -> tuple[str, ...]:
    """Why the measurement does not count, one sentence each; empty: it does.

    Args:
        ttft_p50: median TTFT in seconds; what delays are measured against.
        window: length of the measured window in seconds.
    """
    return (
        *_client(seen, ttft_p50),
        *_clocks(seen, ttft_p50, window),
        *accounting(totals, prefix_caching=prefix_caching),
        *(_capacity(seen, calibration) if calibration is not None else ()),
    )


def _client(seen: Validity, ttft_p50: float) -> Iterator[str]:
    mean = max(MEAN_LAG_FLOOR, MEAN_LAG_SHARE * ttft_p50)
    tail = max(TAIL_LAG_FLOOR, TAIL_LAG_SHARE * ttft_p50)
    send = max(SEND_LAG_FLOOR, SEND_LAG_SHARE * ttft_p50)
    beats = (("in the mean", seen.lag_mean, mean), ("at the 99th percentile", seen.lag_p99, tail))
    for where, lag, limit in beats:
        if lag is not None and lag > limit:
            yield (
                f"the client's event loop was late by {lag * 1e3:.1f} ms {where} (limit "
                f"{limit * 1e3:.1f} ms at a TTFT of "
                f"{ttft_p50 * 1e3:.0f} ms): it was too slow, or other work took its processor"
            )
            break
    if seen.send_lag_mean is not None and seen.send_lag_mean > send:
        yield (
            f"requests were sent {seen.send_lag_mean * 1e3:.1f} ms after they were due, in the "
            f"mean (limit {send * 1e3:.1f} ms): the client could not keep to its schedule"
        )
    if seen.cpu_share is not None and seen.cpu_share > CPU_LIMIT:
        yield (
            f"the client's process was busy {seen.cpu_share:.0%} of the time (limit "
            f"{CPU_LIMIT:.0%}): give it more workers"
        )


def cleared(seen: Validity, seconds: float | None) -> bool:
    """Whether the client's own probes rule it out as the cause; unprobed, nothing does."""
    if seconds is None or seen.lag_p99 is None or (seen.cpu_share or 0.0) > CPU_LIMIT:
        return False
    return seen.lag_p99 <= CLEARED * seconds


def _clocks(seen: Validity, ttft_p50: float, window: float) -> Iterator[str]:
    limit = max(ENGINE_GAP_FLOOR, ENGINE_GAP_SHARE * ttft_p50)
    if (
        seen.engine_gap is not None
        and seen.engine_gap > limit
        and not cleared(seen, seen.engine_gap)
    ):
        yield (
            f"{seen.engine_gap * 1e3:.1f} ms of the client's TTFT are neither queue nor first "
            f"token by the engine's own clock (median, limit {limit * 1e3:.1f} ms), and the "
            "client's event loop does not clear it: client, network or API server are in the way"
        )
    if seen.engine_gap is not None and seen.engine_gap < -IMPOSSIBLE:
        yield (
            f"the client saw first tokens {-seen.engine_gap * 1e3:.1f} ms before the "
            "engine made them: a clock is wrong"
        )
    if (
        seen.engine_stretch is not None
        and seen.engine_stretch > ENGINE_STRETCH
        and not cleared(seen, seen.stretch_seconds)
    ):
        yield (
            f"streams lasted {seen.engine_stretch:.1%} longer at the client than at the engine "
            f"(median, limit {ENGINE_STRETCH:.0%}), and the client's event loop does not clear it"
        )
    drift = max(CLOCK_FLOOR, CLOCK_SHARE * window)
    if seen.clock_drift is not None and abs(seen.clock_drift) > drift:
        yield (
            f"the wall clock and the monotonic clock disagree by {seen.clock_drift * 1e3:+.0f} ms "
            "over the run "
            f"(limit {drift * 1e3:.0f} ms): the clock was set, or the machine was suspended"
        )


def accounting(totals: Totals, *, prefix_caching: bool) -> Iterator[str]:
    """What does not add up between client and engine: tokens, and hits in a prefix cache that is
    off. No clock has a part in it."""
    counted = totals.engine_output_tokens
    if totals.failed == 0 and counted not in (None, totals.output_tokens_with_warmup):
        yield (
            f"the engine counted {counted} generated tokens, the client "
            f"received {totals.output_tokens_with_warmup} (warm-up included): another client used "
            "the server, or a count is wrong"
        )
    if not prefix_caching and totals.prefix_cache_hits:
        yield (
            "prefix caching is off in the recipe, but the engine counted "
            f"{totals.prefix_cache_hits} cached tokens"
        )


def buffering(records: Sequence[RequestRecord], step: float = 1.0) -> tuple[str, ...]:
    """Why the measurement does not count where chunks arrive in bursts: what was held back on the
    way has the stamps of whoever held it.

    Args:
        step: tokens that the engine makes at a time, in the mean (acceptance length).
    """
    chunks = reads = streams = 0
    waits: list[float] = []
    for record in records:
        stamps = record.chunk_ns
        if len(stamps) < 2:
            continue
        streams, chunks = streams + 1, chunks + len(stamps)
        before = record.send_ns if record.send_ns is not None else record.due_ns
        for stamp, group in itertools.groupby(stamps):
            reads += 1
            if len(tuple(group)) > 1:
                waits.append((stamp - before) / 1e9)
            before = stamp
    together = (chunks - reads) / (chunks - streams) if chunks > streams else 0.0
    if (
        together <= BURST_SHARE
        or chunks <= BURST_STEP * step * reads
        or statistics.median(waits) <= BURST_FLOOR
    ):
        return ()
    return (
        f"{together:.0%} of the chunks came together with the one before, after waits of "
        f"{statistics.median(waits) * 1e3:.0f} ms (median): something between client and engine "
        "buffers, so that neither TTFT nor the times between tokens are the engine's; measure "
        "without it, or let it pass streams on (nginx: proxy_buffering off)",
    )


def unstreamed(records: Sequence[RequestRecord], step: float = 1.0) -> tuple[str, ...]:
    """Why the measurement does not count where whole answers come as one chunk: a gateway asked for
    them whole, and hands over as a stream what has no times.

    Args:
        step: tokens that the engine makes at a time, in the mean (acceptance length).
    """
    least = max(WHOLE_ANSWER, 4 * step)
    long = [record for record in records if (record.completion_tokens or 0) >= least]
    whole = sum(len(record.chunk_ns) == 1 for record in long)
    if whole <= BURST_SHARE * len(long):
        return ()
    return (
        f"{whole} of {len(long)} answers of {least:g} tokens or more came as one chunk: the "
        "server, or a gateway before it, does not stream, so that TTFT and TPOT are not the "
        "engine's; measure without it",
    )


def compilation(compiled: Sequence[str], attempts: int) -> tuple[str, ...]:
    """A window in which the engine compiled: at low concurrency most of what is measured."""
    if not compiled:
        return ()
    return (
        f"the engine compiled kernels while it was measured ({some_names(compiled, 3)}; attempt "
        f"{attempts} on this launch): raise warmups-per-conc, or keep its compile caches",
    )


def _capacity(seen: Validity, calibration: Calibration) -> Iterator[str]:
    rate = seen.chunk_rate or 0.0
    if calibration.problem:
        why = f"{calibration.problem} (calibration)"
        yield f"the client of this host cannot measure at this rate: {why}"
    elif not calibration.covers(seen.in_flight_max, rate):
        yield (
            f"the run had {seen.in_flight_max} requests in flight and {rate:,.0f} chunks/s; the "
            f"client is calibrated for {calibration.conc} and {calibration.chunk_rate:,.0f}; run "
            "gpubench calibrate for this load"
        )


@dataclass(frozen=True, slots=True)
class Recount:
    """A sample of answers whose text was tokenized again."""

    answers: int = 0
    claimed: int = 0
    """Output tokens of these answers by ``usage``."""
    counted: int = 0
    """Tokens of their text."""
    silent: int = 0
    """Claimed tokens that came in chunks without text: special tokens, parts of a character."""
    tokenizer: str = ""
    """What counted; empty: nothing did."""
    unchecked: str = ""
    """Why nothing did."""


def recounted(
    records: Sequence[RequestRecord], client: ClientFacts, *, made_up_weights: bool = False
) -> Recount:
    """Sum up the measured records that were counted again.

    Args:
        made_up_weights: the engine's answers are whatever tokens come out, special ones and parts
            of characters among them, so that their text says nothing about their number.
    """
    if made_up_weights:
        return Recount(unchecked="its weights are made up, so its text means nothing")
    sample = [record for record in records if record.text_tokens is not None]
    if not sample:
        return Recount(unchecked=client.recount)
    return Recount(
        answers=len(sample),
        claimed=sum(record.completion_tokens or 0 for record in sample),
        counted=sum(record.text_tokens or 0 for record in sample),
        silent=sum(record.silent_tokens or 0 for record in sample),
        tokenizer="the engine's /tokenize",
    )


def disagreement(recount: Recount) -> tuple[str, ...]:
    """Why the measurement does not count: the text does not hold what was claimed."""
    answers, claimed, counted = recount.answers, recount.claimed, recount.counted
    # the only token of an answer may well be a special one
    if not counted and claimed > _MORE * answers:
        return (
            f"no text came in {answers} sampled answers, for which usage claims {claimed} tokens",
        )
    accounted = counted + recount.silent
    if LEAST * claimed <= accounted <= MOST * claimed + _MORE * answers:
        return ()
    sample = "the one sampled answer" if answers == 1 else f"{answers} sampled answers"
    text = f"the streamed text of {sample} holds {counted} tokens by {recount.tokenizer}"
    if accounted >= claimed:
        return (f"more came than was counted: {text}, usage claims {claimed}",)
    silent = f" ({recount.silent} more came without text)" if recount.silent else ""
    return (f"tokens were claimed that did not come: {text}{silent}, usage claims {claimed}",)


def recount_flags(recount: Recount) -> tuple[Flag, ...]:
    """What could not be checked."""
    if recount.unchecked:
        return (Flag("answers-unchecked", f"no answer was tokenized again: {recount.unchecked}"),)
    if recount.silent > _SILENT * recount.claimed:
        message = (
            f"{recount.silent} of {recount.claimed} tokens of sampled answers came without "
            "text: special tokens, most likely"
        )
        return (Flag("silent-tokens", message),)
    return ()
