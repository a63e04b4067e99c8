from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_gpubench.host.gpus.drivers import GpuSampler, sample_until_told
from pytest_gpubench.host.gpus.inventory import Gpu, GpuSample
from pytest_gpubench.host.gpus.nvidia import gpu_facts, sample_gpus, sampling


class _NvmlError(Exception):
    pass


GPU = Gpu(0, "GPU-a", "NVIDIA H100 80GB HBM3", 80, 0)


class Driver:
    """NVML of a driver with some GPUs, of which each question can be refused."""

    NVMLError = _NvmlError
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    def __init__(self, *uuids: str, refuses: tuple[str, ...] = ()) -> None:
        self.uuids, self.refuses, self.open, self.asked = uuids, refuses, 0, 0

    def nvmlInit(self) -> None:  # noqa: N802
        if "nvmlInit" in self.refuses:
            raise _NvmlError("Driver Not Loaded")
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        if uuid not in self.uuids:
            raise _NvmlError("Not Found")
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, _: str) -> int:  # noqa: N802
        self.asked += 1
        return int(self._answer("nvmlDeviceGetTotalEnergyConsumption", 70_000 * self.asked))

    def _answer(self, name: str, value: Any) -> Any:
        if name in self.refuses:
            raise _NvmlError("Not Supported")
        return value

    def __getattr__(self, name: str) -> Callable[..., Any]:
        answers: dict[str, Any] = {
            "nvmlSystemGetDriverVersion": b"580.159.04",
            "nvmlSystemGetCudaDriverVersion": 13000,
            "nvmlDeviceGetPowerUsage": 652_500,
            "nvmlDeviceGetClockInfo": 1980,
            "nvmlDeviceGetMaxClockInfo": 2619,
            "nvmlDeviceGetTemperature": 41,
            "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=97, memory=20),
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=80, used=30),
            "nvmlDeviceGetCurrentClocksEventReasons": 0x4,
            "nvmlDeviceGetComputeRunningProcesses": [SimpleNamespace(pid=11, usedGpuMemory=None)],
            "nvmlDeviceGetEccMode": [1, 1],
            "nvmlDeviceGetMigMode": [0, 0],
            "nvmlDeviceGetEnforcedPowerLimit": 700_000,
            "nvmlDeviceGetPowerManagementDefaultLimit": 700_000,
            "nvmlDeviceGetName": b"NVIDIA H100 80GB HBM3",
            "nvmlDeviceGetVbiosVersion": "96.00",
            "nvmlDeviceGetPersistenceMode": 1,
            "nvmlDeviceGetComputeMode": 0,
            "nvmlDeviceGetCurrPcieLinkGeneration": 5,
            "nvmlDeviceGetCurrPcieLinkWidth": 16,
            "nvmlDeviceGetNvLinkVersion": 4,
        }
        if name == "nvmlDeviceGetNvLinkState":
            return lambda _, link: self._answer(name, int(link < 2))
        return lambda *_: self._answer(name, answers[name])


def test_a_sample_is_in_watts_joules_and_bytes() -> None:
    (sample,) = sample_gpus(Driver("GPU-a"), {"GPU-a": "GPU-a"})
    assert (sample.power, sample.energy, sample.sm_clock, sample.temperature) == (
        652.5,
        70.0,
        1980,
        41,
    )
    assert (sample.utilization, sample.memory_used, sample.reasons, sample.pids) == (
        97,
        30,
        4,
        (11,),
    )
    assert GpuSample.from_json(json.loads(json.dumps(sample.to_json()))) == sample


def test_a_question_that_the_driver_refuses_is_none() -> None:
    refuses = (
        "nvmlDeviceGetTotalEnergyConsumption",
        "nvmlDeviceGetUtilizationRates",
        "nvmlDeviceGetComputeRunningProcesses",
    )
    (sample,) = sample_gpus(Driver("GPU-a", refuses=refuses), {"GPU-a": "GPU-a"})
    assert (sample.energy, sample.utilization, sample.pids) == (None, None, ())
    assert sample.power == 652.5


def test_facts_tell_clocks_power_cap_ecc_driver_and_links() -> None:
    driver = Driver("GPU-a", "GPU-b", refuses=("nvmlDeviceGetEccMode",))
    facts = gpu_facts(["GPU-b"], driver)
    assert [fact["uuid"] for fact in facts] == ["GPU-b"]
    assert facts[0] | {"name": "", "vbios": ""} == {
        **{"uuid": "GPU-b", "driver": "580.159.04", "cuda_driver": 13000, "name": "", "vbios": ""},
        **{
            "power_limit": 700.0,
            "power_limit_default": 700.0,
            "sm_clock": 1980,
            "sm_clock_max": 2619,
            "memory_clock": 1980,
        },
        **{
            "memory_clock_max": 2619,
            "temperature": 41,
            "ecc": None,
            "mig": False,
            "persistence": True,
            "compute_mode": 0,
        },
        **{"pcie_generation": 5, "pcie_width": 16, "nvlinks": 2, "nvlink_version": 4},
    }
    assert driver.open == 0


@pytest.mark.parametrize("refuses", [("nvmlInit",), ()])
def test_facts_without_a_driver_or_without_the_gpu_are_none(refuses: tuple[str, ...]) -> None:
    driver = Driver("GPU-a", refuses=refuses)
    assert gpu_facts(["GPU-gone"], driver) == []
    assert driver.open == 0


def test_the_sampling_process_ends_with_its_input(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    output = io.StringIO()
    driver = Driver("GPU-a")

    class Output(io.StringIO):
        def flush(self) -> None:
            output.write(self.getvalue())
            self.truncate(0)
            self.seek(0)
            if len(output.getvalue().splitlines()) == 3:
                os.close(writer)

    with os.fdopen(reader) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setattr(sys, "stdout", Output())
        with sampling(["GPU-a"], driver) as sample:
            sample_until_told(sample, 0.01)
    samples = [GpuSample.from_json(json.loads(line)) for line in output.getvalue().splitlines()]
    assert [sample.energy for sample in samples] == [70.0, 140.0, 210.0]
    assert samples[0].at_ns < samples[1].at_ns < samples[2].at_ns


def test_a_sampler_brings_what_its_process_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "pynvml.py"
    fake.write_text(
        "import sys\nsys.path.insert(0, " + repr(str(Path(__file__).parents[2])) + ")\n"
        "from tests.host.test_gpu_telemetry import Driver\n_driver = Driver('GPU-a')\n"
        "def __getattr__(name):\n    return getattr(_driver, name)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    sampler = GpuSampler([GPU], 0.01)
    with sampler:
        while (
            len(sampler._lines) < 3
        ):  # ends: the process writes until it is told to stop, and its death empties the pipe
            assert sampler._process is not None
            assert sampler._process.poll() is None
    assert sampler._process is not None
    assert sampler._process.returncode == 0
    assert {sample.gpu for sample in sampler.samples} == {"GPU-a"}
    assert len(sampler.samples) >= 3


def test_a_sampler_of_no_gpu_starts_nothing() -> None:
    with GpuSampler([]) as sampler:
        assert sampler._process is None
    assert sampler.samples == []


def test_a_sampler_without_a_driver_has_no_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pynvml.py").write_text("raise ImportError('no driver')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with GpuSampler([GPU]) as sampler:
        assert sampler._process is not None
        sampler._process.wait()
    assert sampler.samples == []
