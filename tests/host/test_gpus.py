from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from pytest_gpubench.host.gpus.inventory import (
    Gpu,
    GpuProcess,
    Inventory,
    missing_hardware,
    visible_inventory,
)
from pytest_gpubench.host.gpus.nvidia import read_inventory
from pytest_gpubench.model.hardware import HARDWARE, Hardware
from pytest_gpubench.recipes import schema

GIB = 1 << 30


class _NvmlError(Exception):
    pass


class FakeNvml:
    """A driver with the given product names; names of functions in ``broken`` are not supported."""

    NVMLError = _NvmlError

    def __init__(self, *names: str, broken: tuple[str, ...] = (), no_driver: str = "") -> None:
        self.names, self.broken, self.no_driver = names, broken, no_driver
        self.open = 0

    def nvmlInit(self) -> None:  # noqa: N802
        if self.no_driver:
            raise _NvmlError(self.no_driver)
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def __getattr__(self, name: str) -> Any:
        if name in self.broken:
            return self._refuse
        return {
            "nvmlDeviceGetCount": lambda: len(self.names),
            "nvmlSystemGetDriverVersion": lambda: b"580.82.07",
            "nvmlDeviceGetHandleByIndex": lambda index: index,
            "nvmlDeviceGetMemoryInfo": lambda _: SimpleNamespace(total=80 * GIB, used=3 * GIB),
            "nvmlDeviceGetEnforcedPowerLimit": lambda _: 700_000,
            "nvmlDeviceGetComputeRunningProcesses": lambda _: [
                SimpleNamespace(pid=77, usedGpuMemory=None)
            ],
            "nvmlDeviceGetUUID": lambda index: f"GPU-{index}{index}-abc",
            "nvmlDeviceGetName": lambda index: self.names[index],
            "nvmlDeviceGetCudaComputeCapability": lambda _: [7, 5],
            "nvmlDeviceGetNvLinkState": lambda _, link: link == 2,
            "nvmlDeviceGetNvLinkVersion": lambda *_: 3,
        }[name]

    @staticmethod
    def _refuse(*_: object) -> None:
        raise _NvmlError("Not Supported")


def _gpus(*names: str) -> Inventory:
    return read_inventory(FakeNvml(*names))


H100 = "NVIDIA H100 80GB HBM3"


def test_inventory_reads_what_the_driver_tells() -> None:
    nvml = FakeNvml(H100, "NVIDIA T4")
    inventory = read_inventory(nvml)
    assert inventory.driver == "580.82.07"
    assert inventory.gpus[0] == Gpu(
        0, "GPU-00-abc", H100, 80 * GIB, 3 * GIB, 700.0, (GpuProcess(77),)
    )
    assert [gpu.hardware.key if gpu.hardware else None for gpu in inventory.gpus] == ["h100", None]
    assert inventory.of_hardware(HARDWARE["h100"]) == inventory.gpus[:1]
    assert nvml.open == 0


ADA = "NVIDIA RTX 6000 Ada Generation"


def test_a_gpu_that_the_table_lacks_is_declared_by_what_the_driver_tells() -> None:
    inventory = _gpus(ADA, H100, ADA)
    [entry] = inventory.declarations
    assert entry.startswith("rtx6000adageneration: {")
    section = schema.Runner.model_validate(yaml.safe_load(entry)["rtx6000adageneration"])
    declared = section.declared("rtx6000ada")
    assert declared is not None
    assert declared == Hardware(
        "rtx6000ada", "cuda", 80.0, 2, 75, True, ("RTX", "6000", "ADA", "GENERATION")
    )
    assert [gpu.index for gpu in inventory.of_hardware(declared)] == [0, 2]
    assert missing_hardware(declared, 2, inventory) is None
    assert "needs 3 x RTX6000ADA (cuda); this host has 2 x" in str(
        missing_hardware(declared, 3, inventory)
    )
    assert inventory.of_hardware(HARDWARE["rtxpro6000"]) == ()
    silent = FakeNvml(ADA, broken=("nvmlDeviceGetCudaComputeCapability",))
    assert "compute-capability: 0.0" in read_inventory(silent).declarations[0]


