"""Whether GPUs have come to rest."""

from __future__ import annotations

import pytest

from pytest_gpubench.host.gpus.inventory import GpuSample
from pytest_gpubench.measure.energy import Warmth, has_settled, warmth_of


def test_what_samples_of_a_load_say() -> None:
    samples = [
        GpuSample("a", 1, sm_clock=345, temperature=30, utilization=0),
        GpuSample("a", 2, sm_clock=1980, temperature=41, utilization=90),
        GpuSample("a", 3, sm_clock=1950, temperature=44, utilization=95),
        GpuSample("b", 3),
    ]
    assert warmth_of(samples) == {"a": Warmth(44, 1965.0), "b": Warmth(None, None)}
    assert warmth_of([]) == {}


@pytest.mark.parametrize(
    ("now", "settled"),
    [
        (Warmth(41, 1980.0), True),
        (Warmth(42, 1970.0), True),
        (Warmth(43, 1980.0), False),
        (Warmth(41, 1900.0), False),
        (Warmth(None, None), True),
    ],
)
def test_what_has_settled(now: Warmth, settled: bool) -> None:
    assert has_settled({"a": Warmth(41, 1980.0)}, {"a": now}) is settled


def test_a_gpu_that_was_not_seen_before_has_not_settled() -> None:
    # As on an H200, where the first load was over before the first sample.
    assert not has_settled({}, {"a": Warmth(41, 1980.0)})
    assert has_settled({}, {})
