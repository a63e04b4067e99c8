"""What a recipe measures: scenarios, and the rows of their search spaces."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pytest_gpubench.recipes.fields import Concurrency, Ranks, Section, Text, Tokens, fail


class Row(Section):
    """One row of a search space: a topology and the concurrencies at which it is measured."""

    tp: Ranks
    """GPUs of the attention and expert group: tensor parallelism, or data parallelism with
    `dp-attn`."""
    pp: Ranks = 1
    """Pipeline-parallel stages, each with GPUs of its own."""
    pcp_size: Ranks = 1
    """Prefill-context-parallel ranks, each with GPUs of its own."""
    dcp_size: Ranks = 1
    """Decode-context-parallel ranks; they reuse the GPUs of `tp`, so it divides `tp`."""
    ep: Ranks | None = None
    """1, or equal to tp; some engines take any divisor of tp."""
    dp_attn: bool = False
    """Attention is data-parallel over the ranks. With `ep` equal to `tp` experts are spread over
    them (DEP); some engines also take it without (`ep: 1`)."""
    spec_decoding: Literal["mtp", "none"] = "none"
    """`mtp`: the row is served with `speculative` and its id says mtp; `none`: without a draft."""
    conc_start: Concurrency | None = None
    """Lowest concurrency; it doubles up to `conc-end`."""
    conc_end: Concurrency | None = None
    """Highest concurrency; always measured, also where doubling steps over it."""
    conc_list: Annotated[list[Concurrency], Field(min_length=1, max_length=1000)] | None = None
    """Concurrencies one by one, instead of `conc-start` and `conc-end`."""

    @model_validator(mode="after")
    def _consistent(self) -> Row:
        start, end = self.conc_start, self.conc_end
        if self.conc_list is not None and (start, end) != (None, None):
            raise fail("conc-list and conc-start/conc-end exclude each other; keep one")
        if self.conc_list is None and None in (start, end):
            raise fail("needs conc-list, or both conc-start and conc-end")
        if start is not None and end is not None and start > end:
            raise fail(f"conc-start {start} is above conc-end {end}")
        if self.conc_list is not None and len(set(self.conc_list)) != len(self.conc_list):
            raise fail("conc-list names a concurrency twice; remove the duplicate")
        if self.ep is not None and self.tp % self.ep:
            raise fail(f"ep {self.ep} with tp {self.tp}: ep must divide tp; it is 1 or equal to tp")
        if self.tp % self.dcp_size:
            raise fail(f"dcp-size {self.dcp_size} does not divide tp {self.tp}")
        return self


class FixedSeqLen(Section):
    """Lengths in tokens, and the search space for them."""

    isl: Tokens
    """Input length in tokens, chat template included."""
    osl: Tokens
    """Output length in tokens."""
    search_space: Annotated[list[Row], Field(min_length=1, max_length=1000)]
    """Rows: topologies and the concurrencies at which they are measured."""


class Component(Section):
    """A program beside the engine."""

    name: Text
    """Its name: `mooncake`, `hicache`, ..."""
    version: Text | None = None
    """Its version."""


class AgenticRow(Row):
    """One row of an agentic search space; concurrencies are sessions."""

    kv_offloading: Literal["none", "dram"]
    """Where KV blocks go that the GPU has no room for: nowhere, or into the host's memory."""
    kv_offload_backend: Component | None = None
    """What moves them, with `dram`."""
    router: Component | None = None
    """What spreads sessions over data-parallel ranks."""

    @model_validator(mode="after")
    def _backend_with_offloading(self) -> AgenticRow:
        if (self.kv_offloading == "none") != (self.kv_offload_backend is None):
            raise fail("kv-offload-backend goes with kv-offloading dram; write both or neither")
        return self


class AgenticCoding(Section):
    """Traces of coding sessions, and the search space for them; AIPerf replays them."""

    dram_utilization: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the host's memory that `kv-offloading: dram` may use, over all GPUs of a node."""
    search_space: Annotated[list[AgenticRow], Field(min_length=1, max_length=1000)]
    """Rows: topologies, offloading and the numbers of sessions."""

    @model_validator(mode="after")
    def _sized(self) -> AgenticCoding:
        dram = any(row.kv_offloading == "dram" for row in self.search_space)
        if dram and self.dram_utilization is None:
            raise fail("kv-offloading dram needs dram-utilization; add it, 0.8 for instance")
        return self


class Scenarios(Section):
    """What is measured."""

    fixed_seq_len: Annotated[list[FixedSeqLen], Field(min_length=1, max_length=1000)] | None = None
    """Lengths and their search spaces."""
    agentic_coding: Annotated[list[AgenticCoding], Field(min_length=1, max_length=1000)] | None = (
        None
    )
    """Traces of coding sessions, replayed by `client: {tool: aiperf}`."""
