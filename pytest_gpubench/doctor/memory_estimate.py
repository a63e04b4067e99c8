"""An estimate of what a server will find in its memory: weights, room for the KV cache, and how
many requests that holds.

Weights and KV bytes follow from the shape and come close to the log's numbers. What the profiling
run will take (activations, CUDA graphs, libraries) does not, so it is an allowance fitted to the
few servers that we have seen, and every rule that stops a launch looks at the optimistic number
without it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_gpubench.doctor.server_settings import Settings
from pytest_gpubench.doctor.shape import BYTES, ModelShape
from pytest_gpubench.doctor.weight_estimate import draft_bytes, kv_heads_per_rank, weight_bytes
from pytest_gpubench.model.frozen import integer, is_number, word
from pytest_gpubench.model.hardware import Hardware
from pytest_gpubench.model.specs import Topology

GIB = 1024.0**3
_OUTSIDE_TORCH = 0.25
_COMMUNICATION = 0.75
_GRAPHS = 0.1
_ACTIVATION_WIDTHS = 12
"""Hidden-sized vectors per batched token that are alive at the peak."""
_KV_WIDTHS: dict[str, float] = {
    "fp8": 1.0,
    "fp8_e4m3": 1.0,
    "fp8_e5m2": 1.0,
    "float16": 2.0,
    "bfloat16": 2.0,
    "nvfp4": 0.5625,
}


def least_weights(
    shape: ModelShape | None, settings: Settings, topology: Topology, on_disk: float | None
) -> float | None:
    """Bytes of the weight files on one rank, spread as evenly as can be; None where the files are
    not at hand, or are not what is loaded (``--quantization``)."""
    if on_disk is None or settings.flags.get("quantization") or settings.flags.get("load-format"):
        return None
    cast = 1.0
    if shape is not None and not shape.quantization and settings.dtype == "auto":
        cast = min(1.0, 2.0 / BYTES.get(shape.dtype or "bfloat16", 2.0))  # float32 is cast
    ranks = topology.pp * max(topology.tensor_parallel_size, topology.expert_ranks)
    return max(0.0, on_disk * cast / ranks - _amount(settings, "cpu-offload-gb") * GIB)


def _weights(
    shape: ModelShape, settings: Settings, topology: Topology, on_disk: float | None
) -> float | None:
    """Bytes on the fullest rank: of the files, distributed as the shape says; else estimated."""
    estimated = weight_bytes(shape, topology)
    least = least_weights(shape, settings, topology, on_disk)
    if least is None:
        return None if settings.flags.get("quantization") and not shape.quantization else estimated
    whole = weight_bytes(shape, Topology())
    ranks = topology.pp * max(topology.tensor_parallel_size, topology.expert_ranks)
    share = estimated * ranks / whole if estimated and whole else 1.0
    return least * max(1.0, share)


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Of one rank, in GiB; tokens and concurrency of one data-parallel rank, as vLLM logs them."""

    total_gib: float
    budget_gib: float
    """What vLLM may use: total times utilization; on the CPU weights and KV space together are not
    bounded by it."""
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
    """False: some layers keep less than every token, so the cache holds more tokens than said
    here."""
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
        self,
        *,
        model_loading_gib: float | None = None,
        available_kv_gib: float | None = None,
        kv_tokens: int | None = None,
    ) -> dict[str, float]:
        """Relative errors against the log's own numbers (0.1: ten percent too high), for those that
        were found in the log."""
        pairs = {
            "model_loading_gib": (self.loaded_gib, model_loading_gib),
            "available_kv_gib": (self.kv_gib, available_kv_gib),
            "kv_tokens": (float(self.kv_tokens), kv_tokens),
        }
        return {
            name: estimate / measured - 1
            for name, (estimate, measured) in pairs.items()
            if measured
        }


def estimate_memory(
    target: ModelShape | None,
    draft: ModelShape | None,
    *,
    settings: Settings,
    topology: Topology,
    hardware: Hardware,
    total_gib: float | None = None,
    draft_tp: int = 0,
    on_disk: float | None = None,
) -> MemoryEstimate | None:
    """Estimate one rank's memory, or None where something that it needs is not known.

    ``total_gib`` is the device's memory as the driver reports it (the hardware table's nominal
    value otherwise). ``draft_tp`` is the tensor parallel size of a separate draft, else 0; where
    the draft is not known the estimate is made without it. ``on_disk``: bytes of the weight files.
    """
    kv_width = _kv_width(settings, target)
    if target is None or kv_width is None:
        return None
    weights = _weights(target, settings, topology, on_disk)
    kv = _kv_bytes(target, topology.tensor_parallel_size, kv_width, settings)
    if weights is None or kv is None:
        return None
    kv /= topology.pp
    head = None
    if draft_tp and draft is not None:
        head = draft_bytes(draft, target, draft_tp)
        kv += _cache_bytes(draft, draft_tp, kv_width) or 0
    total = total_gib if total_gib is not None else hardware.vram_gib
    weights = max(0.0, weights - _amount(settings, "cpu-offload-gb") * GIB)
    loaded = (weights + (head or 0.0)) / GIB
    budget = total * settings.utilization
    free = None  # what is set aside for the cache, whatever the weights leave
    if hardware.platform == "cpu":
        free = _cpu_space(settings)
        if free is None:
            return None
    if fixed := _amount(settings, "kv-cache-memory-bytes"):
        free = fixed / GIB
    allowance = 0.0
    if free is None:
        free, allowance = budget - loaded, _allowance(target, settings, topology)
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
    """Tokens per KV block: as set, else 128 for MiniMax-M3's sparse attention and on the CPU, else
    vLLM's default of 16."""
    if settings.block_size is not None and settings.block_size > 0:
        return settings.block_size
    if target is not None and target.sparse is not None and target.sparse.block_size:
        return target.sparse.block_size
    return 128 if hardware.platform == "cpu" else 16


