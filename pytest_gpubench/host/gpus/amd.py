"""AMD's GPUs, read through AMD SMI (the package ``amdsmi``, extra ``amd``): which there are, how
they are set, what they do now.

Written after that package's interface (7.0) and tested against a fake of it: the authors have
never seen an AMD GPU, and :data:`UNSEEN` says so wherever one is used.

A host without ``/dev/kfd`` has none, and there the package is not even imported.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytest_gpubench.host.gpus.inventory import Gpu, GpuProcess, GpuSample, Inventory
from pytest_gpubench.model.frozen import is_number

UNSEEN = (
    "AMD GPUs are read as amdsmi's interface says; pytest-gpubench itself was never run on one: "
    "look at its numbers as you would at a first run's"
)
KFD = Path("/dev/kfd")
"""The device of AMD's compute driver."""
_VIOLATIONS: Mapping[str, int] = {
    "active_ppt_pwr": 0x004,
    "active_prochot_thrm": 0x008,
    "active_socket_thrm": 0x040,
    "active_vr_thrm": 0x040,
    "active_hbm_thrm": 0x040,
}
"""Throttling that AMD SMI names, as bits of `GpuSample.reasons`."""


def read_inventory(smi: Any = None) -> Inventory:
    """Read the GPUs of this host now.

    Args:
        smi: a module with the interface of ``amdsmi``; None is that module.
    """
    try:
        with _opened(smi) as (smi, handles):
            gpus = sorted(
                (_read_gpu(smi, number, handle) for number, handle in enumerate(handles)),
                key=lambda gpu: gpu.index,
            )
            driver = _ask(smi, lambda: smi.amdsmi_get_gpu_driver_info(handles[0])) or {}
    except _UnusableError as error:
        return Inventory(reason=str(error))
    return Inventory(tuple(gpus), str(driver.get("driver_version") or ""))


def gpu_facts(uuids: Sequence[str], smi: Any = None) -> list[dict[str, Any]]:
    """Name, driver, clocks (MHz), power limits (W), partitions and PCIe of GPUs now; None where the
    driver does not tell. Empty where there is no driver.

    Args:
        uuids: of the GPUs, in the order of the answer.
        smi: a module with the interface of ``amdsmi``; None is that module.
    """
    try:
        with _opened(smi) as (smi, handles):
            by_uuid = {_uuid(smi, handle): handle for handle in handles}
            return [
                {"uuid": uuid, **_facts(smi, by_uuid[uuid])} for uuid in uuids if uuid in by_uuid
            ]
    except _UnusableError:
        return []


@contextmanager
def sampling(uuids: Sequence[str], smi: Any = None) -> Iterator[Callable[[], list[GpuSample]]]:
    """What samples GPUs, each time it is called.

    Raises:
        RuntimeError: where AMD SMI cannot be used.
    """
    with _opened(smi) as (smi, handles):
        chosen = {uuid: handle for handle in handles if (uuid := _uuid(smi, handle)) in set(uuids)}
        yield lambda: [_sample(smi, uuid, handle) for uuid, handle in chosen.items()]


class _UnusableError(RuntimeError):
    """AMD SMI is missing or finds nothing; the message is the inventory's reason."""


@contextmanager
def _opened(smi: Any) -> Iterator[tuple[Any, list[Any]]]:
    """AMD SMI, initialised, and the handles of its GPUs."""
    smi = _library() if smi is None else smi
    try:
        smi.amdsmi_init()
    except smi.AmdSmiException as error:
        raise _UnusableError(f"AMD SMI: {_words(error)}") from None
    try:
        handles = list(smi.amdsmi_get_processor_handles())
        if not handles:
            raise _UnusableError("AMD SMI: the driver lists no GPU")
        yield smi, handles
    except smi.AmdSmiException as error:
        raise _UnusableError(f"AMD SMI: {_words(error)}") from None
    finally:
        _ask(smi, smi.amdsmi_shut_down)


