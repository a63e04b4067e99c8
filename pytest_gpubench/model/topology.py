"""Parallelism of one server, as a recipe row writes it and as vLLM understands it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Topology:
    """One server's parallelism, in InferenceX's words: ``tp`` counts the GPUs of the attention and expert group.

    DEP8 (data-parallel attention with expert parallelism) is ``tp=8, ep=8, dp_attn=True``; vLLM starts it with tensor parallel
    size 1, data parallel size 8 and expert parallelism on.
    """

    tp: int = 1
    pp: int = 1
    """Pipeline-parallel stages."""
    pcp: int = 1
    """Prefill-context-parallel ranks (each its own GPUs)."""
    dcp: int = 1
    """Decode-context-parallel ranks (they reuse the TP GPUs)."""
    ep: int = 1
    """1, or equal to ``tp``: vLLM takes no expert-parallel size."""
    dp_attn: bool = False

    @property
    def gpus(self) -> int:
        """GPUs (or CPU sockets' worth of ranks) that the server occupies."""
        return self.tp * self.pp * self.pcp

    @property
    def dp(self) -> int:
        """Data-parallel ranks."""
        return self.tp if self.dp_attn else 1

    @property
    def tensor_parallel_size(self) -> int:
        """What vLLM calls tensor parallel size."""
        return 1 if self.dp_attn else self.tp

    @property
    def expert_parallel(self) -> bool:
        """Whether experts are spread over the ranks instead of being cut."""
        return self.dp_attn or self.ep > 1

    @property
    def label(self) -> str:
        """Short name in ids: ``tp8``, ``tep8``, ``dep8``, ``tp4.pp2``; sizes at their default are left out."""
        kind = "dep" if self.dp_attn else "tep" if self.ep > 1 else "tp"
        extra = [f"{name}{size}" for name, size in (("pp", self.pp), ("pcp", self.pcp), ("dcp", self.dcp)) if size != 1]
        return ".".join([f"{kind}{self.tp}", *extra])
