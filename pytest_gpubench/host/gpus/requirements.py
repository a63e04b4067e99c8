"""What a case lacks on this host, as a sentence for its skip; pure."""

from __future__ import annotations

from collections import Counter

from pytest_gpubench.host.gpus.inventory import Inventory
from pytest_gpubench.model.hardware import HARDWARE, Platform


def missing_hardware(
    hardware_key: str, gpus: int, inventory: Inventory, engine_platform: Platform | None = None, engine_name: str = ""
) -> str | None:
    """What keeps a case from running here, or None if nothing does.

    Args:
        hardware_key: key of the hardware table, as the recipe's runner names it.
        gpus: GPUs that the case's server occupies.
        inventory: the GPUs that this run may use.
        engine_platform: platform of the engine that would be started; None where it is not known yet.
        engine_name: the engine in words, for instance ``vllm 0.26.0``.
    """
    hardware = HARDWARE.get(hardware_key)
    if hardware is None:
        return f"needs {hardware_key!r}, which the hardware table does not know (it has {', '.join(HARDWARE)})"
    lacking = []
    if hardware.platform == "cuda":
        needed = f"needs {gpus} x {hardware_key.upper()} (cuda)"
        if not inventory.gpus:
            lacking.append(f"{needed}; this host has no NVIDIA GPU ({inventory.reason or 'NVML lists none'})")
        elif len(inventory.of_hardware(hardware_key)) < gpus:
            lacking.append(f"{needed}; this host has {_listed(inventory)}")
    elif hardware.platform == "rocm":
        lacking.append(f"needs {gpus} x {hardware_key.upper()} (rocm); AMD recipes can be planned but not run yet")
    if engine_platform is not None and engine_platform != hardware.platform:
        kind = "the CPU engine" if hardware.platform == "cpu" else f"an engine for {hardware.platform}"
        lacking.append(f"needs {kind}; the engine at hand is {engine_name or 'built'} for {engine_platform}")
    return ", and ".join(lacking) or None


def _listed(inventory: Inventory) -> str:
    counts = Counter(gpu.name for gpu in inventory.gpus)
    return ", ".join(f"{count} x {name}" for name, count in counts.items())
