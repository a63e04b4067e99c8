from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gpubench.host.gpus.inventory import GpuSample
from pytest_gpubench.measure.energy import GpuWindow, gpu_series, gpu_window

SECOND = 1_000_000_000


def _samples(
    gpu: str = "GPU-a", seconds: float = 10.0, rate: int = 10, **of: Any
) -> list[GpuSample]:
    """Constant 500 W unless ``of`` says otherwise; what is callable in ``of`` is a function of the
    seconds."""
    made = []
    for index in range(int(seconds * rate) + 1):
        now = index / rate
        values = {"power": 500.0, "energy": 7000.0 + 500.0 * now, **of}
        made.append(
            GpuSample(
                gpu,
                int(now * SECOND),
                **{key: value(now) if callable(value) else value for key, value in values.items()},
            )
        )
    return made


def _window(
    samples: list[GpuSample], start: float = 2.0, end: float = 8.0, tokens: int = 600, **more: Any
) -> GpuWindow:
    return gpu_window(samples, int(start * SECOND), int(end * SECOND), tokens, **more)


def test_energy_is_the_counters_difference_per_output_token() -> None:
    window = _window(_samples(power=123.0))
    assert window.metrics == pytest.approx({"gpu_power": 500.0, "energy_per_output_token": 5.0})
    assert window.flags == ()


def test_without_a_counter_it_is_the_integral_of_the_power() -> None:
    window = _window(_samples(energy=None, power=lambda now: 100.0 * now))
    assert window.metrics["gpu_power"] == pytest.approx(500.0)  # from 200 to 800 W


def test_all_gpus_of_the_server_count() -> None:
    window = _window([*_samples("GPU-a"), *_samples("GPU-b")])
    assert window.metrics["energy_per_output_token"] == pytest.approx(10.0)
    assert [gpu["gpu"] for gpu in window.gpus] == ["GPU-a", "GPU-b"]


@pytest.mark.parametrize(("start", "end"), [(0.0, 12.0), (-2.0, 8.0)])
def test_a_window_that_is_not_covered_has_no_energy_and_says_so(start: float, end: float) -> None:
    window = _window(_samples(), start, end)
    assert window.metrics == {}
    assert [flag.code for flag in window.flags] == ["gpus-not-covered"]


def test_one_gpu_that_tells_nothing_hides_the_energy_of_all() -> None:
    window = _window([*_samples("GPU-a"), *_samples("GPU-b", power=None, energy=None)])
    assert window.metrics == {}


@given(st.floats(0.6, 4.0), st.floats(0.6, 5.0), st.integers(2, 40))
def test_the_edges_of_the_window_need_not_meet_samples(
    start: float, length: float, rate: int
) -> None:
    window = _window(_samples(rate=rate), start, start + length)
    assert math.isclose(window.metrics["gpu_power"], 500.0, rel_tol=1e-6)


def test_a_slowed_gpu_ungates_what_has_to_do_with_time() -> None:
    hot = _samples(reasons=lambda now: 0x20 if 3 <= now < 6 else 0)
    (flag,) = _window(hot, timed=("output_tput", "ttft_p50")).flags
    assert flag.code == "gpu-slowed"
    assert flag.metrics == ("output_tput", "ttft_p50")
    assert (
        flag.message
        == "a GPU's clocks were held back: software thermal slowdown in 49% of the samples"
    )


def test_slowness_outside_the_window_and_single_samples_are_nothing() -> None:
    assert _window(_samples(reasons=lambda now: 0x40 if now < 1.9 else 0)).flags == ()
    assert _window(_samples(reasons=lambda now: 0x40 if now == 4.0 else 0)).flags == ()


def test_a_power_cap_is_said_and_changes_nothing() -> None:
    (flag,) = _window(_samples(reasons=0x4), timed=("output_tput",)).flags
    assert (flag.code, flag.metrics) == ("gpu-power-capped", ())


def test_a_foreign_process_is_named() -> None:
    shared = _samples(pids=lambda now: (11, 99) if now > 5 else (11,))
    window = _window(
        shared, own={11, 12}, timed=("output_tput",), name=lambda pid: f"pid {pid} (miner)"
    )
    (flag,) = window.flags
    assert (flag.code, flag.metrics) == ("foreign-process", ("output_tput",))
    assert flag.message == "another process computed on the server's GPUs: pid 99 (miner)"
    assert _window(shared, own=None).flags == ()
    assert _window(shared, 0.0, 4.0, own={11}).flags == ()


def test_the_summary_has_least_mean_and_greatest() -> None:
    (gpu,) = _window(
        _samples(temperature=lambda now: 40 + int(now), sm_clock=1980, reasons=0x5)
    ).gpus
    assert gpu["temperature"] == {"min": 42, "mean": pytest.approx(44.5, abs=0.1), "max": 48}
    assert gpu["sm_clock"]["mean"] == 1980
    assert (gpu["samples"], gpu["clock_reasons"]) == (61, 5)
    assert "utilization" not in gpu


def test_no_samples_say_nothing() -> None:
    assert _window([]) == GpuWindow()


def test_the_series_adds_up_the_gpus_and_keeps_the_lowest_clock() -> None:
    samples = _samples("GPU-a", 10, power=300.0, sm_clock=1980) + _samples(
        "GPU-b", 10, power=100.0, sm_clock=1200
    )
    points = gpu_series(samples, 2_000_000_000)
    assert {point["power"] for point in points} == {400.0}
    assert {point["sm_clock"] for point in points} == {1200.0}
    assert points[0]["seconds"] == pytest.approx(-1.75, abs=0.01)
    assert len(points) == 21
    assert len(gpu_series(samples, 0, most=5)) == 5
    assert gpu_series([], 0) == ()


def test_a_part_in_which_a_gpu_is_silent_is_left_out() -> None:
    samples = _samples("GPU-a", 10, power=300.0) + [
        one for one in _samples("GPU-b", 10, power=100.0) if one.at_ns < 5e9
    ]
    assert {point["power"] for point in gpu_series(samples, 0)} == {400.0}
    assert len(gpu_series(samples, 0)) == 10


def test_process_numbers_of_the_host_name_nobody_foreign_to_a_container() -> None:
    assert (
        _window(_samples(pids=lambda _: (31_337,)), own={11, 12}, timed=("output_tput",)).flags
        == ()
    )
