"""What GPUs do from moment to moment, sampled at a fixed rate by a process, so that neither pytest
nor the worker has to.

    python -m pytest_gpubench.host.gpus.sampling INTERVAL UUID...

It writes one JSON line per GPU and instant, and ends when its standard input does.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any

from pytest_gpubench.host.gpus.inventory import ask_if_supported, handles_of, thousandth

INTERVAL = 0.1
"""Seconds: the driver itself measures power no more often on most GPUs."""
_ENDING = 2.0
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
        return cls(
            **{item.name: plain[item.name] for item in fields(cls)} | {"pids": tuple(plain["pids"])}
        )


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


class GpuSampler:
    """Samples GPUs from entering the context until leaving it; the samples are to be had
    afterwards."""

    def __init__(self, uuids: Sequence[str], interval: float = INTERVAL) -> None:
        self._arguments = [str(interval), *uuids]
        self._process: subprocess.Popen[bytes] | None = None
        self._lines: list[bytes] = []
        self._reader: threading.Thread | None = None

    def __enter__(self) -> GpuSampler:
        if len(self._arguments) < 2:
            return self
        environment = {**os.environ}
        environment["PYTHONPATH"] = os.pathsep.join(
            filter(None, (os.environ.get("PYTHONPATH"), str(Path(__file__).parents[3])))
        )
        # What cannot be started cannot be sampled: the record then holds no telemetry, and says so.
        with contextlib.suppress(OSError):
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, *self._arguments],
                stdin=subprocess.PIPE,  # stays open: its end is the end of the sampler
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
            self._reader = threading.Thread(target=self._read, name="gpu-samples", daemon=True)
            self._reader.start()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if self._process is None or self._reader is None or self._process.stdin is None:
            return
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(_ENDING)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
        self._reader.join()
        if self._process.stdout is not None:
            self._process.stdout.close()

    @property
    def samples(self) -> list[GpuSample]:
        """Everything that was sampled, in the order of time."""
        return [GpuSample.from_json(json.loads(line)) for line in self._lines]

    def _read(self) -> None:
        if self._process is not None and self._process.stdout is not None:
            self._lines += (line for line in self._process.stdout if line.endswith(b"}\n"))


def sample_until_told(nvml: Any, uuids: Sequence[str], interval: float) -> None:
    """Write samples to standard output until standard input ends or nobody reads any more."""
    nvml.nvmlInit()
    handles = handles_of(nvml, uuids)
    due = time.monotonic()
    with contextlib.suppress(BrokenPipeError):
        while True:
            for sample in sample_gpus(nvml, handles):
                sys.stdout.write(json.dumps(sample.to_json()) + "\n")
            sys.stdout.flush()
            due = max(due + interval, time.monotonic())
            if select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))[0]:
                return


if __name__ == "__main__":
    import pynvml

    sample_until_told(pynvml, sys.argv[2:], float(sys.argv[1]))
