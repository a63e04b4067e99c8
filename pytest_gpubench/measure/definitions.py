"""Metric definitions: pure functions from request records to numbers. Times in seconds."""

from __future__ import annotations

import bisect
import statistics
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

from pytest_gpubench.load.plan import RequestRecord


def percentile(values: Sequence[float], q: float) -> float:
    """The q-th percentile (0 to 100) by linear interpolation between the two nearest ranks.

    Raises:
        ValueError: without values.
    """
    if not values:
        raise ValueError("a percentile needs at least one value")
    return float(np.percentile(np.asarray(values, dtype=np.float64), q, method="linear"))


def summary(name: str, values: Sequence[float]) -> dict[str, float]:
    """``{name}_mean``, ``_p50``, ``_p90`` and ``_p99``; nothing without values."""
    if not values:
        return {}
    return {f"{name}_mean": statistics.fmean(values)} | {f"{name}_p{q}": percentile(values, q) for q in (50, 90, 99)}


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


def chunk_gaps(records: Iterable[RequestRecord]) -> list[float]:
    """Gaps between the token-carrying chunks of each stream, pooled over the streams."""
    return [(later - earlier) / 1e9 for record in records for earlier, later in pairwise(record.chunk_ns)]


def span(records: Sequence[RequestRecord]) -> float | None:
    """First start to last token; None without tokens."""
    ends = [record.last_token_ns for record in records if record.last_token_ns is not None]
    return (max(ends) - min(record.due_ns for record in records)) / 1e9 if ends else None


def steady_throughput(records: Sequence[RequestRecord], concurrency: int) -> float | None:
    """Output tokens per second inside the steady window of a closed loop.

    The window opens when ``concurrency`` requests have completed and closes when fewer are in flight, that is with the first
    completion after the last request was sent. None where it is shorter than two median E2E times, or where the tokens of a chunk
    are not known.
    """
    ends = sorted(record.last_token_ns for record in records if record.last_token_ns is not None)
    times = [time for time in map(e2e, records) if time is not None]
    if len(ends) < 2 * concurrency or not all(record.chunk_tokens for record in records):
        return None
    opening, closing = ends[concurrency - 1], ends[len(ends) - concurrency]
    length = (closing - opening) / 1e9
    if length <= 0 or length < 2 * statistics.median(times):
        return None
    return sum(_tokens_until(record, closing) - _tokens_until(record, opening) for record in records) / length


def _tokens_until(record: RequestRecord, moment_ns: int) -> int:
    """Cumulative tokens stamped at or before a moment."""
    chunks = bisect.bisect_right(record.chunk_ns, moment_ns)
    return record.chunk_tokens[chunks - 1] if chunks else 0
