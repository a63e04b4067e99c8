"""Nodes of vllm-project/recipes (profiles of its taxonomy.yaml), and our names for them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from pytest_gpubench.model.frozen import is_number, mapping
from pytest_gpubench.model.hardware import HARDWARE

_GENERATIONS = {80: "ampere", 86: "ampere", 89: "ada", 90: "hopper"}
_BRANDS = {"cuda": "NVIDIA", "rocm": "AMD", "cpu": "Intel", "hpu": "Intel"}
_SEVERAL = re.compile(r"_(\d+)x$")


@dataclass(frozen=True, slots=True)
class Profile:
    """One node, as that project describes it."""

    id: str
    key: str
    """In our hardware table; empty: it has none."""
    brand: str
    generation: str
    gpus: int
    gigabytes: float
    """Of all its GPUs together; 0: not known."""
    scalable: bool = True


def profiles_of(taxonomy: Any) -> dict[str, Profile]:
    """The nodes of its taxonomy.yaml."""
    return {
        name: Profile(
            name,
            our_key(name),
            str(one.get("brand", "")),
            str(_first(one.get("generation", ""))),
            int(as_number(one.get("gpu_count")) or 1),
            as_number(one.get("vram_gb")),
            one.get("scalable") is not False,
        )
        for name, one in mapping(mapping(taxonomy).get("hardware_profiles")).items()
        if isinstance(one, dict)
    }


def own_profile(name: str) -> Profile:
    """A node by its name alone, from our hardware table."""
    key = our_key(name)
    several = _SEVERAL.search(name)
    if not key:
        return Profile(name, "", "", "", 1, 0.0)
    known = HARDWARE[key]
    generation = _GENERATIONS.get(known.compute_capability, "blackwell")
    if known.platform != "cuda":
        generation = {"rocm": "amd"}.get(known.platform, known.platform)
    gpus = known.gpus_per_node
    if several:
        gpus = int(several[1])
    elif key in ("rtxpro6000", "rtx5090", "rtx4090") or name.startswith("dgx"):
        gpus = 1
    return Profile(name, key, _BRANDS[known.platform], generation, gpus, known.vram_gib * gpus)


def our_key(name: str) -> str:
    """The key of our hardware table for a node of that project; empty: it has none."""
    if name.startswith("xeon"):
        return "cpu"
    plain = _SEVERAL.sub("", name)
    for key in (plain.replace("_", ""), plain.rpartition("_")[2]):
        if key in HARDWARE:
            return key
    return ""


def as_number(value: Any) -> float:
    """A number of somebody's file; anything else is 0."""
    return float(value) if is_number(value) else 0.0


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else value
