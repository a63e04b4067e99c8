"""Due times of the open loop. Pure: the same workload gives the same schedule."""

from __future__ import annotations

import math
import random

from pytest_gpubench.load.protocol import Phase
from pytest_gpubench.model.workload import Workload


def due_offsets(workload: Workload, phase: Phase, number: int) -> list[float]:
    """Seconds after the start at which each of ``number`` arrivals is due, by the workload's rate and distribution.

    The schedule of poisson and gamma is scaled so that its mean rate is exactly the one asked for: otherwise two seeds would ask
    for different loads. A ramp is not applied here (``ramped``).

    Raises:
        ValueError: for a closed loop or a trace, which have no rate.
    """
    if workload.arrival not in ("constant", "poisson", "gamma"):
        raise ValueError(f"arrival {workload.arrival!r} has no rate")
    gap = 1 / workload.request_rate
    if workload.arrival == "constant" or number < 2:
        return [index * gap for index in range(number)]
    shape = workload.burstiness if workload.arrival == "gamma" else 1.0
    rng = random.Random(f"{workload.seed}/{phase}/arrivals")  # noqa: S311  # reproducible, not secret
    offsets = [0.0]
    for _ in range(number - 1):
        offsets.append(offsets[-1] + rng.gammavariate(shape, gap / shape))
    scale = (number - 1) * gap / offsets[-1] if offsets[-1] > 0 else 1.0
    return [offset * scale for offset in offsets]


def ramped(offset: float, ramp: float) -> float:
    """The time at which an arrival of a steady schedule is due if the rate grows linearly from 0 over ``ramp`` seconds.

    The n-th arrival keeps its number: where the steady schedule would have sent n requests by ``offset``, the growing one has sent
    as many by the result. After the ramp it is the steady schedule, ``ramp / 2`` later.
    """
    return math.sqrt(2 * ramp * offset) if offset < ramp / 2 else offset + ramp / 2
