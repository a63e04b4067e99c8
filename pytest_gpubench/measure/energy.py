"""From GPU samples to what a measurement says about power, clocks and who else was there, and to
whether GPUs have come to rest under load: warm, at a steady clock. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from pytest_gpubench.host.gpus.inventory import CAPPED_BY, SLOWED_BY, GpuSample
from pytest_gpubench.measure.measurement import Flag
from pytest_gpubench.model.grouping import grouped

_EDGE_NS = 500_000_000
"""A sample must lie within so much of either end of the window, or telemetry does not cover it."""
_SLOWED_SHARE = 0.02
"""Part of the window's samples from which a slowdown is no accident of one sample."""
_CAPPED_SHARE = 0.05
_DEGREES = 1
"""Celsius that the warmest GPU may still change between two loads, as the driver counts them."""
_CLOCK_SHARE = 0.01
"""Part by which a GPU's clock may still change."""
_NUMBERS = ("power", "sm_clock", "memory_clock", "temperature", "utilization", "memory_used")

_UNCOVERED = Flag(
    "gpus-not-covered",
    "the samples of the GPUs do not cover the window: no energy",
    ("energy_per_output_token", "gpu_power"),
)


@dataclass(frozen=True, slots=True)
class GpuWindow:
    """What the GPUs did during the measured window."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    flags: tuple[Flag, ...] = ()
    gpus: tuple[Mapping[str, Any], ...] = ()
    """Per GPU: number of samples, energy, and least, mean and greatest of every number."""


def gpu_window(
    samples: Sequence[GpuSample],
    start_ns: int,
    end_ns: int,
    output_tokens: int,
    *,
    own: Collection[int] | None = None,
    timed: Iterable[str] = (),
    name: Callable[[int], str] = str,
) -> GpuWindow:
    """Sum up the samples of a window.

    Energy is the difference of the driver's counter between the window's ends (interpolated between
    samples), and the integral of the power where there is no counter. It is that of all GPUs of the
    server, per output token of the measured requests.

    Args:
        samples: of the server's GPUs, from before the window until after it.
        start_ns, end_ns: the window, first start to last token.
        output_tokens: of the measured requests.
        own: pids of the server; a process beside them is named in a flag. None: not known, nobody
        is.
        timed: names of the metrics that a slow GPU or somebody else's work falsifies.
        name: a process in words.
    """
    by_gpu = grouped(samples, lambda sample: sample.gpu)
    inside = {
        gpu: [sample for sample in taken if start_ns <= sample.at_ns <= end_ns]
        for gpu, taken in by_gpu.items()
    }
    energies = {gpu: _energy(taken, start_ns, end_ns) for gpu, taken in by_gpu.items()}
    seconds = (end_ns - start_ns) / 1e9
    known = [energy for energy in energies.values() if energy is not None]
    metrics: dict[str, float] = {}
    if known and len(known) == len(by_gpu) and seconds > 0:
        metrics["gpu_power"] = sum(known) / seconds
        if output_tokens > 0:
            metrics["energy_per_output_token"] = sum(known) / output_tokens
    timed = tuple(timed)
    flags = (
        *([_UNCOVERED] if samples and len(known) < len(by_gpu) else ()),
        *_held_back(inside, timed),
        *_foreign(inside, own, timed, name),
    )
    summaries = tuple(_summary(gpu, inside[gpu], energies[gpu]) for gpu in by_gpu)
    return GpuWindow(metrics, flags, summaries)


def _energy(samples: Sequence[GpuSample], start_ns: int, end_ns: int) -> float | None:
    """Joules of one GPU within the window; None where the samples do not cover it."""
    for read in (_counted, _integrated):
        total = read(samples)
        if (
            len(total) > 1
            and total[0][0] <= start_ns + _EDGE_NS
            and total[-1][0] >= end_ns - _EDGE_NS
        ):
            return _at(total, end_ns) - _at(total, start_ns)
    return None


def _counted(samples: Sequence[GpuSample]) -> list[tuple[int, float]]:
    return [(sample.at_ns, sample.energy) for sample in samples if sample.energy is not None]


def _integrated(samples: Sequence[GpuSample]) -> list[tuple[int, float]]:
    powers = [(sample.at_ns, sample.power) for sample in samples if sample.power is not None]
    total = 0.0
    points = [(at, 0.0) for at, _ in powers[:1]]
    for (left, low), (right, high) in pairwise(powers):
        total += (low + high) / 2 * (right - left) / 1e9
        points.append((right, total))
    return points


def _at(points: Sequence[tuple[int, float]], moment_ns: int) -> float:
    """By linear interpolation, and by the nearest slope outside."""
    place = next(
        (index for index, (at, _) in enumerate(points) if at >= moment_ns), len(points) - 1
    )
    (left, low), (right, high) = points[max(place, 1) - 1], points[max(place, 1)]
    if right == left:
        return low
    return low + (high - low) * (moment_ns - left) / (right - left)


def _held_back(inside: Mapping[str, Sequence[GpuSample]], timed: tuple[str, ...]) -> Iterator[Flag]:
    for code, bits, least, metrics in (
        ("gpu-slowed", SLOWED_BY, _SLOWED_SHARE, timed),
        ("gpu-power-capped", CAPPED_BY, _CAPPED_SHARE, ()),
    ):
        shares = {
            word: max((_share(samples, bit) for samples in inside.values()), default=0.0)
            for bit, word in bits.items()
        }
        causes = ", ".join(
            f"{word} in {share:.0%} of the samples"
            for word, share in shares.items()
            if share > least
        )
        if causes:
            yield Flag(code, f"a GPU's clocks were held back: {causes}", metrics)


def _share(samples: Sequence[GpuSample], bit: int) -> float:
    known = [sample.reasons for sample in samples if sample.reasons is not None]
    return sum(bool(reasons & bit) for reasons in known) / len(known) if known else 0.0


def _foreign(
    inside: Mapping[str, Sequence[GpuSample]],
    own: Collection[int] | None,
    timed: tuple[str, ...],
    name: Callable[[int], str],
) -> list[Flag]:
    if own is None:
        return []
    seen = {pid for samples in inside.values() for sample in samples for pid in sample.pids}
    others = sorted(seen - set(own))
    # the server's own must be among them: in a container these are the host's numbers
    if not others or not seen & set(own):
        return []
    who = ", ".join(name(pid) for pid in others)
    return [Flag("foreign-process", f"another process computed on the server's GPUs: {who}", timed)]


def gpu_series(
    samples: Sequence[GpuSample], start_ns: int, most: int = 240
) -> tuple[dict[str, float], ...]:
    """Power (watts, all GPUs together) and lowest SM clock (MHz) over time, for charts; ``seconds``
    count from the window's start.

    The run is cut into equal parts of at least 0.5 s, at most ``most`` of them; a part in which a
    GPU said nothing is left out.
    """
    timed = [sample for sample in samples if sample.power is not None]
    if not timed:
        return ()
    first, last = min(sample.at_ns for sample in timed), max(sample.at_ns for sample in timed)
    length = max(500_000_000, (last - first) // most + 1)
    gpus = {sample.gpu for sample in timed}
    parts = grouped(timed, lambda sample: (sample.at_ns - first) // length)
    return tuple(
        _point(part, (first + (number + 0.5) * length - start_ns) / 1e9)
        for number, part in sorted(parts.items())
        if {sample.gpu for sample in part} == gpus
    )


def _point(samples: Sequence[GpuSample], seconds: float) -> dict[str, float]:
    power = sum(
        statistics.fmean(sample.power for sample in own if sample.power is not None)
        for own in grouped(samples, lambda sample: sample.gpu).values()
    )
    clocks = [sample.sm_clock for sample in samples if sample.sm_clock is not None]
    point = {"seconds": round(seconds, 3), "power": round(power, 1)}
    if clocks:
        point["sm_clock"] = float(min(clocks))
    return point


def _summary(gpu: str, samples: Sequence[GpuSample], energy: float | None) -> dict[str, Any]:
    summary: dict[str, Any] = {"gpu": gpu, "samples": len(samples), "energy": energy}
    for number in _NUMBERS:
        values = [value for sample in samples if (value := getattr(sample, number)) is not None]
        if values:
            summary[number] = {
                "min": min(values),
                "mean": statistics.fmean(values),
                "max": max(values),
            }
    reasons = 0
    for sample in samples:
        reasons |= sample.reasons or 0
    return {**summary, "clock_reasons": reasons}


@dataclass(frozen=True, slots=True)
class Warmth:
    """A GPU under one load; None where its driver does not say."""

    temperature: int | None
    """Highest, degrees Celsius."""
    sm_clock: float | None
    """Median while it computed, MHz."""


def warmth_of(samples: Iterable[GpuSample]) -> dict[str, Warmth]:
    """What samples of one load say, by GPU."""
    found = {}
    for gpu, its in grouped(samples, lambda sample: sample.gpu).items():
        temperatures = [one.temperature for one in its if one.temperature is not None]
        clocks = [one.sm_clock for one in its if one.sm_clock is not None and one.utilization]
        found[gpu] = Warmth(
            max(temperatures, default=None), statistics.median(clocks) if clocks else None
        )
    return found


def has_settled(before: Mapping[str, Warmth], now: Mapping[str, Warmth]) -> bool:
    """Whether no GPU has changed since the load before; what no driver says has not changed. A GPU
    that was not sampled then has nothing to be compared with."""
    return all(
        gpu in before
        and _is_near(before[gpu].temperature, warmth.temperature, _DEGREES)
        and _is_near(before[gpu].sm_clock, warmth.sm_clock, _CLOCK_SHARE * (warmth.sm_clock or 0.0))
        for gpu, warmth in now.items()
    )


def _is_near(before: float | None, now: float | None, most: float) -> bool:
    return before is None or now is None or abs(now - before) <= most
