from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_gpubench.load.client_error import Calibration
from pytest_gpubench.load.protocol import ClientFacts, EngineView, RequestRecord
from pytest_gpubench.measure.measurement import Totals
from pytest_gpubench.measure.validity import (
    Validity,
    compilation,
    look,
    most_in_flight,
    reasons,
    unstreamed,
)

MS = 1_000_000
TOTALS = Totals(10, 0, 100, 50, 55, 55, 0, 0)
GOOD = Validity(
    lag_mean=0.0001,
    lag_p99=0.001,
    lag_max=0.003,
    send_lag_mean=0.0003,
    send_lag_p99=0.001,
    send_lag_max=0.002,
    cpu_share=0.3,
    engine_gap=0.003,
    engine_stretch=0.001,
    stretch_seconds=0.001,
    clock_drift=0.00001,
    in_flight_max=64,
    chunk_rate=6000.0,
)
CALIBRATION = Calibration(
    64, 6400.0, 6400.0, 192, 0.05, 0.001, 0.002, 0.01, 0.00001, 0.2, 1e-5, 0.001
)


def judged(
    seen: Validity = GOOD, totals: Totals = TOTALS, ttft: float = 0.05, **extra: Any
) -> tuple[str, ...]:
    return reasons(seen, totals, ttft, 10.0, **{"prefix_caching": False, **extra})


def test_good_run_counts() -> None:
    assert judged() == ()
    assert judged(calibration=CALIBRATION) == ()
    assert judged(Validity()) == ()  # nothing known, nothing held against it


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"lag_mean": 0.001},
            "event loop was late by 1.0 ms in the mean (limit 0.5 ms at a TTFT of 50 ms)",
        ),
        ({"lag_p99": 0.006}, "event loop was late by 6.0 ms at the 99th percentile (limit 5.0 ms"),
        (
            {"send_lag_mean": 0.004},
            "requests were sent 4.0 ms after they were due, in the mean (limit 2.5 ms)",
        ),
        ({"cpu_share": 0.9}, "busy 90% of the time (limit 85%)"),
        (
            {"engine_gap": 0.110, "lag_p99": None},
            "110.0 ms of the client's TTFT are neither queue nor first token",
        ),
        ({"engine_gap": -0.002}, "2.0 ms before the engine made them"),
        (
            {"engine_stretch": 0.06, "stretch_seconds": 0.004},
            "streams lasted 6.0% longer at the client",
        ),
        ({"clock_drift": -0.5}, "disagree by -500 ms over the run (limit 20 ms)"),
    ],
)
def test_each_rule_has_its_reason(change: dict[str, Any], words: str) -> None:
    found = judged(replace(GOOD, **change))
    assert len(found) == 1
    assert words in found[0]


@pytest.mark.parametrize(
    "change",
    [
        {"lag_mean": 0.008},
        {"send_lag_mean": 0.04},
        {"lag_p99": 0.08},
        {"engine_gap": 0.45, "lag_p99": None},
    ],
)
def test_delays_are_measured_against_the_ttft(change: dict[str, Any]) -> None:
    assert judged(replace(GOOD, **change), ttft=1.0) == ()
    assert judged(replace(GOOD, **change), ttft=0.1) != ()


@pytest.mark.parametrize(
    "change",
    [{"engine_gap": 0.110}, {"engine_gap": 0.8}, {"engine_stretch": 0.5, "stretch_seconds": 0.4}],
    ids=["gap", "more", "stretch"],
)
def test_time_in_the_api_server_counts_where_the_client_is_cleared(change: dict[str, Any]) -> None:
    slow_server = replace(GOOD, **change)
    assert judged(slow_server) == ()
    assert judged(replace(slow_server, lag_p99=None)) != ()  # not probed
    assert (
        judged(replace(slow_server, cpu_share=0.9))[1:] != ()
    )  # beside the rule for the processor


def test_a_late_client_is_not_cleared() -> None:
    late = replace(GOOD, engine_gap=0.130, lag_p99=0.027)
    [lag, gap] = judged(late)
    assert "event loop was late" in lag
    assert "does not clear it" in gap
    assert len(judged(replace(late, engine_gap=0.150))) == 1


def test_compilations_in_the_window_are_a_reason_with_names() -> None:
    assert compilation((), 1) == ()
    [words] = compilation(("a", "b", "c", "d"), 3)
    assert (
        "compiled kernels while it was measured (a, b, c and 1 more; attempt 3 on this launch)"
        in words
    )


