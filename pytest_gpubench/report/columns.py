"""Metrics as columns of the tables of cases: in the terminal, in a comment, on the page."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from pytest_gpubench.model.evaluation import ACCURACY
from pytest_gpubench.model.metrics import ACCEPTANCE


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
