from __future__ import annotations

import statistics
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gpubench.load.driver import due_offsets, ramped
from pytest_gpubench.model.workload import Workload


def workload(**chosen: Any) -> Workload:
    return Workload(
        isl=8, osl=8, conc=1, num_prompts=1, num_warmups=0, **{"request_rate": 20.0, **chosen}
    )


def gaps(offsets: list[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(offsets)]


def variation(values: list[float]) -> float:
    return statistics.stdev(values) / statistics.fmean(values)


def test_constant_is_even() -> None:
    assert due_offsets(workload(arrival="constant"), "measured", 4) == pytest.approx(
        [0, 0.05, 0.1, 0.15]
    )


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({"arrival": "poisson"}, 1.0),
        ({"arrival": "gamma", "burstiness": 0.25}, 2.0),
        ({"arrival": "gamma", "burstiness": 4.0}, 0.5),
        ({"arrival": "gamma", "burstiness": 1.0}, 1.0),
    ],
)
def test_burstiness_is_the_gammas_shape(chosen: dict[str, Any], expected: float) -> None:
    # the coefficient of variation of a gamma distribution is 1 / sqrt(shape)
    assert variation(gaps(due_offsets(workload(**chosen), "measured", 4000))) == pytest.approx(
        expected, rel=0.1
    )


@given(
    number=st.integers(2, 200),
    seed=st.integers(0, 50),
    rate=st.floats(0.1, 1000),
    burstiness=st.floats(0.1, 10),
)
def test_schedule_has_exactly_the_rate(
    number: int, seed: int, rate: float, burstiness: float
) -> None:
    chosen = workload(arrival="gamma", request_rate=rate, burstiness=burstiness, seed=seed)
    offsets = due_offsets(chosen, "measured", number)
    assert len(offsets) == number
    assert offsets[0] == 0
    assert all(gap >= 0 for gap in gaps(offsets))
    assert offsets[-1] == pytest.approx((number - 1) / rate)
    assert offsets == due_offsets(chosen, "measured", number)


def test_phases_and_seeds_differ() -> None:
    base = due_offsets(workload(arrival="poisson"), "measured", 10)
    assert due_offsets(workload(arrival="poisson"), "warmup", 10) != base
    assert due_offsets(workload(arrival="poisson", seed=1), "measured", 10) != base


def test_closed_loop_has_no_schedule() -> None:
    with pytest.raises(ValueError, match="no rate"):
        due_offsets(workload(), "measured", 3)


def test_ramp_grows_from_nothing_to_the_full_rate() -> None:
    ramp, gap = 4.0, 0.01
    times = [ramped(index * gap, ramp) for index in range(2000)]
    assert times == sorted(times)
    # after the ramp: the full rate
    assert gaps(times[400:]) == pytest.approx([gap] * len(gaps(times[400:])))
    # in the middle of the ramp: half of it
    near = [
        gap for time, gap in zip(times, gaps(times), strict=False) if abs(time - ramp / 2) < 0.1
    ]
    assert statistics.fmean(near) == pytest.approx(2 * gap, rel=0.1)
    assert ramped(3.0, 0.0) == 3.0