def test_a_declaration_may_be_narrower_than_the_table() -> None:
    inventory = _gpus("NVIDIA H100 NVL", H100)
    narrow = Hardware("h100nvl", "cuda", 93.6, 8, 90, True, ("H100", "NVL"))
    assert [gpu.index for gpu in inventory.of_hardware(narrow)] == [0]
    assert [gpu.index for gpu in inventory.of_hardware(HARDWARE["h100"])] == [0, 1]
    assert inventory.declarations == ()


def test_questions_that_the_driver_refuses_are_none() -> None:
    nvml = FakeNvml(
        H100, broken=("nvmlDeviceGetEnforcedPowerLimit", "nvmlDeviceGetComputeRunningProcesses")
    )
    gpu = read_inventory(nvml).gpus[0]
    assert gpu.power_limit is None
    assert gpu.processes == ()


def test_no_driver_is_an_empty_inventory_with_the_reason() -> None:
    assert read_inventory(FakeNvml(no_driver="Driver Not Loaded")) == Inventory(
        reason="NVML: Driver Not Loaded"
    )
    assert read_inventory(FakeNvml()).reason == "NVML: the driver lists no GPU"
    broken = FakeNvml(H100, broken=("nvmlDeviceGetMemoryInfo",))
    assert read_inventory(broken) == Inventory(reason="NVML: Not Supported")
    assert broken.open == 0


def test_the_real_nvml_answers_or_says_why() -> None:
    inventory = read_inventory()
    assert bool(inventory.gpus) != bool(inventory.reason)


@pytest.mark.parametrize(
    ("visible", "indices"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("2,0", [2, 0]),
        ("1", [1]),
        ("GPU-11", [1]),
        ("0,9,1", [0]),
        ("-1", []),
        ("1,1", [1]),
    ],
)
def test_visible_devices_restrict_as_cuda_does(visible: str | None, indices: list[int]) -> None:
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    inventory = visible_inventory(_gpus(H100, H100, H100), environ)
    assert [gpu.index for gpu in inventory.gpus] == indices
    assert bool(inventory.reason) == (not indices)


NO_GPU = Inventory(reason="NVML: Driver Not Loaded")


@pytest.mark.parametrize(
    ("key", "gpus", "inventory", "engine", "sentence"),
    [
        (
            "h100",
            8,
            NO_GPU,
            None,
            "needs 8 x H100 (cuda); this host has no NVIDIA GPU (NVML: Driver Not Loaded)",
        ),
        ("h100", 2, _gpus(H100, H100), "cuda", None),
        ("h100", 4, _gpus(H100, H100), "cuda", f"needs 4 x H100 (cuda); this host has 2 x {H100}"),
        ("h200", 1, _gpus(H100), "cuda", f"needs 1 x H200 (cuda); this host has 1 x {H100}"),
        (
            "h100",
            1,
            _gpus(H100),
            "cpu",
            "needs an engine for cuda; the engine at hand is vllm 0.26.0 for cpu",
        ),
        ("cpu", 1, NO_GPU, "cpu", None),
        ("cpu", 1, NO_GPU, None, None),
        (
            "cpu",
            1,
            _gpus(H100),
            "cuda",
            "needs the CPU engine; the engine at hand is vllm 0.26.0 for cuda",
        ),
        (
            "mi300x",
            8,
            NO_GPU,
            None,
            "needs 8 x MI300X (rocm); this host has no AMD GPU (",
        ),
        ("b200", 8, NO_GPU, "cpu", "for cpu"),
        (
            "h100",
            1,
            _gpus("NVIDIA T4"),
            None,
            "this host has 1 x NVIDIA T4 (a recipe file can declare it: `runners: {t4: {name: "
            '"T4", memory-gib: 80.0, compute-capability: 7.5, gpus-per-node: 1, nvlink: true}}`)',
        ),
    ],
)
def test_what_is_missing_is_a_sentence(
    key: str, gpus: int, inventory: Inventory, engine: Any, sentence: str | None
) -> None:
    missing = missing_hardware(HARDWARE[key], gpus, inventory, engine, "vllm 0.26.0")
    if sentence is None:
        assert missing is None
    else:
        assert missing is not None
        assert sentence in missing
