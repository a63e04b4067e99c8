"""Axes: from values to places and tick marks. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from pytest_gpubench.report.numbers import tick

Kind: TypeAlias = Literal["linear", "log2", "log10"]


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps values between ``low`` and ``high`` to pixels between ``start`` and ``end`` (which may
    run backwards)."""

    kind: Kind
    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        low, high, value = (self._flat(number) for number in (self.low, self.high, value))
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + min(max(share, -0.02), 1.02) * (self.end - self.start)

    def ticks(self, room: float) -> list[float]:
        """Values to mark, at least ``room`` pixels apart."""
        most = max(2, int(abs(self.end - self.start) / room) + 1)
        if self.kind == "linear":
            return _linear_ticks(self.low, self.high, most)
        return _log_ticks(self.low, self.high, most, 2 if self.kind == "log2" else 10)

    def _flat(self, value: float) -> float:
        return math.log(max(value, 1e-12)) if self.kind != "linear" else value


def scale_for(
    values: Sequence[float],
    kind: Kind,
    start: float,
    end: float,
    *,
    zero: bool = False,
    top: float | None = None,
) -> Scale:
    """A scale that holds the values, widened to round numbers; ``zero``: begins at 0 (linear only).

    Values that a logarithmic scale cannot show must be left out by the caller.
    """
    low, high = min(values, default=0.0), max(values, default=1.0)
    if kind == "linear":
        low = 0.0 if zero and low >= 0 else low
        high = high if top is None else top
        if high <= low:
            high = low + (abs(low) or 1.0)
        step = _step(high - low, 5)
        return Scale(
            kind,
            math.floor(low / step + 1e-9) * step,
            math.ceil(high / step - 1e-9) * step if top is None else top,
            start,
            end,
        )
    if high <= low * 1.0001:
        low, high = low / 2, high * 2
    return Scale(kind, low / 1.12, high * 1.12, start, end)


def tick_labels(ticks: Sequence[float], form: Callable[[float], str] = tick) -> list[str]:
    """Labels of ticks."""
    return [form(value) for value in ticks]


def _step(length: float, most: int) -> float:
    raw = length / max(most, 1)
    power = 10 ** math.floor(math.log10(raw)) if raw > 0 else 1.0
    return next(
        (factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999),
        10 * power,
    )


def _linear_ticks(low: float, high: float, most: int) -> list[float]:
    step = _step(high - low, most - 1)
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first + 1
    return [round((first + index) * step, 12) for index in range(max(0, min(count, 50)))]


def _log_ticks(low: float, high: float, most: int, base: int) -> list[float]:
    first, last = math.ceil(math.log(low, base) - 1e-9), math.floor(math.log(high, base) + 1e-9)
    powers = [float(base) ** power for power in range(first, last + 1)][:400]
    if base == 10 and len(powers) * 3 <= most:
        fine = [
            factor * 10.0**power for power in range(first - 1, last + 1) for factor in (1, 2, 5)
        ]
        powers = [value for value in fine if low <= value <= high]
    if len(powers) < 2:
        return _linear_ticks(low, high, most)
    stride = math.ceil(len(powers) / most)
    return powers[::stride]
