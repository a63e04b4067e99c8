"""Facts of GPUs for records: what they are set to, beyond what the inventory needs to know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pytest_gpubench.host.gpus.inventory import ask_if_supported
from pytest_gpubench.host.gpus.telemetry import handles_of

_NVLINKS = 18
"""The most that an H100, H200 or B200 has."""


def gpu_facts(uuids: Sequence[str], nvml: Any = None) -> list[dict[str, Any]]:
    """Name, driver, clocks (MHz), power limits (W), ECC, MIG, PCIe and NVLink of GPUs now; None where the driver does not tell.

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
            {"uuid": uuid, "driver": _text(driver), "cuda_driver": cuda, **_facts(nvml, handle)} for uuid, handle in handles.items()
        ]
    except nvml.NVMLError:
        return []
    finally:
        nvml.nvmlShutdown()


def _facts(nvml: Any, handle: Any) -> dict[str, Any]:
    def ask(name: str, *arguments: Any) -> Any:
        return ask_if_supported(nvml, lambda: getattr(nvml, name)(handle, *arguments))

    ecc, mig = ask("nvmlDeviceGetEccMode"), ask("nvmlDeviceGetMigMode")
    limit, standard = ask("nvmlDeviceGetEnforcedPowerLimit"), ask("nvmlDeviceGetPowerManagementDefaultLimit")
    links = [version for link in range(_NVLINKS) if (version := _link(nvml, handle, link)) is not None]
    return {
        "name": _text(ask("nvmlDeviceGetName")),
        "vbios": _text(ask("nvmlDeviceGetVbiosVersion")),
        "power_limit": None if limit is None else limit / 1e3,
        "power_limit_default": None if standard is None else standard / 1e3,
        "sm_clock": ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
        "sm_clock_max": ask("nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_SM),
        "memory_clock": ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM),
        "memory_clock_max": ask("nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_MEM),
        "temperature": ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
        "ecc": None if ecc is None else bool(ecc[0]),
        "mig": None if mig is None else bool(mig[0]),
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
    version: int | None = ask_if_supported(nvml, lambda: nvml.nvmlDeviceGetNvLinkVersion(handle, link))
    return version or 0


def _flag(value: Any) -> bool | None:
    return None if value is None else bool(value)


def _text(value: str | bytes | None) -> str | None:
    return value.decode() if isinstance(value, bytes) else value
