"""An estimate of what a server will find in its memory: weights, room for the KV cache, and how many requests that holds.

Weights and KV bytes follow from the shape and come close to the log's numbers. What the profiling run will take (activations, CUDA
graphs, libraries) does not, so it is an allowance fitted to the few servers that we have seen, and every rule that stops a launch
looks at the optimistic number without it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pytest_gpubench.doctor.settings import Settings
from pytest_gpubench.doctor.shape import BYTES, ModelShape
from pytest_gpubench.doctor.weights import Ranks, draft_bytes, kv_heads_per_rank, weight_bytes
from pytest_gpubench.model.hardware import Hardware
from pytest_gpubench.model.specs import Topology

GIB = 1024.0**3
_OUTSIDE_TORCH = 0.25
_COMMUNICATION = 0.75
_GRAPHS = 0.1
_ACTIVATION_WIDTHS = 12
"""Hidden-sized vectors per batched token that are alive at the peak."""
_KV_WIDTHS: Mapping[str, float] = {"fp8": 1.0, "fp8_e4m3": 1.0, "fp8_e5m2": 1.0, "float16": 2.0, "bfloat16": 2.0, "nvfp4": 0.5625}


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Of one rank, in GiB; tokens and concurrency of one data-parallel rank, as vLLM logs them."""

    total_gib: float
    budget_gib: float
    """What vLLM may use: total times utilization; on the CPU weights and KV space together are not bounded by it."""
    weights_gib: float
    draft_gib: float
    allowance_gib: float
    """Activations, CUDA graphs and libraries: a guess."""
    kv_gib: float
    """Room for the KV cache after the allowance; below zero: none."""
    kv_gib_at_most: float
    """Room if the allowance were zero."""
    kv_bytes_per_token: float
    exact_kv: bool
    """False: some layers keep less than every token, so the cache holds more tokens than said here."""
    block_size: int
    context_ranks: int
    """Decode-context-parallel ranks: each keeps its share of a request's tokens."""

    @property
    def loaded_gib(self) -> float:
        """What the log calls ``Model loading took``: target and draft."""
        return self.weights_gib + self.draft_gib

    @property
    def kv_tokens(self) -> int:
        """What the log calls ``GPU KV cache size``."""
        return self.tokens_in(self.kv_gib)

    def tokens_in(self, gib: float) -> int:
        """Tokens that fit into so much KV memory, whole blocks only."""
        if self.kv_bytes_per_token <= 0 or gib <= 0:
            return 0
        blocks = math.floor(gib * GIB / (self.kv_bytes_per_token * self.block_size))
        return blocks * self.block_size * self.context_ranks

    def concurrency(self, tokens_per_request: int, *, at_most: bool = False) -> float:
        """Requests of this length that fit at once (``Maximum concurrency`` for max-model-len)."""
        room = self.tokens_in(self.kv_gib_at_most if at_most else self.kv_gib)
        granule = self.block_size * self.context_ranks
        return room / (math.ceil(max(1, tokens_per_request) / granule) * granule)

    def errors(
        self, *, model_loading_gib: float | None = None, available_kv_gib: float | None = None, kv_tokens: int | None = None
    ) -> dict[str, float]:
        """Relative errors against the log's own numbers (0.1: ten percent too high), for those that were found in the log."""
        pairs = {
            "model_loading_gib": (self.loaded_gib, model_loading_gib),
            "available_kv_gib": (self.kv_gib, available_kv_gib),
            "kv_tokens": (float(self.kv_tokens), kv_tokens),
        }
        return {name: estimate / measured - 1 for name, (estimate, measured) in pairs.items() if measured}


