"""The NVIDIA GPUs of this host, read through NVML: which there are, what a case lacks, and how they
are set, for records.

No driver is not an error: the inventory is empty and says why.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pytest_gpubench.model.hardware import Hardware, Platform, hardware_of_device, name_words

_NVLINKS = 18
"""The most that an H100, H200 or B200 has."""


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

    def of_hardware(self, hardware: Hardware) -> tuple[Gpu, ...]:
        """The GPUs of one entry of the hardware table, or of one that a recipe file declares."""
        return tuple(gpu for gpu in self.gpus if hardware_of_device(gpu.name, hardware) == hardware)

    @property
    def declarations(self) -> tuple[str, ...]:
        """For each kind of GPU that the hardware table does not know, the entry of a recipe file
        that declares it, made of what the driver tells."""
        unknown = Counter(gpu.name for gpu in self.gpus if gpu.hardware is None)
        first = {gpu.name: gpu for gpu in reversed(self.gpus)}
        return tuple(_declaration(first[name], count) for name, count in unknown.items())


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
        driver = str(_text(nvml.nvmlSystemGetDriverVersion()))
        gpus = tuple(_read_gpu(nvml, index) for index in range(count))
    except nvml.NVMLError as error:
        return Inventory(reason=f"NVML: {error}")
    finally:
        nvml.nvmlShutdown()
    return Inventory(gpus, driver, "" if gpus else "NVML: the driver lists no GPU")


def visible_inventory(inventory: Inventory, visible_devices: str | None) -> Inventory:
    """The part of an inventory that ``CUDA_VISIBLE_DEVICES`` leaves: indices or UUID prefixes; as
    CUDA does, up to the first entry that names no GPU. None (unset) leaves everything."""
    if visible_devices is None:
        return inventory
    chosen: list[Gpu] = []
    for word in filter(None, (word.strip() for word in visible_devices.split(","))):
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
        reason = reason or f"CUDA_VISIBLE_DEVICES={visible_devices!r} hides them all"
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
    if hardware.platform == "cuda":
        needed = f"needs {gpus} x {key} (cuda)"
        if not inventory.gpus:
            lacking.append(
                f"{needed}; this host has no NVIDIA GPU ({inventory.reason or 'NVML lists none'})"
            )
        elif len(inventory.of_hardware(hardware)) < gpus:
            lacking.append(f"{needed}; this host has {_listed(inventory)}{_to_declare(inventory)}")
    elif hardware.platform == "rocm":
        lacking.append(f"needs {gpus} x {key} (rocm); AMD recipes can be planned but not run yet")
    if engine_platform is not None and engine_platform != hardware.platform:
        kind = f"an engine for {hardware.platform}"
        if hardware.platform == "cpu":
            kind = "the CPU engine"
        lacking.append(
            f"needs {kind}; the engine at hand is {engine_name or 'built'} for {engine_platform}"
        )
    return ", and ".join(lacking) or None


def gpu_facts(uuids: Sequence[str], nvml: Any = None) -> list[dict[str, Any]]:
    """Name, driver, clocks (MHz), power limits (W), ECC, MIG, PCIe and NVLink of GPUs now; None
    where the driver does not tell.

    Empty where there is no driver.

    Args:
        uuids: of the GPUs, in the order of the answer.
        nvml: a module with the interface of ``pynvml``; None is that module.
    """
    if not uuids:
        return []
    if nvml is None:
        import pynvml

        nvml = pynvml
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return []
    try:
        driver = ask_if_supported(nvml, nvml.nvmlSystemGetDriverVersion)
        cuda = ask_if_supported(nvml, nvml.nvmlSystemGetCudaDriverVersion)
        handles = handles_of(nvml, uuids)
        return [
            {"uuid": uuid, "driver": _text(driver), "cuda_driver": cuda, **_facts(nvml, handle)}
            for uuid, handle in handles.items()
        ]
    except nvml.NVMLError:
        return []
    finally:
        nvml.nvmlShutdown()


def handles_of(nvml: Any, uuids: Sequence[str]) -> dict[str, Any]:
    """NVML handles by UUID.

    Raises:
        nvml.NVMLError: for a GPU that is not there.
    """
    return {uuid: nvml.nvmlDeviceGetHandleByUUID(uuid) for uuid in uuids}


def thousandth(value: float | None) -> float | None:
    """The driver counts in thousandths: milliwatts, millijoules."""
    return None if value is None else value / 1000


def ask_if_supported(nvml: Any, ask: Callable[[], Any]) -> Any:
    """The driver's answer, or None where it does not support the question."""
    try:
        return ask()
    except nvml.NVMLError:
        return None


