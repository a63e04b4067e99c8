"""Numbers as people read them: alone, and metrics as columns of tables of cases in the terminal, in
a comment, on the page; and what counts as a number in a file that anybody may have written."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from pytest_gpubench.model.evaluation import ACCURACY
from pytest_gpubench.model.metrics import ACCEPTANCE


def finite(value: object) -> float | None:
    """The value if it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


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


@dataclass(frozen=True, slots=True)
class Column:
    """How a metric is shown."""

    metric: str
    title: str
    scale: float = 1.0
    digits: int = 1

    def cell(
        self, metrics: Mapping[str, float], tentative: Collection[str], absent: str = "-"
    ) -> str:
        """The value, in brackets where it rests on too few requests."""
        if self.metric not in metrics:
            return absent
        text = f"{metrics[self.metric] * self.scale:,.{self.digits}f}"
        return f"({text})" if self.metric in tentative else text


_COLUMNS = (
    Column("output_tput", "out tok/s"),
    Column("output_tput_per_gpu", "tok/s/GPU"),
    Column("input_tput_per_gpu", "in tok/s/GPU"),
    Column("interactivity", "tok/s/user"),
    Column("ttft_p50", "TTFT p50 ms", 1e3),
    Column("ttft_p90", "TTFT p90 ms", 1e3),
    Column("ttft_p99", "TTFT p99 ms", 1e3),
    Column("tpot_p50", "TPOT p50 ms", 1e3, 2),
    Column("tpot_p99", "TPOT p99 ms", 1e3, 2),
    Column("e2e_p50", "E2E p50 s", digits=2),
    Column(ACCEPTANCE, "accept len", digits=2),
    Column(ACCURACY, "right %", 100.0),
    Column("energy_per_output_token", "J/tok", digits=3),
)


def columns(*metrics: str) -> tuple[Column, ...]:
    """The columns of these metrics, in this order."""
    by_metric = {column.metric: column for column in _COLUMNS}
    return tuple(by_metric[metric] for metric in metrics)


def with_values(wanted: Iterable[Column], rows: Iterable[Mapping[str, float]]) -> list[Column]:
    """The columns for which some row has a value."""
    present = {metric for row in rows for metric in row}
    return [column for column in wanted if column.metric in present]
