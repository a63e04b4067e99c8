from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from pytest_gpubench.load.client_calibration import calibrate, loopback_process
from pytest_gpubench.load.client_error import Calibration, compare
from pytest_gpubench.load.protocol import ClientFacts, RequestRecord

pytestmark = pytest.mark.slow

GOOD = Calibration(64, 6400.0, 6400.0, 192, 0.05, 0.001, 0.002, 0.01, 0.00001, 0.2, 1e-5, 0.001)
MS = 1_000_000


def test_calibration_runs_and_survives_json() -> None:
    found = calibrate(8, 400.0, seconds=1.0)
    assert found.conc == 8
    assert found.requests == 24
    # How near it came is this machine's business today; test_errors_by_hand has the arithmetic.
    assert found.ttft > 0.049
    assert found.ttft_error_mean > 0
    assert found.tpot > 0
    assert 0 < found.chunk_rate < 1.3 * found.asked_rate
    assert found.lag_p99 > 0
    assert Calibration.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False))) == found


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, ""),
        ({"ttft_error_mean": 0.006}, "mean TTFT is 6.0 ms above the true 50.0 ms"),
        ({"ttft_error_mean": 0.006, "arrival_delay": 0.002}, ""),
        ({"tpot_error_mean": -0.0002}, "mean TPOT is -2.0% off the true 10.00 ms"),
        ({"chunk_rate": 3000.0}, "reached 3,000 of 6,400 chunks/s"),
    ],
)
def test_what_makes_a_client_unusable(change: dict[str, Any], words: str) -> None:
    assert words in replace(GOOD, **change).problem
    assert bool(replace(GOOD, **change).problem) == bool(words)


def test_errors_by_hand() -> None:
    record = RequestRecord(
        index=0,
        phase="measured",
        request_id="r",
        asked_isl=1,
        asked_osl=3,
        due_ns=0,
        send_ns=MS // 2,
        first_token_ns=52 * MS,
        last_token_ns=73 * MS,
        chunk_ns=(52 * MS, 63 * MS, 73 * MS),
        completion_tokens=3,
    )
    truth = [
        {
            "request_id": "r",
            "arrival_ns": 1 * MS,
            "chunk_ns": [51 * MS, 61 * MS, 71 * MS],
            "chunk_totals": [1, 2, 3],
        },
    ]
    facts = ClientFacts("", "", "", cpu_seconds=0.003, window_seconds=0.1)
    found = compare([record], truth, facts, conc=1, asked_rate=30.0)
    assert found.ttft == pytest.approx(0.050)
    assert found.ttft_error_mean == pytest.approx(0.002)
    assert found.arrival_delay == pytest.approx(0.0005)
    assert found.tpot == pytest.approx(0.010)
    assert found.tpot_error_mean == pytest.approx(0.0005)
    assert found.cpu_per_chunk == pytest.approx(0.001)
    with pytest.raises(ValueError, match="does not know"):
        compare([record], [], facts, conc=1, asked_rate=30.0)


def test_loopback_process_ends_with_its_block() -> None:
    with loopback_process("--ttft", "0.01") as url:
        assert url.startswith("http://127.0.0.1:")
