"""What a client's error against a known truth is, at a concurrency and a rate. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from pytest_gpubench.load.protocol import ClientFacts, RequestRecord

MAX_TTFT_ERROR = 0.10
"""Of the true TTFT, in the mean over the requests."""
MAX_TPOT_ERROR = 0.005
"""Of the true TPOT, likewise."""
MARGIN = 1.1
"""A run may be this much above what was calibrated."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """The client of this host against the loopback server. Times in seconds, errors are client
    minus truth."""

    conc: int
    chunk_rate: float
    """Chunks per second that the client received."""
    asked_rate: float
    """Chunks per second that were planned."""
    requests: int
    ttft: float
    """The truth's mean: the server's own times, from the arrival of a request in its kernel to the
    write of its first chunk."""
    ttft_error_mean: float
    ttft_error_p99: float
    tpot: float
    tpot_error_mean: float
    cpu_share: float
    """CPU seconds per second of one client process."""
    cpu_per_chunk: float
    lag_p99: float
    arrival_delay: float = 0.0
    """Mean time from the client's write to the arrival in the server's kernel: part of the TTFT
    error, but the kernel's, not the client's. In calibrations of older versions, and where the
    kernel does not say, it goes on to the server's read."""
    workers: int = 1
    host: str = ""
    """Processor and number of cores."""
    load_average: float = 0.0
    """Of the last minute, when it was made: other work on the host is part of the result."""
    software: str = ""
    """Python and event loop of the client."""
    made: str = ""
    """When, ISO 8601."""

    def covers(self, in_flight: int, rate: float) -> bool:
        """Whether a run with so many requests in flight and chunks per second is within what was
        calibrated, and its margin."""
        return in_flight <= MARGIN * self.conc and rate <= MARGIN * self.chunk_rate

    @property
    def problem(self) -> str:
        """Why this client cannot measure at this rate, or empty."""
        own = self.ttft_error_mean - self.arrival_delay
        if own > MAX_TTFT_ERROR * self.ttft:
            return f"its mean TTFT is {own * 1e3:.1f} ms above the true {self.ttft * 1e3:.1f} ms"
        if abs(self.tpot_error_mean) > MAX_TPOT_ERROR * self.tpot:
            return (
                f"its mean TPOT is {self.tpot_error_mean / self.tpot:+.1%} off the true "
                f"{self.tpot * 1e3:.2f} ms"
            )
        if self.chunk_rate < self.asked_rate / MARGIN:
            return f"it reached {self.chunk_rate:,.0f} of {self.asked_rate:,.0f} chunks/s"
        return ""

    def to_json(self) -> dict[str, Any]:
        """Plain data for a record."""
        return asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Calibration:
        """The inverse of ``to_json``.

        Raises:
            TypeError: if a field is missing, unknown or no number where one belongs.
        """
        calibration = cls(**plain)
        numbers = [getattr(calibration, it.name) for it in fields(cls) if it.type != "str"]
        if not all(isinstance(value, int | float) and math.isfinite(value) for value in numbers):
            raise TypeError("a calibration is made of numbers")
        return calibration


def best_of(calibrations: Sequence[Calibration], in_flight: int, rate: float) -> Calibration | None:
    """The calibration that speaks for a run: a usable one that covers it, else one that forbids it;
    None: there is none at all."""
    order = sorted(calibrations, key=lambda calibration: (calibration.conc, calibration.chunk_rate))
    covering = [calibration for calibration in order if calibration.covers(in_flight, rate)]
    usable = [calibration for calibration in covering if not calibration.problem]
    return next(iter([*usable, *covering, *reversed(order)]), None)


def table_of(calibrations: Sequence[Calibration]) -> str:
    """One line per calibration, for a terminal. "on the way" is the part of the TTFT error that is
    not the client's."""
    table = [[title, *map(cell_of, calibrations)] for title, cell_of in _COLUMNS.items()]
    wide = [[cell.rjust(max(map(len, column))) for cell in column] for column in table]
    verdicts = [f"not usable: {it.problem}" if it.problem else "usable" for it in calibrations]
    lines = zip(*wide, ["", *verdicts], strict=True)
    return "\n".join("  ".join(line).rstrip() for line in lines)


_COLUMNS: dict[str, Callable[[Calibration], str]] = {
    "conc": lambda it: f"{it.conc}",
    "workers": lambda it: f"{it.workers}",
    "chunks/s": lambda it: f"{it.chunk_rate:,.0f}",
    "planned": lambda it: f"{it.asked_rate:,.0f}",
    "TTFT error": lambda it: f"{it.ttft_error_mean * 1e3:+.2f} ms",
    "its p99": lambda it: f"{it.ttft_error_p99 * 1e3:+.2f} ms",
    "on the way": lambda it: f"{it.arrival_delay * 1e3:.2f} ms",
    "TPOT error": lambda it: f"{it.tpot_error_mean / it.tpot:+.2%}" if it.tpot else "-",
    "CPU": lambda it: f"{it.cpu_share:.0%}",
    "us/chunk": lambda it: f"{it.cpu_per_chunk * 1e6:.1f}",
}


def compare(
    records: Sequence[RequestRecord],
    truth: Sequence[Mapping[str, Any]],
    client: ClientFacts,
    **facts: Any,
) -> Calibration:
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
            raise ValueError(
                f"request {record.index}: {record.error or 'the loopback server does not know it'}"
            )
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
        ttft=_mean(ttfts),
        ttft_error_mean=_mean(ttft_errors),
        ttft_error_p99=errors[min(len(errors) - 1, int(0.99 * len(errors)))],
        tpot=_mean(tpots),
        tpot_error_mean=_mean(tpot_errors),
        cpu_share=client.cpu_share,
        cpu_per_chunk=client.cpu_seconds / chunks if chunks else 0.0,
        lag_p99=client.lag_p99,
        arrival_delay=_mean(arrivals),
        workers=client.workers,
        **facts,
    )


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else 0.0
