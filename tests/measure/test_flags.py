from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_gpubench.dialects.vllm.dialect import COUNTERS
from pytest_gpubench.load.loopback.stream import Counters
from pytest_gpubench.load.protocol import ClientFacts
from pytest_gpubench.measure.checks import find_flags
from pytest_gpubench.measure.compute import series_of
from pytest_gpubench.measure.measurement import Flag, Totals
from pytest_gpubench.measure.validity import Validity
from pytest_gpubench.model.workload import Workload

TOTALS = Totals(1000, 0, 100_000, 50_000, 55_000, 55_000, 0, 0)
WORKLOAD = Workload(isl=100, osl=50, conc=4, num_prompts=1000, num_warmups=8)
METRICS = {
    "steady_output_tput": 1.0,
    "ttft_p50": 0.05,
    "icl_p50": 0.01,
    "icl_p99": 0.02,
    "itl_p90": 0.02,
    "duration": 30.0,
}
CLIENT = ClientFacts("", "", "")


def flags(
    totals: Totals = TOTALS,
    seen: Validity | None = None,
    client: ClientFacts = CLIENT,
    **chosen: Any,
) -> list[Flag]:
    return list(
        find_flags(METRICS, totals, 1000, replace(WORKLOAD, **chosen), seen or Validity(), client)
    )


def test_nothing_to_say() -> None:
    assert flags() == []
    assert flags(seen=Validity(lag_p99=0.0024)) == []


def test_time_outside_the_engine() -> None:
    assert flags(seen=Validity(engine_gap=0.019)) == []
    [flag] = flags(seen=Validity(engine_gap=0.021))
    assert (flag.code, flag.metrics) == ("outside-engine", ())


def test_streams_that_the_api_server_delays() -> None:
    assert flags(seen=Validity(engine_stretch=0.05)) == []
    [flag] = flags(seen=Validity(engine_stretch=0.07))
    assert (flag.code, flag.metrics) == ("streams-outside-engine", ())


def test_late_client_cannot_tell_uneven_gaps() -> None:
    [flag] = flags(seen=Validity(lag_p99=0.003))
    assert flag.code == "chunk-times-blurred"
    assert flag.metrics == ("icl_p99", "itl_p90")


@pytest.mark.parametrize(
    ("hits", "chosen", "flagged"),
    [
        (6000, {}, True),
        (4000, {}, False),
        (60_000, {"prefix_tokens": 60}, False),
        (60_000, {"turns": 3}, False),
        (60_000, {"dataset": "trace"}, False),
        (60_000, {"dataset": "text"}, True),
    ],
)
def test_prefix_hits_of_new_prompts(hits: int, chosen: dict[str, Any], flagged: bool) -> None:
    found = flags(replace(TOTALS, prefix_cache_hits=hits), **chosen)
    assert [flag.code for flag in found] == (["prefix-hits"] if flagged else [])
    assert all(flag.metrics == ("ttft_p50",) for flag in found)


def test_rules_that_did_not_stop_the_run() -> None:
    assert [flag.code for flag in flags(duration=60.0)] == ["prompts-exhausted"]
    assert [flag.code for flag in flags(interval=0.02)] == ["interval-not-reached"]
    stopped = replace(CLIENT, stopped_by="interval")
    assert flags(interval=0.02, client=stopped) == []
    assert flags(duration=20.0) == []  # ended by the count, but later


def test_series_by_hand() -> None:
    def page(**counts: Any) -> str:
        text = Counters(**counts).metrics_text("m", speculative=False)
        gauges = (
            'vllm:kv_cache_usage_perc{engine="0"} 0.25\nvllm:kv_cache_usage_perc{engine="1"} 0.75\n'
        )
        return (
            "\n".join(line for line in text.splitlines() if line.startswith(COUNTERS.watched))
            + "\n"
            + gauges
        )

    pages = [
        (900_000_000, page(running=3)),
        (2_000_000_000, page(running=4, waiting=2, preemptions=1, generation_tokens=70)),
    ]
    first, second = series_of([*pages, (3, "{ not a page")], 1_000_000_000, COUNTERS)
    assert (first.seconds, first.running, first.waiting, first.kv_cache_usage) == (
        -0.1,
        3.0,
        0.0,
        0.5,
    )
    assert (
        second.seconds,
        second.running,
        second.waiting,
        second.preemptions,
        second.generated_tokens,
    ) == (
        1.0,
        4.0,
        2.0,
        1.0,
        70.0,
    )


def test_a_counter_that_vanished_is_told() -> None:
    from tests.measure.test_compute import AFTER, RECORDS, measurement, scrape

    assert RECORDS
    before = scrape(1000, preemptions=0)
    after = replace(
        AFTER, samples=tuple(one for one in AFTER.samples if "preemptions" not in one.name)
    )
    (flag,) = (
        flag
        for flag in measurement(before=before, after=after).flags
        if flag.code == "counters-vanished"
    )
    assert "vllm:num_preemptions_total" in flag.message
