"""Whether GPUs have come to rest under load: warm, at a steady clock. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pytest_gpubench.host.gpus.samples import GpuSample
from pytest_gpubench.model.grouping import grouped

DEGREES = 1
"""Celsius that the warmest GPU may still change between two loads, as the driver counts them."""
CLOCK_SHARE = 0.01
"""Part by which a GPU's clock may still change."""


@dataclass(frozen=True, slots=True)
class Warmth:
    """A GPU under one load; None where its driver does not say."""

    temperature: int | None
    """Highest, degrees Celsius."""
    sm_clock: float | None
    """Median while it computed, MHz."""


def warmth_of(samples: Iterable[GpuSample]) -> dict[str, Warmth]:
    """What samples of one load say, by GPU."""
    found = {}
    for gpu, its in grouped(samples, lambda sample: sample.gpu).items():
        temperatures = [one.temperature for one in its if one.temperature is not None]
        clocks = [one.sm_clock for one in its if one.sm_clock is not None and one.utilization]
        found[gpu] = Warmth(
            max(temperatures, default=None), statistics.median(clocks) if clocks else None
        )
    return found


def has_settled(before: Mapping[str, Warmth], now: Mapping[str, Warmth]) -> bool:
    """Whether no GPU has changed since the load before; what no driver says has not changed. A GPU
    that was not sampled then has nothing to be compared with."""
    return all(
        gpu in before
        and _is_near(before[gpu].temperature, warmth.temperature, DEGREES)
        and _is_near(before[gpu].sm_clock, warmth.sm_clock, CLOCK_SHARE * (warmth.sm_clock or 0.0))
        for gpu, warmth in now.items()
    )


def _is_near(before: float | None, now: float | None, most: float) -> bool:
    return before is None or now is None or abs(now - before) <= most