def _library() -> Any:
    if not KFD.exists():
        raise _UnusableError(f"AMD SMI: no {KFD}")
    try:
        import amdsmi
    except ImportError:
        raise _UnusableError(
            "AMD SMI: the package amdsmi is missing: pip install 'pytest-gpubench[amd]', in the "
            "version of the host's ROCm"
        ) from None
    except (OSError, AttributeError, KeyError) as error:
        # It loads the host's library as it is imported, and looks for that version's functions.
        raise _UnusableError(
            f"AMD SMI: the package amdsmi does not fit the host's library ({_words(error)}): "
            "install it in the version of the host's ROCm"
        ) from None
    return amdsmi


def _read_gpu(smi: Any, number: int, handle: Any) -> Gpu:
    vram = smi.AmdSmiMemoryType.VRAM
    cap = _ask(smi, lambda: smi.amdsmi_get_power_cap_info(handle)) or {}
    listed = _ask(smi, lambda: smi.amdsmi_get_gpu_process_list(handle)) or []
    index = _number(_enumeration(smi, handle).get("hip_id"))
    return Gpu(
        index=number if index is None else int(index),
        uuid=_uuid(smi, handle),
        name=_name(smi, handle),
        memory_total=int(smi.amdsmi_get_gpu_memory_total(handle, vram)),
        memory_used=int(smi.amdsmi_get_gpu_memory_usage(handle, vram)),
        power_limit=_millionth(cap.get("power_cap")),
        processes=tuple(
            GpuProcess(int(process["pid"]), memory) for process, memory in _computing(listed)
        ),
        platform="rocm",
    )


def _computing(listed: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], int]]:
    """The processes that hold memory of a GPU, with it in bytes: each that uses any GPU of the host
    is listed for all of them."""
    for process in listed:
        memory = _number((process.get("memory_usage") or {}).get("vram_mem"))
        if memory:
            yield process, int(memory)


def _facts(smi: Any, handle: Any) -> dict[str, Any]:
    def ask(name: str, *arguments: Any) -> Any:
        return _ask(smi, lambda: getattr(smi, name)(handle, *arguments)) or {}

    cap = ask("amdsmi_get_power_cap_info")
    core = ask("amdsmi_get_clock_info", smi.AmdSmiClkType.GFX)
    memory = ask("amdsmi_get_clock_info", smi.AmdSmiClkType.MEM)
    link = ask("amdsmi_get_pcie_info")
    return {
        "note": UNSEEN,
        "name": _name(smi, handle),
        "driver": ask("amdsmi_get_gpu_driver_info").get("driver_version"),
        "vbios": ask("amdsmi_get_gpu_vbios_info").get("version"),
        "architecture": ask("amdsmi_get_gpu_asic_info").get("target_graphics_version"),
        "power_limit": _millionth(cap.get("power_cap")),
        "power_limit_default": _millionth(cap.get("default_power_cap")),
        "sm_clock": _number(core.get("clk")),
        "sm_clock_max": _number(core.get("max_clk")),
        "memory_clock": _number(memory.get("clk")),
        "memory_clock_max": _number(memory.get("max_clk")),
        "temperature": _temperature(smi, handle),
        "compute_partition": ask("amdsmi_get_gpu_compute_partition") or None,
        "memory_partition": ask("amdsmi_get_gpu_memory_partition") or None,
        "pcie_generation": _number((link.get("pcie_static") or {}).get("pcie_interface_version")),
        "pcie_width": _number((link.get("pcie_metric") or {}).get("pcie_width")),
    }


