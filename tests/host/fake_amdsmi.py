"""AMD SMI of a host with some Instinct GPUs, in the exact form of the package's answers
(`test_amd_gpus` compares the form with the package's own source)."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

GIB = 1 << 30


class AmdSmiException(Exception):  # noqa: N818  # its name
    pass


class AmdSmiLibraryException(AmdSmiException):
    def __str__(self) -> str:
        return "Error code:\n\t2 | AMDSMI_STATUS_NOT_SUPPORTED - Feature not supported"


class FakeAmdsmi:
    """The module; ``broken`` names functions that are not supported, ``absent`` those that an older
    release does not have."""

    AmdSmiException = AmdSmiException
    AmdSmiMemoryType = SimpleNamespace(VRAM=1)
    AmdSmiClkType = SimpleNamespace(GFX=1, MEM=2)
    AmdSmiTemperatureType = SimpleNamespace(HOTSPOT=1)
    AmdSmiTemperatureMetric = SimpleNamespace(CURRENT=0)

    def __init__(
        self,
        *names: str,
        broken: tuple[str, ...] = (),
        absent: tuple[str, ...] = (),
        hip_ids: tuple[int, ...] = (),
        violations: tuple[str, ...] = (),
        processes: tuple[tuple[int, int], ...] = ((77, 12 * GIB),),
    ) -> None:
        self.names, self.broken, self.absent = names, broken, absent
        self.hip_ids = hip_ids or tuple(range(len(names)))
        self.violations, self.processes = violations, processes
        self.open = self.energy_read = 0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if not name.startswith("amdsmi_") or name in self.absent:
            raise AttributeError(name)
        if name in self.broken:
            return self._refuse
        return getattr(Answers(self), name)  # type: ignore[no-any-return]

    @staticmethod
    def _refuse(*_: object) -> None:
        raise AmdSmiLibraryException


class Answers:
    """Each function by its name."""

    def __init__(self, host: FakeAmdsmi) -> None:
        self.host = host

    def amdsmi_init(self) -> None:
        self.host.open += 1

    def amdsmi_shut_down(self) -> None:
        self.host.open -= 1

    def amdsmi_get_processor_handles(self) -> list[int]:
        return list(range(len(self.host.names)))

    def amdsmi_get_gpu_device_uuid(self, handle: int) -> str:
        return f"{handle:02x}ff74a1-0000-1000-80cc-01020304050{handle}"

    def amdsmi_get_gpu_enumeration_info(self, handle: int) -> dict[str, Any]:
        return {
            "drm_render": 128 + handle,
            "drm_card": handle,
            "hsa_id": handle + 1,
            "hip_id": self.host.hip_ids[handle],
            "hip_uuid": f"GPU-{handle:016x}",
        }

    def amdsmi_get_gpu_asic_info(self, handle: int) -> dict[str, Any]:
        return {
            "market_name": self.host.names[handle],
            "vendor_name": "Advanced Micro Devices Inc. [AMD/ATI]",
            "target_graphics_version": "gfx942",
        }

    def amdsmi_get_gpu_driver_info(self, _: int) -> dict[str, Any]:
        return {"driver_name": "amdgpu", "driver_version": "6.14.14", "driver_date": "N/A"}

    def amdsmi_get_gpu_vbios_info(self, _: int) -> dict[str, Any]:
        return {"name": "AMD MI300X", "version": "022.040.003.041.000001", "build_date": ""}

    def amdsmi_get_gpu_memory_total(self, _: int, kind: int) -> int:
        assert kind == self.host.AmdSmiMemoryType.VRAM
        return 192 * GIB

    def amdsmi_get_gpu_memory_usage(self, _: int, kind: int) -> int:
        assert kind == self.host.AmdSmiMemoryType.VRAM
        return 3 * GIB

    def amdsmi_get_power_cap_info(self, _: int) -> dict[str, Any]:
        return {"power_cap": 750_000_000, "default_power_cap": 750_000_000, "dpm_cap": 0}

    def amdsmi_get_power_info(self, _: int) -> dict[str, Any]:
        return {"current_socket_power": 612, "average_socket_power": "N/A", "power_limit": 750}

    def amdsmi_get_energy_count(self, _: int) -> dict[str, Any]:
        self.host.energy_read += 1
        return {
            "energy_accumulator": 1_000_000 * self.host.energy_read,
            "counter_resolution": 15.25,
            "timestamp": 1,
        }

    def amdsmi_get_clock_info(self, _: int, kind: int) -> dict[str, Any]:
        now = {self.host.AmdSmiClkType.GFX: 2105, self.host.AmdSmiClkType.MEM: 1300}[kind]
        return {"clk": now, "min_clk": 132, "max_clk": now, "clk_deep_sleep": "N/A"}

    def amdsmi_get_temp_metric(self, *_: int) -> int:
        return 61

    def amdsmi_get_gpu_activity(self, _: int) -> dict[str, Any]:
        return {"gfx_activity": 97, "umc_activity": 20, "mm_activity": "N/A"}

    def amdsmi_get_violation_status(self, _: int) -> dict[str, Any]:
        names = ("ppt_pwr", "prochot_thrm", "socket_thrm", "vr_thrm", "hbm_thrm")
        known: dict[str, Any] = {f"active_{name}": name in self.host.violations for name in names}
        return known | {"active_gfx_clk_below_host_limit": "N/A", "per_ppt_pwr": "N/A"}

    def amdsmi_get_gpu_process_list(self, _: int) -> list[dict[str, Any]]:
        return [
            {
                "name": "N/A",
                "pid": pid,
                "mem": memory,
                "engine_usage": {"gfx": 0, "enc": 0},
                "memory_usage": {"gtt_mem": 0, "cpu_mem": 0, "vram_mem": memory},
            }
            for pid, memory in self.host.processes
        ]

    def amdsmi_get_pcie_info(self, _: int) -> dict[str, Any]:
        return {
            "pcie_static": {"max_pcie_width": 16, "pcie_interface_version": 5},
            "pcie_metric": {"pcie_width": 16, "pcie_speed": 32000},
        }

    def amdsmi_get_gpu_compute_partition(self, _: int) -> str:
        return "SPX"

    def amdsmi_get_gpu_memory_partition(self, _: int) -> str:
        return "NPS1"
