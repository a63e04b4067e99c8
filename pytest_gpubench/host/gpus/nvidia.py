"""NVIDIA's GPUs, read through NVML: which there are, how they are set, what they do now.

No driver is not an error: the inventory is empty and says why.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pytest_gpubench.host.gpus.inventory import Gpu, GpuProcess, Inventory
from pytest_gpubench.host.gpus.samples import GpuSample
from pytest_gpubench.model.hardware import hardware_of_device

_NVLINKS = 18
"""The most that an H100, H200 or B200 has."""


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


@contextmanager
def sampling(uuids: Sequence[str], nvml: Any = None) -> Iterator[Callable[[], list[GpuSample]]]:
    """What samples GPUs, each time it is called.

    Raises:
        nvml.NVMLError: where there is no driver, or a GPU is not there.
    """
    if nvml is None:
        import pynvml

        nvml = pynvml
    nvml.nvmlInit()
    try:
        handles = handles_of(nvml, uuids)
        yield lambda: sample_gpus(nvml, handles)
    finally:
        nvml.nvmlShutdown()


def sample_gpus(nvml: Any, handles: Mapping[str, Any]) -> list[GpuSample]:
    """Sample GPUs now.

    Args:
        nvml: a module with the interface of ``pynvml``, initialised.
        handles: NVML handle by UUID.
    """
    return [_sample(nvml, uuid, handle) for uuid, handle in handles.items()]


def _sample(nvml: Any, uuid: str, handle: Any) -> GpuSample:
    def ask(name: str, *arguments: Any) -> Any:
        return ask_if_supported(nvml, lambda: getattr(nvml, name)(handle, *arguments))

    at = time.monotonic_ns()
    power, energy = ask("nvmlDeviceGetPowerUsage"), ask("nvmlDeviceGetTotalEnergyConsumption")
    utilization, memory = ask("nvmlDeviceGetUtilizationRates"), ask("nvmlDeviceGetMemoryInfo")
    processes = ask("nvmlDeviceGetComputeRunningProcesses") or []
    return GpuSample(
        gpu=uuid,
        at_ns=at,
        power=thousandth(power),
        energy=thousandth(energy),
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