def _kv_width(settings: Settings, target: ModelShape | None) -> float | None:
    if settings.kv_cache_dtype != "auto":
        return _KV_WIDTHS.get(settings.kv_cache_dtype)
    if target is not None and (kind := _quantized_cache(target.quant_config)):
        return _KV_WIDTHS[kind]
    if settings.dtype != "auto":
        return BYTES.get(settings.dtype)
    return BYTES.get(target.dtype if target and target.dtype else "bfloat16")


def _cache_bytes(shape: ModelShape, tp: int, width: float) -> float | None:
    """Bytes of one token's keys and values in all layers of one rank; None where it is not known
    which layers keep tokens. Latent attention keeps one vector, on every rank, and its indexer one
    more, a byte wide with a scale per 32."""
    layers = _layers_with_tokens(shape)
    if layers is None:
        return None
    if shape.latent_dim:
        index = shape.latent.index_dim if shape.latent else 0
        return layers * (shape.latent_dim * width + index * (1 + 1 / 32))
    if shape.kv_heads is None or shape.head_dim is None:
        return None
    return layers * 2 * kv_heads_per_rank(shape.kv_heads, tp) * shape.head_dim * width


def _layers_with_tokens(shape: ModelShape) -> int | None:
    if shape.hybrid is not None:
        return shape.hybrid.attention
    if shape.has_state:
        return shape.layers - shape.linear.layers if shape.linear and shape.layers else None
    return shape.layers


def _kv_bytes(target: ModelShape, tp: int, width: float, settings: Settings) -> float | None:
    """Of one token in all layers of one rank, M3's index cache included: one shared head, bf16
    unless the indexer is told fp8."""
    cache = _cache_bytes(target, tp, width)
    if cache is None or target.sparse is None or target.sparse.index_dim is None:
        return cache
    index_width = (
        1.0 if settings.part("attention-config", "indexer_kv_dtype") in ("fp8", "fp8_e4m3") else 2.0
    )
    return cache + target.sparse.layers * target.sparse.index_dim * index_width


def _allowance(target: ModelShape, settings: Settings, topology: Topology) -> float:
    """A guess, so what the config.json does not give is left out."""
    tokens, hidden = settings.max_num_batched_tokens, target.hidden or 0
    routed = 0.0
    if target.experts_per_token:
        routed = target.experts_per_token * (
            (target.expert_intermediate or 0) / topology.tensor_parallel_size + hidden
        )
    activations = tokens * 2 * (_ACTIVATION_WIDTHS * hidden + routed)
    logits = min(settings.max_num_seqs, tokens) * (target.vocab or 0) * 4
    communication = _COMMUNICATION if topology.gpus > 1 else 0.0
    return (activations + logits) / GIB + _OUTSIDE_TORCH + communication + _GRAPHS


def _amount(settings: Settings, flag: str) -> float:
    """A flag's number, 0 where it is not set."""
    value = settings.flags.get(flag)
    return max(0.0, float(value)) if is_number(value) else 0.0


def _cpu_space(settings: Settings) -> float | None:
    value = settings.environment.get("VLLM_CPU_KVCACHE_SPACE", "")
    return float(value) if value.isascii() and value.isdigit() else None


def _quantized_cache(quant: Mapping[str, Any]) -> str:
    """The type of KV cache that weights were calibrated for, which ``kv-cache-dtype: auto`` takes:
    ``fp8``, ``nvfp4``, or empty."""
    scheme = quant.get("kv_cache_scheme")
    if not isinstance(scheme, Mapping):
        algorithm = word(quant, "kv_cache_scheme", "kv_cache_quant_algo").lower()
        return algorithm if algorithm in ("fp8", "nvfp4") else ""
    if scheme.get("type") != "float":
        return ""
    return {8: "fp8", 4: "nvfp4"}.get(integer(scheme.get("num_bits")) or 0, "")
