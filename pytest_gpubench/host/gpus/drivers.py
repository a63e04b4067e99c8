"""The GPUs of this host, whoever made them: NVIDIA's by NVML, AMD's by AMD SMI.

What they do from moment to moment is sampled at a fixed rate by a process, so that neither pytest
nor the worker has to:

    python -m pytest_gpubench.host.gpus.drivers INTERVAL PLATFORM UUID...

It writes one JSON line per GPU and instant, and ends when its standard input does.
"""

from __future__ import annotations

import contextlib
import json
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from pytest_gpubench.host.gpus import amd, nvidia
from pytest_gpubench.host.gpus.inventory import Gpu, GpuSample, Inventory
from pytest_gpubench.host.own_processes import environment_for_ours


def read_inventory() -> Inventory:
    """Read the GPUs of this host now: NVIDIA's, and AMD's where there are none of those."""
    found = nvidia.read_inventory()
    if found.gpus or not amd.KFD.exists():
        return found
    others = amd.read_inventory()
    return others if others.gpus else Inventory(reason=f"{found.reason}; {others.reason}")


def gpu_facts(gpus: Sequence[Gpu]) -> list[dict[str, Any]]:
    """How GPUs of one platform are set, for records; empty where there are none."""
    if not gpus:
        return []
    read = amd.gpu_facts if gpus[0].platform == "rocm" else nvidia.gpu_facts
    return read([gpu.uuid for gpu in gpus])


def sampling(
    platform: str, uuids: Sequence[str]
) -> AbstractContextManager[Callable[[], list[GpuSample]]]:
    """What samples GPUs of one platform, each time it is called."""
    return amd.sampling(uuids) if platform == "rocm" else nvidia.sampling(uuids)


INTERVAL = 0.1
"""Seconds: the driver itself measures power no more often on most GPUs."""
_ENDING = 2.0


class GpuSampler:
    """Samples GPUs from entering the context until leaving it; the samples are to be had
    afterwards."""

    def __init__(self, gpus: Sequence[Gpu], interval: float = INTERVAL) -> None:
        """The GPUs are of one platform, as those of a server are."""
        self._arguments = [
            str(interval),
            *(gpu.platform for gpu in gpus[:1]),
            *(gpu.uuid for gpu in gpus),
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self._lines: list[bytes] = []
        self._reader: threading.Thread | None = None

    def __enter__(self) -> GpuSampler:
        if len(self._arguments) < 2:
            return self
        # What cannot be started cannot be sampled: the record then holds no telemetry, and says so.
        with contextlib.suppress(OSError):
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, *self._arguments],
                stdin=subprocess.PIPE,  # stays open: its end is the end of the sampler
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment_for_ours(),
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


def sample_until_told(sample: Callable[[], list[GpuSample]], interval: float) -> None:
    """Write samples to standard output until standard input ends or nobody reads any more."""
    due = time.monotonic()
    with contextlib.suppress(BrokenPipeError):
        while True:
            for one in sample():
                sys.stdout.write(json.dumps(one.to_json()) + "\n")
            sys.stdout.flush()
            due = max(due + interval, time.monotonic())
            if select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))[0]:
                return


if __name__ == "__main__":
    with sampling(sys.argv[2], sys.argv[3:]) as gpus_now:
        sample_until_told(gpus_now, float(sys.argv[1]))
