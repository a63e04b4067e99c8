"""The NVIDIA GPUs of this host, read through NVML. No driver is not an error: the inventory is empty and says why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from pytest_gpubench.model.hardware import Hardware, hardware_of_device


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that computes on a GPU; memory in bytes, None where the driver does not tell (as in containers)."""

    pid: int
    memory_used: int | None = None


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. Memory in bytes, power in watts; None where the driver does not support the question."""

    index: int
    uuid: str
    name: str
    """The driver's product name, for instance ``NVIDIA H100 80GB HBM3``."""
    memory_total: int
    memory_used: int
    power_limit: float | None = None
    """Enforced power cap."""
    processes: tuple[GpuProcess, ...] = ()

    @property
    def hardware(self) -> Hardware | None:
        """Its entry in the hardware table, if the table knows it."""
        return hardware_of_device(self.name)


@dataclass(frozen=True, slots=True)
class Inventory:
    """What NVML showed."""

    gpus: tuple[Gpu, ...] = ()
    driver: str = ""
    reason: str = ""
    """Why there are no GPUs; empty where there are some."""

    def of_hardware(self, key: str) -> tuple[Gpu, ...]:
        """The GPUs of one hardware key."""
        return tuple(gpu for gpu in self.gpus if gpu.hardware is not None and gpu.hardware.key == key)


def read_inventory(nvml: Any = None) -> Inventory:
    """Read the GPUs of this host now.

    Args:
        nvml: a module with the interface of ``pynvml``; None is that module.
    """
    if nvml is None:
        import pynvml

        nvml = pynvml
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return Inventory(reason=f"NVML: {error}")
    try:
        count = nvml.nvmlDeviceGetCount()
        driver = _text(nvml.nvmlSystemGetDriverVersion())
        gpus = tuple(_read_gpu(nvml, index) for index in range(count))
    except nvml.NVMLError as error:
        return Inventory(reason=f"NVML: {error}")
    finally:
        nvml.nvmlShutdown()
    return Inventory(gpus, driver, "" if gpus else "NVML: the driver lists no GPU")


def visible_inventory(inventory: Inventory, visible_devices: str | None) -> Inventory:
    """The part of an inventory that ``CUDA_VISIBLE_DEVICES`` leaves: indices or UUID prefixes; as CUDA does, up to the first
    entry that names no GPU. None (unset) leaves everything."""
    if visible_devices is None:
        return inventory
    chosen: list[Gpu] = []
    for word in filter(None, (word.strip() for word in visible_devices.split(","))):
        match = [gpu for gpu in inventory.gpus if word == str(gpu.index) or (word.startswith("GPU-") and gpu.uuid.startswith(word))]
        if len(match) != 1:
            break
        chosen += [gpu for gpu in match if gpu not in chosen]
    reason = inventory.reason or ("" if chosen else f"CUDA_VISIBLE_DEVICES={visible_devices!r} hides them all")
    return replace(inventory, gpus=tuple(chosen), reason=reason)


def _read_gpu(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    limit = ask_if_supported(nvml, lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle))
    processes = ask_if_supported(nvml, lambda: nvml.nvmlDeviceGetComputeRunningProcesses(handle)) or []
    return Gpu(
        index=index,
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        name=_text(nvml.nvmlDeviceGetName(handle)),
        memory_total=int(memory.total),
        memory_used=int(memory.used),
        power_limit=None if limit is None else limit / 1000,
        processes=tuple(GpuProcess(int(process.pid), process.usedGpuMemory) for process in processes),
    )


def ask_if_supported(nvml: Any, ask: Callable[[], Any]) -> Any:
    """The driver's answer, or None where it does not support the question."""
    try:
        return ask()
    except nvml.NVMLError:
        return None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