def test_counts() -> None:
    assert (
        "engine counted 56 generated tokens, the client received 55"
        in judged(totals=replace(TOTALS, engine_output_tokens=56))[0]
    )
    assert judged(totals=replace(TOTALS, engine_output_tokens=None)) == ()
    assert judged(totals=replace(TOTALS, engine_output_tokens=56, failed=1)) == ()
    hits = replace(TOTALS, prefix_cache_hits=32)
    assert "counted 32 cached tokens" in judged(totals=hits)[0]
    assert judged(totals=hits, prefix_caching=True) == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"in_flight_max": 72},
            "72 requests in flight and 6,000 chunks/s; the client is calibrated for 64 and 6,400",
        ),
        ({"chunk_rate": 7100.0}, "64 requests in flight and 7,100 chunks/s"),
    ],
)
def test_run_beyond_the_calibration_is_invalid(change: dict[str, Any], words: str) -> None:
    found = judged(replace(GOOD, **change), calibration=CALIBRATION)
    assert len(found) == 1
    assert words in found[0]
    assert judged(replace(GOOD, **change)) == ()


def test_bad_calibration_is_invalid() -> None:
    bad = replace(CALIBRATION, ttft_error_mean=0.02)
    assert (
        "cannot measure at this rate: its mean TTFT is 20.0 ms above" in judged(calibration=bad)[0]
    )


def record(index: int, **fields: Any) -> RequestRecord:
    due = index * 100 * MS
    base = RequestRecord(
        index=index,
        phase="measured",
        request_id=str(index),
        asked_isl=1,
        asked_osl=2,
        due_ns=due,
        send_ns=due + (index + 1) * MS,
        first_token_ns=due + 50 * MS,
        last_token_ns=due + 150 * MS,
        end_ns=due + 150 * MS,
        chunk_ns=(due + 50 * MS, due + 150 * MS),
        chunk_tokens=(1, 2),
        completion_tokens=2,
        engine=EngineView(queue=0.010, ttft=0.037, generation=0.080),
    )
    return replace(base, **fields)


def test_answers_that_come_whole_are_no_streams() -> None:
    """A gateway that asks without streaming sends one chunk: TPOT was 0, and valid."""
    whole = [
        record(index, chunk_ns=(MS,), chunk_tokens=(), completion_tokens=32) for index in range(4)
    ]
    (reason,) = unstreamed([*whole, record(4, completion_tokens=32)])
    assert reason.startswith("4 of 5 answers of 16 tokens or more came as one chunk")
    assert unstreamed([record(index, completion_tokens=32) for index in range(4)]) == ()
    assert unstreamed([replace(one, completion_tokens=8) for one in whole]) == ()
    assert unstreamed(whole, step=9.0) == (), "a long draft"
    assert unstreamed([]) == ()


def test_look_collects_by_hand() -> None:
    facts = ClientFacts(
        "",
        "",
        "",
        cpu_seconds=0.1,
        window_seconds=1.0,
        lag_mean=0.001,
        lag_p99=0.002,
        lag_max=0.003,
        lag_samples=100,
        clock_drift=1e-6,
    )
    seen = look([record(index) for index in range(3)], facts, CALIBRATION)
    assert seen.send_lag_mean == pytest.approx(0.002)
    assert seen.send_lag_max == pytest.approx(0.003)
    assert seen.engine_gap == pytest.approx(0.003)
    assert seen.engine_stretch == pytest.approx(0.25)
    assert seen.stretch_seconds == pytest.approx(0.02)
    assert (seen.lag_mean, seen.lag_p99, seen.lag_max, seen.cpu_share) == (0.001, 0.002, 0.003, 0.1)
    # one starts when another is half done
    assert seen.in_flight_max == 2
    assert seen.chunk_rate == pytest.approx(6 / 0.35)
    assert (seen.calibrated_conc, seen.calibrated_rate) == (64, 6400.0)


def test_unprobed_client_has_no_lag() -> None:
    seen = look([record(0, engine=None)], ClientFacts("", "", ""), None)
    assert seen.lag_mean is None
    assert seen.engine_gap is None


def test_end_and_start_at_the_same_time_are_one_in_flight() -> None:
    assert most_in_flight([record(0, end_ns=100 * MS), record(1)]) == 1
    assert most_in_flight([]) == 0
