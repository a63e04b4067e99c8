"""The hardware table: what a hardware key in a recipe means."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

Platform: TypeAlias = Literal["cpu", "cuda", "rocm", "hpu"]


@dataclass(frozen=True, slots=True)
class Hardware:
    """One kind of accelerator, or the CPU.

    Memory is per device, in GiB as the driver reports it (nominal where we have not read it).
    """

    key: str
    platform: Platform
    vram_gib: float = 0.0
    gpus_per_node: int = 1
    compute_capability: int = 0
    """NVIDIA only: major * 10 + minor; 80 is Ampere, 89 Ada, 90 Hopper, 100, 103, 120 Blackwell."""
    nvlink: bool = False
    name_patterns: tuple[str, ...] = ()
    """Words of the driver's product name, all of which must occur, upper case; the longest match
    wins (GB200 over B200)."""


_TABLE: tuple[Hardware, ...] = (
    Hardware("cpu", "cpu"),
    Hardware("h100", "cuda", 79.6, 8, 90, True, ("H100",)),
    Hardware("h200", "cuda", 140.4, 8, 90, True, ("H200",)),
    Hardware("b200", "cuda", 179.0, 8, 100, True, ("B200",)),
    Hardware("b300", "cuda", 268.0, 8, 103, True, ("B300",)),
    Hardware("gb200", "cuda", 185.0, 4, 100, True, ("GB200",)),
    Hardware("gb300", "cuda", 278.0, 4, 103, True, ("GB300",)),
    Hardware("h20", "cuda", 96.0, 8, 90, True, ("H20",)),
    Hardware("a100", "cuda", 80.0, 8, 80, True, ("A100",)),
    Hardware("a10", "cuda", 24.0, 8, 86, False, ("A10",)),
    Hardware("a10g", "cuda", 24.0, 8, 86, False, ("A10G",)),
    Hardware("l4", "cuda", 24.0, 8, 89, False, ("L4",)),
    Hardware("l40s", "cuda", 48.0, 8, 89, False, ("L40S",)),
    Hardware("rtx4090", "cuda", 24.0, 8, 89, False, ("RTX", "4090")),
    Hardware("rtx5090", "cuda", 32.0, 8, 120, False, ("RTX", "5090")),
    Hardware("rtxpro6000", "cuda", 96.0, 8, 120, False, ("RTX", "PRO", "6000")),
    Hardware("gb10", "cuda", 128.0, 1, 121, False, ("GB10",)),
    Hardware("mi250x", "rocm", 64.0, 8, 0, False, ("MI250X",)),
    Hardware("mi300x", "rocm", 192.0, 8, 0, False, ("MI300X",)),
    Hardware("mi325x", "rocm", 256.0, 8, 0, False, ("MI325X",)),
    Hardware("mi355x", "rocm", 288.0, 8, 0, False, ("MI355X",)),
    Hardware("gaudi2", "hpu", 96.0, 8),
    Hardware("gaudi3", "hpu", 128.0, 8),
)
HARDWARE: dict[str, Hardware] = {entry.key: entry for entry in _TABLE}


def platform_of(key: str) -> Platform:
    """The platform of a hardware key; what a recipe file declares is an NVIDIA GPU."""
    return HARDWARE[key].platform if key in HARDWARE else "cuda"


def name_words(product_name: str) -> tuple[str, ...]:
    """The words of a driver's product name, as `Hardware.name_patterns` has them."""
    return tuple(re.sub("[-_]", " ", product_name.upper()).split())


def hardware_of_device(product_name: str, *declared: Hardware) -> Hardware | None:
    """The entry of the table (or of what a recipe file declares beside it) for a driver's product
    name (``NVIDIA H100 80GB HBM3``), or None where there is none."""
    words = name_words(product_name)
    named = [
        entry
        for entry in (*_TABLE, *declared)
        if entry.name_patterns and all(pattern in words for pattern in entry.name_patterns)
    ]
    return max(named, key=lambda entry: sum(map(len, entry.name_patterns)), default=None)