def _sample(smi: Any, uuid: str, handle: Any) -> GpuSample:
    def ask(name: str, *arguments: Any) -> Any:
        return _ask(smi, lambda: getattr(smi, name)(handle, *arguments)) or {}

    at = time.monotonic_ns()
    power, energy = ask("amdsmi_get_power_info"), ask("amdsmi_get_energy_count")
    violations = _ask(smi, lambda: smi.amdsmi_get_violation_status(handle))
    listed = _ask(smi, lambda: smi.amdsmi_get_gpu_process_list(handle)) or []
    used = _ask(smi, lambda: smi.amdsmi_get_gpu_memory_usage(handle, smi.AmdSmiMemoryType.VRAM))
    core = _number(ask("amdsmi_get_clock_info", smi.AmdSmiClkType.GFX).get("clk"))
    memory = _number(ask("amdsmi_get_clock_info", smi.AmdSmiClkType.MEM).get("clk"))
    busy = _number(ask("amdsmi_get_gpu_activity").get("gfx_activity"))
    # An Instinct tells the current power, older chips an average.
    watts = (_number(power.get(f"{kind}_socket_power")) for kind in ("current", "average"))
    return GpuSample(
        gpu=uuid,
        at_ns=at,
        power=next((value for value in watts if value), None),
        energy=_joules(energy),
        sm_clock=None if core is None else int(core),
        memory_clock=None if memory is None else int(memory),
        temperature=_temperature(smi, handle),
        utilization=None if busy is None else int(busy),
        memory_used=None if used is None else int(used),
        reasons=None if violations is None else _reasons(violations),
        pids=tuple(int(process["pid"]) for process, _ in _computing(listed)),
    )


def _reasons(violations: Mapping[str, Any]) -> int:
    reasons = 0
    for name, bit in _VIOLATIONS.items():
        if violations.get(name) is True:
            reasons |= bit
    return reasons


def _joules(energy: Mapping[str, Any]) -> float | None:
    """The counter times its resolution, in microjoules; ROCm before 6.2 calls it ``power``."""
    count = _number(energy.get("energy_accumulator", energy.get("power")))
    resolution = _number(energy.get("counter_resolution"))
    return count * resolution / 1e6 if count and resolution else None


def _temperature(smi: Any, handle: Any) -> int | None:
    """Of the hottest spot, in degrees Celsius."""
    read = _number(
        _ask(
            smi,
            lambda: smi.amdsmi_get_temp_metric(
                handle, smi.AmdSmiTemperatureType.HOTSPOT, smi.AmdSmiTemperatureMetric.CURRENT
            ),
        )
    )
    return None if read is None else int(read)


def _enumeration(smi: Any, handle: Any) -> Mapping[str, Any]:
    """Numbers and names of a GPU in HIP; ROCm before 6.4 does not tell them."""
    ask = getattr(smi, "amdsmi_get_gpu_enumeration_info", None)
    return (_ask(smi, lambda: ask(handle)) or {}) if ask else {}


def _uuid(smi: Any, handle: Any) -> str:
    """As ``ROCR_VISIBLE_DEVICES`` takes it, ``GPU-`` and 16 digits, where the driver tells that."""
    return str(_enumeration(smi, handle).get("hip_uuid") or smi.amdsmi_get_gpu_device_uuid(handle))


def _name(smi: Any, handle: Any) -> str:
    """The product's name, such as ``AMD Instinct MI300X``; its architecture where it has none."""
    facts = _ask(smi, lambda: smi.amdsmi_get_gpu_asic_info(handle)) or {}
    names = (facts.get("market_name"), facts.get("target_graphics_version"))
    return str(next((name for name in names if name and name != "N/A"), "AMD GPU"))


def _ask(smi: Any, ask: Callable[[], Any]) -> Any:
    """The library's answer, or None where it does not support the question."""
    try:
        return ask()
    except smi.AmdSmiException:
        return None


def _number(value: Any) -> float | None:
    """The library writes ``N/A`` where it knows nothing."""
    return value if is_number(value) else None


def _millionth(value: Any) -> float | None:
    """Power caps come in microwatts."""
    number = _number(value)
    return None if number is None else number / 1e6


def _words(error: BaseException) -> str:
    """In one line: the library's own messages have two."""
    return " ".join(str(error).split())
