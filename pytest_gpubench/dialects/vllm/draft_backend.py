"""The attention backend that a draft gets where its recipe names none."""

from __future__ import annotations

from collections.abc import Mapping

from pytest_gpubench.model.hardware import platform_of
from pytest_gpubench.model.specs import Speculative

FLASHINFER_PAGES = (16, 32, 64)
"""Block sizes (tokens) that FlashInfer takes for every layout of heads; 128 and more it takes on
Blackwell only, for grouped heads only (vLLM 0.26 and 0.32, flashinfer.py)."""
DEFAULT_BACKEND = "FLASH_ATTN"
"""Takes every multiple of 16, and any number of heads; no multi-head latent attention."""


def default_backend(method: str, hardware: str, serve: Mapping[str, object]) -> str | None:
    """``FLASH_ATTN`` for an EAGLE3 draft on NVIDIA behind a block size that FlashInfer, which vLLM
    may choose, cannot serve; else None, the engine's choice.

    An EAGLE3 draft is MHA or GQA unless its name or config says otherwise; the doctor looks into
    the config.
    """
    size = serve.get("block-size")
    if method != "eagle3" or platform_of(hardware) != "cuda":
        return None
    if not isinstance(size, int) or size in FLASHINFER_PAGES:
        return None
    return DEFAULT_BACKEND


def is_default(draft: Speculative, hardware: str, serve: Mapping[str, object]) -> bool:
    """Whether the draft's backend is the one that it gets by default."""
    default = default_backend(draft.method, hardware, serve)
    return default is not None and draft.attention_backend == default
