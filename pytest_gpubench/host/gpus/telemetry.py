"""What GPUs do from moment to moment: one sample per GPU and instant, and the driver's words for why clocks are held back."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from pytest_gpubench.host.gpus.inventory import ask_if_supported

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
        return cls(**{item.name: plain[item.name] for item in fields(cls)} | {"pids": tuple(plain["pids"])})


def sample_gpus(nvml: Any, handles: Mapping[str, Any]) -> list[GpuSample]:
    """Sample GPUs now.

    Args:
        nvml: a module with the interface of ``pynvml``, initialised.
        handles: NVML handle by UUID.
    """
    return [_sample(nvml, uuid, handle) for uuid, handle in handles.items()]


def handles_of(nvml: Any, uuids: Sequence[str]) -> dict[str, Any]:
    """NVML handles by UUID.

    Raises:
        nvml.NVMLError: for a GPU that is not there.
    """
    return {uuid: nvml.nvmlDeviceGetHandleByUUID(uuid) for uuid in uuids}


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
        power=None if power is None else power / 1e3,
        energy=None if energy is None else energy / 1e3,
        sm_clock=ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
        memory_clock=ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM),
        temperature=ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
        utilization=None if utilization is None else int(utilization.gpu),
        memory_used=None if memory is None else int(memory.used),
        reasons=ask("nvmlDeviceGetCurrentClocksEventReasons"),
        pids=tuple(int(process.pid) for process in processes),
    )
