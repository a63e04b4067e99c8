"""The GPUs of this host, whoever made them: NVIDIA's by NVML, AMD's by AMD SMI."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from pytest_gpubench.host.gpus import amd, nvidia
from pytest_gpubench.host.gpus.inventory import Gpu, Inventory
from pytest_gpubench.host.gpus.samples import GpuSample


def read_inventory() -> Inventory:
    """Read the GPUs of this host now: NVIDIA's, and AMD's where there are none of those."""
    found = nvidia.read_inventory()
    if found.gpus or not amd.KFD.exists():
        return found
    others = amd.read_inventory()
    return others if others.gpus else Inventory(reason=f"{found.reason}; {others.reason}")


def gpu_facts(gpus: Sequence[Gpu]) -> list[dict[str, Any]]:
    """How GPUs of one platform are set, for records; empty where there are none."""
    if not gpus:
        return []
    read = amd.gpu_facts if gpus[0].platform == "rocm" else nvidia.gpu_facts
    return read([gpu.uuid for gpu in gpus])


def sampling(
    platform: str, uuids: Sequence[str]
) -> AbstractContextManager[Callable[[], list[GpuSample]]]:
    """What samples GPUs of one platform, each time it is called."""
    return amd.sampling(uuids) if platform == "rocm" else nvidia.sampling(uuids)
