"""What a client's error against a known truth is, at a concurrency and a rate. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pytest_gpubench.load.plan import ClientFacts, RequestRecord

MAX_TTFT_ERROR = 0.10
"""Of the true TTFT, in the mean over the requests."""
MAX_TPOT_ERROR = 0.005
"""Of the true TPOT, likewise."""
MARGIN = 1.1
"""A run may be this much above what was calibrated."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """The client of this host against the loopback server. Times in seconds, errors are client minus truth."""

    conc: int
    chunk_rate: float
    """Chunks per second that the client received."""
    asked_rate: float
    """Chunks per second that were planned."""
    requests: int
    ttft: float
    """The truth's mean: the server's own times, from the arrival of a request to the write of its first chunk."""
    ttft_error_mean: float
    ttft_error_p99: float
    tpot: float
    tpot_error_mean: float
    cpu_share: float
    """CPU seconds per second of one client process."""
    cpu_per_chunk: float
    lag_p99: float
    arrival_delay: float = 0.0
    """Mean time from the client's write to the server's read: part of the TTFT error, but the server's and the kernel's, not the
    client's."""
    workers: int = 1
    host: str = ""
    """Processor and number of cores."""
    load_average: float = 0.0
    """Of the last minute, when it was made: other work on the host is part of the result."""

    @property
    def problem(self) -> str:
        """Why this client cannot measure at this rate, or empty."""
        own = self.ttft_error_mean - self.arrival_delay
        if own > MAX_TTFT_ERROR * self.ttft:
            return f"its mean TTFT is {own * 1e3:.1f} ms above the true {self.ttft * 1e3:.1f} ms"
        if abs(self.tpot_error_mean) > MAX_TPOT_ERROR * self.tpot:
            return f"its mean TPOT is {self.tpot_error_mean / self.tpot:+.1%} off the true {self.tpot * 1e3:.2f} ms"
        if self.chunk_rate < self.asked_rate / MARGIN:
            return f"it reached {self.chunk_rate:,.0f} of {self.asked_rate:,.0f} chunks/s"
        return ""

    def to_json(self) -> dict[str, Any]:
        """Plain data for a record."""
        return asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Calibration:
        return cls(**plain)

    def table(self) -> str:
        """The error table for a terminal."""
        rows = [
            ("concurrency", f"{self.conc}", ""),
            ("chunks/s", f"{self.chunk_rate:,.0f}", f"{self.asked_rate:,.0f} planned"),
            ("TTFT, mean", f"{self.ttft_error_mean * 1e3:+.2f} ms", f"over {self.ttft * 1e3:.2f} ms"),
            ("  until the server reads", f"{self.arrival_delay * 1e3:+.2f} ms", "not the client's"),
            ("TTFT, p99 of the error", f"{self.ttft_error_p99 * 1e3:+.2f} ms", ""),
            ("TPOT, mean", f"{self.tpot_error_mean * 1e3:+.3f} ms", f"over {self.tpot * 1e3:.3f} ms"),
            ("client CPU", f"{self.cpu_share:.0%}", f"{self.cpu_per_chunk * 1e6:.1f} us per chunk"),
            ("event-loop lag, p99", f"{self.lag_p99 * 1e3:.2f} ms", ""),
            ("requests", f"{self.requests}", f"load average {self.load_average:.1f}"),
        ]
        wide = max(len(name) for name, _, _ in rows)
        lines = [f"  {name:<{wide}}  {value:>12}  {more}".rstrip() for name, value, more in rows]
        verdict = f"not usable at this rate: {self.problem}" if self.problem else "usable at this rate"
        return "\n".join([f"client against the loopback server on {self.host or 'this host'}:", *lines, f"  {verdict}"])


def compare(records: Sequence[RequestRecord], truth: Sequence[Mapping[str, Any]], client: ClientFacts, **facts: Any) -> Calibration:
    """The calibration that a run's measured records and the server's truth make.

    Args:
        truth: entries of the loopback server's ``/loopback/truth``.
        facts: the fields of ``Calibration`` that are known beforehand.

    Raises:
        ValueError: if a request failed or the server knows nothing of it.
    """
    served = {str(entry["request_id"]): entry for entry in truth}
    measured = [record for record in records if record.phase == "measured"]
    ttfts, ttft_errors, arrivals, tpots, tpot_errors, chunks = [], [], [], [], [], 0
    for record in measured:
        entry = served.get(record.request_id)
        first, last, tokens = record.first_token_ns, record.last_token_ns, record.completion_tokens
        if record.error or entry is None or first is None or last is None or tokens is None:
            raise ValueError(f"request {record.index}: {record.error or 'the loopback server does not know it'}")
        stamps, totals = entry["chunk_ns"], entry["chunk_totals"]
        ttfts.append((stamps[0] - entry["arrival_ns"]) / 1e9)
        ttft_errors.append((first - record.due_ns) / 1e9 - ttfts[-1])
        arrivals.append((entry["arrival_ns"] - (record.send_ns or record.due_ns)) / 1e9)
        chunks += len(record.chunk_ns)
        if tokens > 1:
            tpots.append((stamps[-1] - stamps[0]) / 1e9 / (totals[-1] - totals[0]))
            tpot_errors.append((last - first) / 1e9 / (tokens - 1) - tpots[-1])
    if not measured:
        raise ValueError("no request was measured")
    errors = sorted(ttft_errors)
    return Calibration(
        chunk_rate=chunks / client.window_seconds if client.window_seconds else 0.0,
        requests=len(measured),
        ttft=statistics.fmean(ttfts),
        ttft_error_mean=statistics.fmean(ttft_errors),
        ttft_error_p99=errors[min(len(errors) - 1, int(0.99 * len(errors)))],
        tpot=statistics.fmean(tpots) if tpots else 0.0,
        tpot_error_mean=statistics.fmean(tpot_errors) if tpot_errors else 0.0,
        cpu_share=client.cpu_share,
        cpu_per_chunk=client.cpu_seconds / chunks if chunks else 0.0,
        lag_p99=client.lag_p99,
        arrival_delay=statistics.fmean(arrivals),
        workers=client.workers,
        **facts,
    )
