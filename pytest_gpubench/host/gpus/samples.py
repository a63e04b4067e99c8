"""What a GPU does at one moment, whoever made it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

SLOWED_BY: Mapping[int, str] = {
    0x008: "hardware slowdown",
    0x020: "software thermal slowdown",
    0x040: "hardware thermal slowdown",
    0x080: "power brake",
}
"""Bits of NVML's clocks event reasons with which a GPU is slower than it was sold."""
CAPPED_BY: Mapping[int, str] = {0x004: "power cap", 0x010: "sync boost"}
"""Bits with which it is as fast as somebody allows it to be."""


@dataclass(frozen=True, slots=True)
class GpuSample:
    """One GPU at one moment; None where the driver does not support the question."""

    gpu: str
    """UUID."""
    at_ns: int
    """``time.monotonic_ns`` of this host."""
    power: float | None = None
    """Watts, averaged by the driver over about the last second on an H100."""
    energy: float | None = None
    """Joules since the driver was loaded."""
    sm_clock: int | None = None
    """MHz."""
    memory_clock: int | None = None
    """MHz."""
    temperature: int | None = None
    """Of the chip, in degrees Celsius."""
    utilization: int | None = None
    """Per cent of the driver's last sampling period in which a kernel ran."""
    memory_used: int | None = None
    """Bytes."""
    reasons: int | None = None
    """Bits of the clocks event reasons."""
    pids: tuple[int, ...] = ()
    """Processes that compute on it."""

    def to_json(self) -> dict[str, Any]:
        """Plain data for one line of JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> GpuSample:
        return cls(**{**plain, "pids": tuple(plain["pids"])})
