"""Rows of a search space to points: the expansion of InferenceX."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pytest_gpubench.model.cases import SourcePosition
from pytest_gpubench.model.specs import Topology
from pytest_gpubench.recipes.expressions import Value
from pytest_gpubench.recipes.schema import Row

MODEL_LEN_MARGIN = 256
"""InferenceX gives every server this many tokens beyond isl + osl."""


def concurrencies(row: Row) -> tuple[int, ...]:
    """The list as written, or conc-start doubled until conc-end, which is always the last: 4 to 100 is 4 8 16 32 64 100."""
    if row.conc_list is not None:
        return tuple(row.conc_list)
    if row.conc_start is None or row.conc_end is None:
        return ()
    return tuple(_doubled(row.conc_start, row.conc_end))


def _doubled(start: int, end: int) -> Iterator[int]:
    conc = start
    while conc < end:
        yield conc
        conc *= 2
    yield end


def topology(row: Row) -> Topology:
    """The row's parallelism; an ``ep`` that is not written is 1."""
    return Topology(tp=row.tp, pp=row.pp, pcp=row.pcp_size, dcp=row.dcp_size, ep=row.ep or 1, dp_attn=row.dp_attn)


@dataclass(frozen=True, slots=True)
class Point:
    """A row at one concurrency, before anything is resolved."""

    topology: Topology
    isl: int
    osl: int
    conc: int
    speculative: bool
    at: SourcePosition

    def names(self, hardware: str, precision: str, framework: str) -> dict[str, Value]:
        """The names of expressions that the row decides."""
        it = self.topology
        return {
            "isl": self.isl, "osl": self.osl, "conc": self.conc,
            "tp": it.tp, "ep": it.ep, "pp": it.pp, "pcp": it.pcp, "dcp": it.dcp, "dp_attn": it.dp_attn, "gpus": it.gpus,
            "dp": it.dp, "tensor_parallel_size": it.tensor_parallel_size, "expert_parallel": it.expert_parallel,
            "hardware": hardware, "precision": precision, "framework": framework,
        }  # fmt: skip
