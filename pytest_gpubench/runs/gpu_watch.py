"""The GPUs of a server while it is measured: sampled around the load, summed up into the
measurement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType

import psutil

from pytest_gpubench.engines.engine import Engine
from pytest_gpubench.host.gpus.drivers import GpuSampler
from pytest_gpubench.host.gpus.inventory import Gpu
from pytest_gpubench.load.protocol import RequestRecord
from pytest_gpubench.measure.energy import gpu_series, gpu_window
from pytest_gpubench.measure.measurement import Measurement


class GpuWatch:
    """Samples a server's GPUs while the context is open; does nothing for a server without any that
    we know of."""

    def __init__(self, gpus: Sequence[Gpu], engine: Engine) -> None:
        self._sampler = GpuSampler(gpus)
        self._engine = engine
        self._own: set[int] = set()

    def __enter__(self) -> GpuWatch:
        self._own = _tree(self._engine.pid)
        self._sampler.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._own |= _tree(self._engine.pid)
        self._sampler.__exit__(kind, value, traceback)

    def complete(self, measurement: Measurement, records: Sequence[RequestRecord]) -> Measurement:
        """The measurement with power, energy, and flags for clocks held back and foreign
        processes."""
        samples = self._sampler.samples
        measured = [
            record
            for record in records
            if record.phase == "measured" and record.last_token_ns is not None
        ]
        if not samples or not measured or measurement.problems:
            return measurement
        start = min(record.due_ns for record in measured)
        end = max(record.last_token_ns or 0 for record in measured)
        timed = [name for name in measurement.metrics if name != "acceptance_length"]
        window = gpu_window(
            samples,
            start,
            end,
            measurement.totals.output_tokens,
            own=self._own or None,
            timed=timed,
            name=_in_words,
        )
        return replace(
            measurement,
            metrics={**measurement.metrics, **window.metrics},
            flags=measurement.flags + window.flags,
            gpus=window.gpus,
            gpu_series=gpu_series(samples, start),
        )


def _tree(pid: int | None) -> set[int]:
    try:
        return (
            set()
            if pid is None
            else {pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))}
        )
    except psutil.Error:
        return set()


def _in_words(pid: int) -> str:
    try:
        return f"pid {pid} ({psutil.Process(pid).name()})"
    except psutil.Error:
        return f"pid {pid}"
