"""Numbers as people read them, and what counts as one in a file that anybody may have written."""

from __future__ import annotations

import math

from pytest_gpubench.gate.wording import quantity
from pytest_gpubench.model.metrics import METRICS


def finite(value: object) -> float | None:
    """The value if it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def shown(metric: str, value: float) -> str:
    """A metric's value with its unit; a metric that this version does not know has none."""
    return quantity(metric, value) if metric in METRICS else short(value)


def short(value: float) -> str:
    """About three significant digits: ``0.123``, ``12.3``, ``1,234``."""
    size = abs(value)
    if size and size < 0.001:
        return f"{value:.2g}"
    if value == int(value):
        return f"{value:,.0f}"
    digits = next((digits for least, digits in ((100, 0), (10, 1), (1, 2)) if size >= least), 3)
    return f"{value:,.{digits}f}"


def tick(value: float) -> str:
    """A tick's label: ``500``, ``2k``, ``1.5k``, ``0.25``."""
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g}{letter}"
    return f"{value:.3g}"


def seconds(value: float) -> str:
    """A duration: ``41.2 ms``, ``3.21 s``, ``12 min 5 s``, ``1 h 02 min``."""
    if abs(value) < 1:
        return f"{value * 1000:.3g} ms"
    if value < 100:
        return f"{value:.3g} s"
    if value < 3600:
        return f"{int(value // 60)} min {int(value % 60)} s"
    return f"{int(value // 3600)} h {int(value % 3600 // 60):02d} min"
