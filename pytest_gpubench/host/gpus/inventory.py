"""The GPUs of a host as data: which of them a run may use, what a case lacks, and what one does at
a moment. Pure."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from pytest_gpubench.model.hardware import Hardware, Platform, hardware_of_device, name_words

_MAKERS: Mapping[Platform, str] = {"cuda": "NVIDIA", "rocm": "AMD"}
"""Whose GPUs a platform has, as far as we can read them."""


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that computes on a GPU; memory in bytes, None where the driver does not tell (as in
    containers)."""

    pid: int
    memory_used: int | None = None


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. Memory in bytes, power in watts; None where the driver does not support the
    question."""

    index: int
    """By which NVML, or HIP, counts it."""
    uuid: str
    name: str
    """The driver's product name, for instance ``NVIDIA H100 80GB HBM3``."""
    memory_total: int
    memory_used: int
    power_limit: float | None = None
    """Enforced power cap."""
    processes: tuple[GpuProcess, ...] = ()
    compute_capability: int = 0
    """As in the hardware table; only asked of what the table does not know, as the next one is."""
    nvlink: bool = False
    platform: Platform = "cuda"

    @property
    def hardware(self) -> Hardware | None:
        """Its entry in the hardware table, if the table knows it."""
        return hardware_of_device(self.name)


@dataclass(frozen=True, slots=True)
class Inventory:
    """What the driver showed."""

    gpus: tuple[Gpu, ...] = ()
    driver: str = ""
    reason: str = ""
    """Why there are no GPUs; empty where there are some."""

    def of_hardware(self, hardware: Hardware) -> tuple[Gpu, ...]:
        """The GPUs of one entry of the hardware table, or of one that a recipe file declares."""
        return tuple(gpu for gpu in self.gpus if hardware_of_device(gpu.name, hardware) == hardware)

    @property
    def declarations(self) -> tuple[str, ...]:
        """For each kind of GPU that the hardware table does not know, the entry of a recipe file
        that declares it, made of what the driver tells; NVIDIA's only, as such entries are."""
        unknown = Counter(
            gpu.name for gpu in self.gpus if gpu.hardware is None and gpu.platform == "cuda"
        )
        first = {gpu.name: gpu for gpu in reversed(self.gpus)}
        return tuple(_declaration(first[name], count) for name, count in unknown.items())


def visible_inventory(inventory: Inventory, environ: Mapping[str, str]) -> Inventory:
    """The part of an inventory that the environment leaves to this process.

    Of NVIDIA's GPUs ``CUDA_VISIBLE_DEVICES`` decides. Of AMD's first ``ROCR_VISIBLE_DEVICES``,
    after which HIP counts anew; then ``HIP_VISIBLE_DEVICES``, or ``CUDA_VISIBLE_DEVICES`` in its
    place.
    """
    if not any(gpu.platform == "rocm" for gpu in inventory.gpus):
        return _chosen(inventory, environ, "CUDA_VISIBLE_DEVICES")
    left = _chosen(inventory, environ, "ROCR_VISIBLE_DEVICES")
    if left is not inventory:
        counted_anew = tuple(replace(gpu, index=position) for position, gpu in enumerate(left.gpus))
        left = replace(left, gpus=counted_anew)
    hip = "HIP_VISIBLE_DEVICES"
    return _chosen(left, environ, hip if environ.get(hip) else "CUDA_VISIBLE_DEVICES")


def _chosen(inventory: Inventory, environ: Mapping[str, str], variable: str) -> Inventory:
    """What a list of indices or UUID prefixes leaves; as the runtimes do, up to the first entry
    that names no GPU. Where the variable is not set, everything."""
    listed = environ.get(variable)
    if listed is None:
        return inventory
    chosen: list[Gpu] = []
    for word in filter(None, (word.strip() for word in listed.split(","))):
        match = [
            gpu
            for gpu in inventory.gpus
            if word == str(gpu.index) or (word.startswith("GPU-") and gpu.uuid.startswith(word))
        ]
        if len(match) != 1:
            break
        chosen += [gpu for gpu in match if gpu not in chosen]
    reason = inventory.reason
    if not chosen:
        reason = reason or f"{variable}={listed!r} hides them all"
    return replace(inventory, gpus=tuple(chosen), reason=reason)


