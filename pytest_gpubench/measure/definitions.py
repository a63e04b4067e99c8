"""Metric definitions: pure functions from request records to numbers. Times in seconds."""

from __future__ import annotations

import bisect
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pytest_gpubench.load.protocol import RequestRecord

Floats: TypeAlias = npt.NDArray[np.float64]


def quantiles(values: Sequence[float]) -> tuple[float, ...]:
    """The least value, every 5%, the greatest: 21 values by linear interpolation, rounded to a
    microsecond's tenth.

    Raises:
        ValueError: without values.
    """
    if not values:
        raise ValueError("quantiles need at least one value")
    shares = np.linspace(0, 100, 21)
    return tuple(
        round(float(value), 7)
        for value in np.percentile(np.asarray(values, dtype=np.float64), shares, method="linear")
    )


def summary(name: str, values: Sequence[float] | Floats) -> dict[str, float]:
    """``{name}_mean``, ``_p50``, ``_p90`` and ``_p99``; nothing without values."""
    if not len(values):
        return {}
    numbers = np.asarray(values, dtype=np.float64)
    low, high, highest = (
        float(value) for value in np.percentile(numbers, (50, 90, 99), method="linear")
    )
    return {
        f"{name}_mean": float(numbers.mean()),
        f"{name}_p50": low,
        f"{name}_p90": high,
        f"{name}_p99": highest,
    }


def ttft(record: RequestRecord) -> float | None:
    """Due time to the first chunk that carries a token."""
    return None if record.first_token_ns is None else (record.first_token_ns - record.due_ns) / 1e9


def e2e(record: RequestRecord) -> float | None:
    """Due time to the last token."""
    return None if record.last_token_ns is None else (record.last_token_ns - record.due_ns) / 1e9


def tpot(record: RequestRecord) -> float | None:
    """(E2E - TTFT) / (output tokens - 1); None for a single token."""
    first, last, tokens = record.first_token_ns, record.last_token_ns, record.completion_tokens
    if first is None or last is None or tokens is None or tokens < 2:
        return None
    return (last - first) / 1e9 / (tokens - 1)


def chunk_gaps(records: Iterable[RequestRecord]) -> Floats:
    """Gaps between the token-carrying chunks of each stream, pooled over the streams."""
    return _pooled(map(_gaps, records))


def token_gaps(records: Sequence[RequestRecord]) -> Floats:
    """Inter-token latencies: the gap before a chunk, in equal parts, once for each of its tokens.

    Empty where the tokens of a chunk are not known. A stream's mean is its TPOT.
    """
    if not all(record.chunk_tokens for record in records):
        return np.empty(0)

    def of(record: RequestRecord) -> Floats:
        totals = np.asarray(record.chunk_tokens, dtype=np.int64)
        tokens = totals[1:] - totals[:-1]
        return np.repeat(_gaps(record) / tokens, tokens)

    return _pooled(map(of, records))


def _gaps(record: RequestRecord) -> Floats:
    stamps = np.asarray(record.chunk_ns, dtype=np.int64)
    return (stamps[1:] - stamps[:-1]) / 1e9


def _pooled(parts: Iterable[Floats]) -> Floats:
    return np.concatenate([np.empty(0), *parts])


def peak_throughput(records: Sequence[RequestRecord]) -> float | None:
    """The highest output rate in one of the equal parts, at least 1 s long, into which first start
    to last token is divided.

    Parts that fill the run exactly cannot all be below its mean. None where the tokens of a chunk
    are not known.
    """
    duration = span(records)
    if not duration or not all(record.chunk_tokens for record in records):
        return None
    start, parts = min(record.due_ns for record in records), max(1, int(duration))
    counts = np.zeros(parts)
    for record in records:
        places = (np.asarray(record.chunk_ns, dtype=np.int64) - start) / 1e9 / duration * parts
        totals = np.asarray((0, *record.chunk_tokens), dtype=np.int64)
        np.add.at(counts, np.minimum(places.astype(np.int64), parts - 1), totals[1:] - totals[:-1])
    return float(counts.max()) * parts / duration


def goodput(records: Sequence[RequestRecord], limits: Mapping[str, float]) -> float | None:
    """Requests per second that keep every limit (``ttft``, ``tpot``, ``e2e``, in seconds)."""
    duration = span(records)
    if not duration or not limits:
        return None
    return sum(within(record, limits) for record in records) / duration


def within(record: RequestRecord, limits: Mapping[str, float]) -> bool:
    """Whether a request keeps every limit; one without a TPOT keeps its limit."""
    known = {"ttft": ttft, "tpot": tpot, "e2e": e2e}
    return all((known[name](record) or 0.0) <= limit for name, limit in limits.items())


def span(records: Sequence[RequestRecord]) -> float | None:
    """First start to last token; None without tokens."""
    ends = [record.last_token_ns for record in records if record.last_token_ns is not None]
    return (max(ends) - min(record.due_ns for record in records)) / 1e9 if ends else None


def steady_throughput(
    records: Sequence[RequestRecord], concurrency: int, not_before_ns: int = 0
) -> float | None:
    """Output tokens per second inside the steady window of a closed loop.

    The window opens when ``concurrency`` requests have completed and closes when fewer are in
    flight, that is with the first completion after the last request was sent. None where it is
    shorter than two median E2E times, or where the tokens of a chunk are not known.

    Args:
        records: also of a warm-up that was not drained: its requests were in flight with the first
        measured ones.
        not_before_ns: the window opens no earlier than this.
    """
    ends = sorted(record.last_token_ns for record in records if record.last_token_ns is not None)
    times = [time for time in map(e2e, records) if time is not None]
    if len(ends) < 2 * concurrency or not all(record.chunk_tokens for record in records):
        return None
    opening, closing = max(ends[concurrency - 1], not_before_ns), ends[len(ends) - concurrency]
    length = (closing - opening) / 1e9
    if length <= 0 or length < 2 * statistics.median(times):
        return None
    return (
        sum(_tokens_until(record, closing) - _tokens_until(record, opening) for record in records)
        / length
    )


def _tokens_until(record: RequestRecord, moment_ns: int) -> int:
    """Cumulative tokens stamped at or before a moment."""
    chunks = bisect.bisect_right(record.chunk_ns, moment_ns)
    return record.chunk_tokens[chunks - 1] if chunks else 0