def estimate_memory(
    target: ModelShape | None,
    draft: ModelShape | None,
    *,
    settings: Settings,
    topology: Topology,
    hardware: Hardware,
    total_gib: float | None = None,
    draft_tp: int = 0,
) -> MemoryEstimate | None:
    """Estimate one rank's memory, or None where something that it needs is not known.

    ``total_gib`` is the device's memory as the driver reports it (the hardware table's nominal value otherwise). ``draft_tp`` is
    the tensor parallel size of a separate draft, else 0; where the draft is not known the estimate is made without it.
    """
    kv_width = _kv_width(settings, target)
    if target is None or kv_width is None:
        return None
    tp, dp = topology.tensor_parallel_size, topology.dp
    weights = weight_bytes(target, Ranks(tp, topology.pp, tp * dp * topology.pcp))
    if weights is None:
        return None
    head = draft_bytes(draft, target, draft_tp) if draft_tp and draft is not None else None
    kv = _kv_bytes(target, tp, kv_width, settings) / topology.pp
    if draft_tp and draft is not None:
        kv += draft.layers * 2 * kv_heads_per_rank(draft, draft_tp) * draft.head_dim * kv_width
    total = total_gib if total_gib is not None else hardware.vram_gib
    cpu_space = _cpu_space(settings) if hardware.platform == "cpu" else None
    if hardware.platform == "cpu" and cpu_space is None:
        return None
    allowance = 0.0 if cpu_space is not None else _allowance(target, settings, topology)
    weights = max(0.0, weights - _amount(settings, "cpu-offload-gb") * GIB)
    loaded = (weights + (head or 0.0)) / GIB
    budget = total * settings.utilization
    fixed = _amount(settings, "kv-cache-memory-bytes")
    if fixed:
        allowance, cpu_space = 0.0, fixed / GIB
    free = budget - loaded if cpu_space is None else cpu_space
    return MemoryEstimate(
        total_gib=total,
        budget_gib=budget,
        weights_gib=weights / GIB,
        draft_gib=(head or 0.0) / GIB,
        allowance_gib=allowance,
        kv_gib=free - allowance,
        kv_gib_at_most=free,
        kv_bytes_per_token=kv,
        exact_kv=target.full_attention_only and (head is not None or not draft_tp),
        block_size=block_size_of(settings, target, hardware),
        context_ranks=topology.dcp,
    )


def block_size_of(settings: Settings, target: ModelShape | None, hardware: Hardware) -> int:
    """Tokens per KV block: as set, else 128 for MiniMax-M3's sparse attention and on the CPU, else vLLM's default of 16."""
    if settings.block_size is not None and settings.block_size > 0:
        return settings.block_size
    if target is not None and target.sparse is not None and target.sparse.block_size:
        return target.sparse.block_size
    return 128 if hardware.platform == "cpu" else 16


def _kv_width(settings: Settings, target: ModelShape | None) -> float | None:
    if settings.kv_cache_dtype != "auto":
        return _KV_WIDTHS.get(settings.kv_cache_dtype)
    return BYTES.get(settings.dtype if settings.dtype != "auto" else (target.dtype if target and target.dtype else "bfloat16"))


def _kv_bytes(target: ModelShape, tp: int, width: float, settings: Settings) -> float:
    """Bytes of one token in all layers of one rank (M3's index cache is one shared head, bf16 unless the indexer is told fp8)."""
    index = 0.0
    if target.sparse is not None:
        index_width = 1.0 if settings.part("attention-config", "indexer_kv_dtype") in ("fp8", "fp8_e4m3") else 2.0
        index = target.sparse.layers * target.sparse.index_dim * index_width
    return target.layers * 2 * kv_heads_per_rank(target, tp) * target.head_dim * width + index


def _allowance(target: ModelShape, settings: Settings, topology: Topology) -> float:
    tokens = settings.max_num_batched_tokens
    routed = target.experts_per_token * (target.expert_intermediate / topology.tensor_parallel_size + target.hidden)
    activations = tokens * 2 * (_ACTIVATION_WIDTHS * target.hidden + routed)
    logits = min(settings.max_num_seqs, tokens) * target.vocab * 4
    communication = _COMMUNICATION if topology.gpus > 1 else 0.0
    return (activations + logits) / GIB + _OUTSIDE_TORCH + communication + _GRAPHS


def _amount(settings: Settings, flag: str) -> float:
    value = settings.flags.get(flag)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else 0.0


def _cpu_space(settings: Settings) -> float | None:
    value = settings.environment.get("VLLM_CPU_KVCACHE_SPACE", "")
    return float(value) if value.isascii() and value.isdigit() else None
