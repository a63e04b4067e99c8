from __future__ import annotations

import random

import pytest

from pytest_gpubench.load.driver import StopRule, half_width
from pytest_gpubench.load.transport import Exchange

MS = 1_000_000


def ended(number: int, e2e_ms: float, first_ms: float = 10, error: str = "") -> Exchange:
    end = int(e2e_ms * MS)
    reads = [
        (1 * MS, b"HTTP/1.1 200 OK\r\n\r\n"),
        (int(first_ms * MS), b"data: {}"),
        (end, b"data: [DONE]"),
    ]
    return Exchange(number, 0, send_ns=0, end_ns=end, reads=reads, error=error)


def test_without_rules_a_run_never_stops_early() -> None:
    rule = StopRule()
    for number in range(1000):
        rule.note(ended(number, 100))
    assert not rule.reached(10**15)
    assert rule.reason == "count"


def test_duration() -> None:
    rule = StopRule(duration=2.0)
    assert not rule.reached(1_999_999_999)
    assert rule.reached(2_000_000_000)
    assert rule.reason == "duration"


def test_half_width_by_hand() -> None:
    # mean 10, standard deviation 1.054093: 2.262 * 1.054093 / sqrt(10) / 10
    assert half_width([9.0, 11.0] * 5) == pytest.approx(0.0754, abs=1e-4)
    assert half_width([10.0] * 10) == 0.0
    assert half_width([10.0] * 9) is None


@pytest.mark.parametrize("metric", ["output_tput", "ttft_p50", "tpot_mean"])
def test_interval_needs_ten_batches_and_becomes_narrow(metric: str) -> None:
    rng = random.Random(1)
    rule = StopRule(interval=0.02, metric=metric, batch=4, output_tokens=(11,) * 100_000)
    number = 0
    while not rule.reached(0):
        noise = rng.uniform(0.9, 1.1)
        rule.note(ended(number, 100 * noise, 20 * noise))
        number += 1
        assert number < 10_000
    assert number >= 40
    assert rule.reason == "interval"


def test_failed_requests_say_nothing() -> None:
    rule = StopRule(interval=0.5, batch=1)
    for number in range(100):
        rule.note(ended(number, 100, error="stalled"))
    assert not rule.reached(0)


def test_ttft_is_the_first_read_with_an_event() -> None:
    rule = StopRule(interval=0.5, metric="ttft_p50", batch=1)
    for number in range(10):
        rule.note(ended(number, 100, first_ms=20))
    assert rule._means == [0.02] * 10