def missing_hardware(
    hardware: Hardware,
    gpus: int,
    inventory: Inventory,
    engine_platform: Platform | None = None,
    engine_name: str = "",
) -> str | None:
    """What keeps a case from running here, or None if nothing does.

    Args:
        hardware: what the recipe's runner means.
        gpus: GPUs that the case's server occupies.
        inventory: the GPUs that this run may use.
        engine_platform: platform of the engine that would be started; None where it is not known
        yet.
        engine_name: the engine in words, for instance ``vllm 0.26.0``.
    """
    key = hardware.key.upper()
    lacking = []
    maker = _MAKERS.get(hardware.platform)
    if maker:
        needed = f"needs {gpus} x {key} ({hardware.platform})"
        if not any(gpu.platform == hardware.platform for gpu in inventory.gpus):
            why = inventory.reason or _listed(inventory) or "the driver lists none"
            lacking.append(f"{needed}; this host has no {maker} GPU ({why})")
        elif len(inventory.of_hardware(hardware)) < gpus:
            lacking.append(f"{needed}; this host has {_listed(inventory)}{_to_declare(inventory)}")
    if engine_platform is not None and engine_platform != hardware.platform:
        kind = f"an engine for {hardware.platform}"
        if hardware.platform == "cpu":
            kind = "the CPU engine"
        lacking.append(
            f"needs {kind}; the engine at hand is {engine_name or 'built'} for {engine_platform}"
        )
    return ", and ".join(lacking) or None


def _declaration(gpu: Gpu, count: int) -> str:
    words = [word for word in name_words(gpu.name) if word != "NVIDIA"]
    key = re.sub("[^a-z0-9.]", "", "".join(words).lower())
    facts = (
        f"name: {json.dumps(' '.join(words))}, memory-gib: {gpu.memory_total / 2**30:.1f}, "
        f"compute-capability: {gpu.compute_capability / 10}, gpus-per-node: {count}, "
        f"nvlink: {str(gpu.nvlink).lower()}"
    )
    return f"{key}: {{{facts}}}"


def _to_declare(inventory: Inventory) -> str:
    entries = ", ".join(inventory.declarations)
    return f" (a recipe file can declare it: `runners: {{{entries}}}`)" if entries else ""


def _listed(inventory: Inventory) -> str:
    counts = Counter(gpu.name for gpu in inventory.gpus)
    return ", ".join(f"{count} x {name}" for name, count in counts.items())


SLOWED_BY: Mapping[int, str] = {
    0x008: "hardware slowdown",
    0x020: "software thermal slowdown",
    0x040: "hardware thermal slowdown",
    0x080: "power brake",
}
"""Bits of NVML's clocks event reasons with which a GPU is slower than it was sold."""
CAPPED_BY: Mapping[int, str] = {0x004: "power cap", 0x010: "sync boost"}
"""Bits with which it is as fast as somebody allows it to be."""


@dataclass(frozen=True, slots=True)
class GpuSample:
    """One GPU at one moment; None where the driver does not support the question."""

    gpu: str
    """UUID."""
    at_ns: int
    """``time.monotonic_ns`` of this host."""
    power: float | None = None
    """Watts, averaged by the driver over about the last second on an H100."""
    energy: float | None = None
    """Joules since the driver was loaded."""
    sm_clock: int | None = None
    """MHz."""
    memory_clock: int | None = None
    """MHz."""
    temperature: int | None = None
    """Of the chip, in degrees Celsius."""
    utilization: int | None = None
    """Per cent of the driver's last sampling period in which a kernel ran."""
    memory_used: int | None = None
    """Bytes."""
    reasons: int | None = None
    """Bits of the clocks event reasons."""
    pids: tuple[int, ...] = ()
    """Processes that compute on it."""

    def to_json(self) -> dict[str, Any]:
        """Plain data for one line of JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> GpuSample:
        return cls(**{**plain, "pids": tuple(plain["pids"])})