def _read_gpu(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    limit = ask_if_supported(nvml, lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle))
    processes = (
        ask_if_supported(nvml, lambda: nvml.nvmlDeviceGetComputeRunningProcesses(handle)) or []
    )
    name = str(_text(nvml.nvmlDeviceGetName(handle)))
    capability, nvlink = (0, 0), False
    if hardware_of_device(name) is None:
        ask = ask_if_supported
        capability = ask(nvml, lambda: nvml.nvmlDeviceGetCudaComputeCapability(handle)) or (0, 0)
        nvlink = any(_link(nvml, handle, link) is not None for link in range(_NVLINKS))
    return Gpu(
        index=index,
        uuid=str(_text(nvml.nvmlDeviceGetUUID(handle))),
        name=name,
        memory_total=int(memory.total),
        memory_used=int(memory.used),
        power_limit=thousandth(limit),
        processes=tuple(
            GpuProcess(int(process.pid), process.usedGpuMemory) for process in processes
        ),
        compute_capability=capability[0] * 10 + capability[1],
        nvlink=nvlink,
    )


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


def _facts(nvml: Any, handle: Any) -> dict[str, Any]:
    def ask(name: str, *arguments: Any) -> Any:
        return ask_if_supported(nvml, lambda: getattr(nvml, name)(handle, *arguments))

    ecc, mig = ask("nvmlDeviceGetEccMode"), ask("nvmlDeviceGetMigMode")
    limit, standard = (
        ask("nvmlDeviceGetEnforcedPowerLimit"),
        ask("nvmlDeviceGetPowerManagementDefaultLimit"),
    )
    links = [
        version for link in range(_NVLINKS) if (version := _link(nvml, handle, link)) is not None
    ]
    return {
        "name": _text(ask("nvmlDeviceGetName")),
        "vbios": _text(ask("nvmlDeviceGetVbiosVersion")),
        "power_limit": thousandth(limit),
        "power_limit_default": thousandth(standard),
        "sm_clock": ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
        "sm_clock_max": ask("nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_SM),
        "memory_clock": ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM),
        "memory_clock_max": ask("nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_MEM),
        "temperature": ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
        "ecc": _flag(ecc),
        "mig": _flag(mig),
        "persistence": _flag(ask("nvmlDeviceGetPersistenceMode")),
        "compute_mode": ask("nvmlDeviceGetComputeMode"),
        "pcie_generation": ask("nvmlDeviceGetCurrPcieLinkGeneration"),
        "pcie_width": ask("nvmlDeviceGetCurrPcieLinkWidth"),
        "nvlinks": len(links),
        "nvlink_version": max(links, default=None),
    }


def _link(nvml: Any, handle: Any, link: int) -> int | None:
    """Version of an active link."""
    if not ask_if_supported(nvml, lambda: nvml.nvmlDeviceGetNvLinkState(handle, link)):
        return None
    version: int | None = ask_if_supported(
        nvml, lambda: nvml.nvmlDeviceGetNvLinkVersion(handle, link)
    )
    return version or 0


def _flag(value: Any) -> bool | None:
    """A switch; where the driver gives two, the first is the one that holds now."""
    if isinstance(value, list | tuple):
        value = value[0]
    return None if value is None else bool(value)


def _text(value: str | bytes | None) -> str | None:
    return value.decode() if isinstance(value, bytes) else value
