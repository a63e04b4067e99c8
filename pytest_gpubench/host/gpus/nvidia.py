"""NVIDIA's GPUs, read through NVML: which there are, how they are set, what they do now.

No driver is not an error: the inventory is empty and says why.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pytest_gpubench.host.gpus.inventory import Gpu, GpuProcess, GpuSample, Inventory
from pytest_gpubench.model.hardware import hardware_of_device

_NVLINKS = 18
"""The most that an H100, H200 or B200 has."""


def read_inventory(nvml: Any = None) -> Inventory:
    """Read the GPUs of this host now.

    Args:
        nvml: a module with the interface of ``pynvml``; None is that module.
    """
    nvml = nvml or _library()
    try:
        with _opened(nvml):
            count = nvml.nvmlDeviceGetCount()
            driver = str(_text(nvml.nvmlSystemGetDriverVersion()))
            gpus = tuple(_read_gpu(nvml, index) for index in range(count))
    except nvml.NVMLError as error:
        return Inventory(reason=f"NVML: {error}")
    return Inventory(gpus, driver, "" if gpus else "NVML: the driver lists no GPU")


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
    nvml = nvml or _library()
    try:
        with _opened(nvml):
            driver = _ask(nvml, "nvmlSystemGetDriverVersion")
            cuda = _ask(nvml, "nvmlSystemGetCudaDriverVersion")
            return [
                {"uuid": uuid, "driver": _text(driver), "cuda_driver": cuda, **_facts(nvml, handle)}
                for uuid, handle in _handles(nvml, uuids).items()
            ]
    except nvml.NVMLError:
        return []


def _library() -> Any:
    import pynvml

    return pynvml


@contextmanager
def _opened(nvml: Any) -> Iterator[None]:
    nvml.nvmlInit()
    try:
        yield
    finally:
        nvml.nvmlShutdown()


def _handles(nvml: Any, uuids: Sequence[str]) -> dict[str, Any]:
    """By UUID; raises NVMLError for a GPU that is not there."""
    return {uuid: nvml.nvmlDeviceGetHandleByUUID(uuid) for uuid in uuids}


def _thousandth(value: float | None) -> float | None:
    """The driver counts in thousandths: milliwatts, millijoules."""
    return None if value is None else value / 1000


def _ask(nvml: Any, name: str, *arguments: Any) -> Any:
    """The driver's answer, or None where it does not support the question."""
    try:
        return getattr(nvml, name)(*arguments)
    except nvml.NVMLError:
        return None


def _read_gpu(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    processes = _ask(nvml, "nvmlDeviceGetComputeRunningProcesses", handle) or []
    name = str(_text(nvml.nvmlDeviceGetName(handle)))
    capability, nvlink = (0, 0), False
    if hardware_of_device(name) is None:
        capability = _ask(nvml, "nvmlDeviceGetCudaComputeCapability", handle) or (0, 0)
        nvlink = any(_link(nvml, handle, link) is not None for link in range(_NVLINKS))
    return Gpu(
        index=index,
        uuid=str(_text(nvml.nvmlDeviceGetUUID(handle))),
        name=name,
        memory_total=int(memory.total),
        memory_used=int(memory.used),
        power_limit=_thousandth(_ask(nvml, "nvmlDeviceGetEnforcedPowerLimit", handle)),
        processes=tuple(
            GpuProcess(int(process.pid), process.usedGpuMemory) for process in processes
        ),
        compute_capability=capability[0] * 10 + capability[1],
        nvlink=nvlink,
    )


@contextmanager
def sampling(uuids: Sequence[str], nvml: Any = None) -> Iterator[Callable[[], list[GpuSample]]]:
    """What samples GPUs, each time it is called.

    Raises:
        nvml.NVMLError: where there is no driver, or a GPU is not there.
    """
    nvml = nvml or _library()
    with _opened(nvml):
        handles = _handles(nvml, uuids)
        yield lambda: sample_gpus(nvml, handles)


def sample_gpus(nvml: Any, handles: Mapping[str, Any]) -> list[GpuSample]:
    """Sample GPUs now.

    Args:
        nvml: a module with the interface of ``pynvml``, initialised.
        handles: NVML handle by UUID.
    """
    return [_sample(nvml, uuid, handle) for uuid, handle in handles.items()]


def _sample(nvml: Any, uuid: str, handle: Any) -> GpuSample:
    def ask(name: str, *arguments: Any) -> Any:
        return _ask(nvml, name, handle, *arguments)

    at = time.monotonic_ns()
    power, energy = ask("nvmlDeviceGetPowerUsage"), ask("nvmlDeviceGetTotalEnergyConsumption")
    utilization, memory = ask("nvmlDeviceGetUtilizationRates"), ask("nvmlDeviceGetMemoryInfo")
    processes = ask("nvmlDeviceGetComputeRunningProcesses") or []
    return GpuSample(
        gpu=uuid,
        at_ns=at,
        power=_thousandth(power),
        energy=_thousandth(energy),
        sm_clock=ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
        memory_clock=ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM),
        temperature=ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
        utilization=None if utilization is None else int(utilization.gpu),
        memory_used=None if memory is None else int(memory.used),
        reasons=ask("nvmlDeviceGetCurrentClocksEventReasons"),
        pids=tuple(int(process.pid) for process in processes),
    )


def _facts(nvml: Any, handle: Any) -> dict[str, Any]:
    def ask(name: str, *arguments: Any) -> Any:
        return _ask(nvml, name, handle, *arguments)

    links = [
        version for link in range(_NVLINKS) if (version := _link(nvml, handle, link)) is not None
    ]
    return {
        "name": _text(ask("nvmlDeviceGetName")),
        "vbios": _text(ask("nvmlDeviceGetVbiosVersion")),
        "power_limit": _thousandth(ask("nvmlDeviceGetEnforcedPowerLimit")),
        "power_limit_default": _thousandth(ask("nvmlDeviceGetPowerManagementDefaultLimit")),
        "sm_clock": ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
        "sm_clock_max": ask("nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_SM),
        "memory_clock": ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM),
        "memory_clock_max": ask("nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_MEM),
        "temperature": ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
        "ecc": _flag(ask("nvmlDeviceGetEccMode")),
        "mig": _flag(ask("nvmlDeviceGetMigMode")),
        "persistence": _flag(ask("nvmlDeviceGetPersistenceMode")),
        "compute_mode": ask("nvmlDeviceGetComputeMode"),
        "pcie_generation": ask("nvmlDeviceGetCurrPcieLinkGeneration"),
        "pcie_width": ask("nvmlDeviceGetCurrPcieLinkWidth"),
        "nvlinks": len(links),
        "nvlink_version": max(links, default=None),
    }


def _link(nvml: Any, handle: Any, link: int) -> int | None:
    """Version of an active link."""
    if not _ask(nvml, "nvmlDeviceGetNvLinkState", handle, link):
        return None
    version: int | None = _ask(nvml, "nvmlDeviceGetNvLinkVersion", handle, link)
    return version or 0


def _flag(value: Any) -> bool | None:
    """A switch; where the driver gives two, the first is the one that holds now."""
    if isinstance(value, list | tuple):
        value = value[0]
    return None if value is None else bool(value)


def _text(value: str | bytes | None) -> str | None:
    return value.decode() if isinstance(value, bytes) else value
