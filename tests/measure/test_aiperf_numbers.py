"""AIPerf's numbers by our names, and which of our rules speak on its runs."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_gpubench.dialects.metrics_page import Scrape, parse_metrics
from pytest_gpubench.dialects.registry import dialect_of
from pytest_gpubench.load.aiperf.output import LOG, SUMMARY, AiperfOutput, read_output
from pytest_gpubench.load.aiperf.running import RECORDS
from pytest_gpubench.load.protocol import RequestRecord
from pytest_gpubench.measure.aiperf_numbers import (
    TABLE,
    busiest,
    left_out,
    measured_by_aiperf,
    metrics_of,
)
from pytest_gpubench.measure.measurement import Measurement
from pytest_gpubench.model.client_tools import Tool
from pytest_gpubench.model.failures import BenchmarkError
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.metrics import METRICS
from pytest_gpubench.model.specs import Topology
from pytest_gpubench.model.workload import Workload
from tests.fake_aiperf import CAPTURED

COUNTERS = dialect_of("vllm").counters
LOAD = Workload(
    10, 4, 2, 2, 0, range_ratio=1.0, tool=Tool("aiperf", "", FrozenMap({"input-file": "x"}))
)
TOKENS = 20
"""Of the captured run: five answers of four tokens."""


@pytest.fixture
def output(tmp_path: Path) -> AiperfOutput:
    (tmp_path / "logs").mkdir()
    for name, target in ((SUMMARY, SUMMARY), (RECORDS, RECORDS), ("aiperf.log", LOG)):
        (tmp_path / target).write_text((CAPTURED / name).read_text())
    return read_output(tmp_path, (), 0, 0)


def page(tokens: int, hits: int = 0) -> Scrape:
    names = {COUNTERS.generated_tokens: tokens, COUNTERS.prefix_cache_hits: hits}
    lines = [f"# TYPE {name} counter\n{name} {value}" for name, value in names.items()]
    return parse_metrics("\n".join([*lines, ""]))


def measured(output: AiperfOutput, tokens: int = TOKENS, hits: int = 0, **more: Any) -> Measurement:
    return measured_by_aiperf(
        output,
        more.get("cpu", ()),
        page(0),
        page(tokens, hits),
        more.get("workload", LOAD),
        Topology(tp=2),
        counters=COUNTERS,
        speculative=False,
        prefix_caching=more.get("prefix_caching", bool(hits)),
    )


def codes(measurement: Measurement) -> set[str]:
    return {flag.code for flag in measurement.flags}


def changed_records(output: AiperfOutput, **more: Any) -> AiperfOutput:
    """The same with the first measured record changed."""
    first = next(it for it in output.requests if it.record.phase == "measured")
    other = replace(first, record=replace(first.record, **more))
    return replace(output, requests=tuple(other if it is first else it for it in output.requests))


def test_each_number_is_theirs_in_our_unit(output: AiperfOutput) -> None:
    it = measured(output)
    assert (it.problems, it.invalid) == ((), ())
    theirs = json.loads((CAPTURED / SUMMARY).read_text())
    assert it.metrics["ttft_p50"] == theirs["time_to_first_token"]["p50"] / 1e3
    assert it.metrics["tpot_mean"] == theirs["inter_token_latency"]["avg"] / 1e3
    assert it.metrics["e2e_p99"] == theirs["request_latency"]["p99"] / 1e3
    assert it.metrics["output_tput"] == theirs["output_token_throughput"]["avg"]
    assert it.metrics["output_tput_per_gpu"] == theirs["output_token_throughput"]["avg"] / 2
    assert it.metrics["goodput"] == theirs["goodput"]["avg"]
    assert it.metrics["duration"] == theirs["benchmark_duration"]["avg"]
    assert it.metrics["interactivity"] == 1 / it.metrics["tpot_p50"]
    assert it.client == {"aiperf": "0.13.0"}
    assert {"measured-by"} <= codes(it)
    assert it.totals.output_tokens_with_warmup == TOKENS
    assert it.to_json() == Measurement.from_json(it.to_json()).to_json()


def test_our_own_reading_of_its_records_agrees_with_its_summary(output: AiperfOutput) -> None:
    from pytest_gpubench.measure import definitions

    records = [record for record in output.records if record.phase == "measured"]
    metrics = metrics_of(output.summary, Topology(tp=1))

    def sent(record: RequestRecord) -> RequestRecord:
        return replace(record, due_ns=record.send_ns or 0)

    for name, definition in (
        ("ttft", definitions.ttft),
        ("tpot", definitions.tpot),
        ("e2e", definitions.e2e),
    ):
        values = [value for it in records if (value := definition(sent(it))) is not None]
        assert definitions.summary(name, values)[f"{name}_mean"] == pytest.approx(
            metrics[f"{name}_mean"], rel=1e-6
        )


def test_every_metric_is_mapped_derived_or_left_out_by_name() -> None:
    assert {it.ours for it in TABLE} <= METRICS.keys()
    assert {"peak_output_tput", "steady_output_tput", "itl_p50", "queue_p50"} <= set(left_out())
    assert not {it.ours for it in TABLE} & set(left_out())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"time_to_first_token": None}, "has no 'time_to_first_token', which ttft_mean is made of"),
        (
            {"benchmark_duration": {"unit": "sec", "avg": math.nan}},
            "no number for 'benchmark_duration.avg'",
        ),
        (
            {"benchmark_duration": {"unit": "sec", "avg": 10**400}},
            "no number for 'benchmark_duration.avg'",
        ),
        ({"benchmark_duration": {"unit": "sec"}}, "no number for 'benchmark_duration.avg'"),
        (
            {"benchmark_duration": {"unit": "ms", "avg": 1.0}},
            "'benchmark_duration' of profile_export_aiperf.json is in 'ms', not in sec",
        ),
    ],
)
def test_a_summary_that_changed_is_refused(
    output: AiperfOutput, change: dict[str, Any], words: str
) -> None:
    summary = {name: it for name, it in ({**output.summary, **change}).items() if it is not None}
    with pytest.raises(BenchmarkError) as caught:
        measured(replace(output, summary=summary))
    assert words in caught.value.failure.summary


def test_answers_of_one_token_have_no_time_between_tokens(output: AiperfOutput) -> None:
    rest = {name: it for name, it in output.summary.items() if name != "inter_token_latency"}
    metrics = metrics_of(rest, Topology(tp=1))
    assert "ttft_p50" in metrics
    assert not any(name.startswith(("tpot", "interactivity")) for name in metrics)


def test_token_totals_are_held_against_the_engine(output: AiperfOutput) -> None:
    (reason,) = measured(output, TOKENS + 4).invalid
    assert reason.startswith("the engine counted 24 generated tokens, the client received 20")


def test_what_was_cut_off_is_not_held_against_anything(output: AiperfOutput) -> None:
    cut = replace(output, cancelled=2, timed_out=True)
    it = measured(cut, TOKENS + 4)
    assert it.invalid == ()
    assert it.totals.engine_output_tokens is None  # no later rule compares it either
    assert "tokens-unchecked" in codes(it)
    assert it.stopped_by == "duration"
    assert "the engine counted 16 generated tokens, AIPerf received more: 20" in (
        measured(cut, TOKENS - 4).invalid
    )


def test_hits_in_a_cache_that_is_off(output: AiperfOutput) -> None:
    (reason,) = measured(output, hits=8, prefix_caching=False).invalid
    assert "prefix caching is off in the recipe" in reason


def test_hits_are_held_against_what_the_turns_repeat(output: AiperfOutput) -> None:
    assert "prefix-hits-below-trace" not in codes(measured(output, hits=100_000))
    assert "prefix-hits-below-trace" in codes(measured(output, hits=1))
    assert "prefix-hits" not in codes(measured(output, hits=100_000))


def test_event_loops_that_were_late(output: AiperfOutput) -> None:
    (reason,) = measured(replace(output, late=(0.2, 0.3))).invalid
    assert "AIPerf's event loops were late by more than 6 ms" in reason
    assert "up to 300 ms" in reason
    assert measured(replace(output, late=(0.3,))).invalid == ()  # once is no tail
    assert measured(replace(output, late=(0.005, 0.005, 0.005))).invalid == ()


def test_requests_that_were_sent_late(output: AiperfOutput) -> None:
    late = changed_records(output, due_ns=0)
    (reason,) = measured(late).invalid
    assert reason.startswith("AIPerf sent requests ")
    assert "the load was lower than asked" in reason


def test_the_busiest_worker_counts() -> None:
    second = 10**9
    looks = [
        (0, {1: 5.0, 2: 0.0}),
        (second, {1: 5.5, 2: 0.9}),
        (3 * second, {1: 6.0, 2: 2.8, 3: 0.1}),
        (9 * second, {1: 99.0}),
    ]
    assert busiest(looks, (second, 4 * second)) == pytest.approx(0.95)
    assert busiest(looks, (second, 2 * second)) is None
    assert busiest([], (0, second)) is None


def test_a_busy_worker_voids_the_numbers(output: AiperfOutput) -> None:
    start = min(record.due_ns for record in output.records if record.phase == "measured")
    looks = [(start, {1: 0.0}), (start + 10**8, {1: 0.099})]
    (reason,) = measured(output, cpu=looks).invalid
    assert "was busy 99% of the time" in reason
    assert "client-cpu-unchecked" in codes(measured(output))


def test_sessions_that_are_whole_have_times_of_their_own(output: AiperfOutput) -> None:
    it = measured(output, hits=20)
    ends: dict[str, list[int]] = {}
    for one in output.requests:
        if one.record.phase == "measured":
            assert one.record.session_turns == 2
            ends.setdefault(one.session, []).extend(
                (one.record.due_ns, one.record.last_token_ns or 0)
            )
    lengths = [(max(of) - min(of)) / 1e9 for of in ends.values()]
    assert it.metrics["session_duration_mean"] == pytest.approx(sum(lengths) / 2)
    assert [row["requests"] for row in it.turns] == [2, 2]
    assert it.metrics["prefix_hit_rate"] == 20 / sum(r.prompt_tokens or 0 for r in output.records)
    cut = [replace(one, record=replace(one.record, session_turns=0)) for one in output.requests]
    unknown = measured(replace(output, requests=tuple(cut)))
    assert not any(name.startswith("session") for name in unknown.metrics)


def test_failed_requests_are_a_problem_with_session_and_turn(output: AiperfOutput) -> None:
    it = measured(changed_records(output, error="status 503: no place", turn=4))
    session = next(one.session for one in output.requests if one.record.phase == "measured")
    assert it.problems == (
        f"session {session} failed in turn 5: status 503: no place",
        "1 of 4 measured requests failed: status 503: no place",
    )
    assert it.metrics == {}


def test_a_context_overflow_is_named_first(output: AiperfOutput) -> None:
    first = next(it for it in output.requests if it.record.phase == "measured")
    over = replace(first, overflowed=True, record=replace(first.record, turn=29, error="too long"))
    requests = tuple(over if it is first else it for it in output.requests)
    problem, *_ = measured(replace(output, requests=requests)).problems
    assert problem.startswith(
        "1 prompts were longer than the server's context, the first one in turn 30 of session "
    )


def test_sessions_that_end_early_and_answers_off_their_length(output: AiperfOutput) -> None:
    (problem,) = measured(replace(output, finished=1)).problems
    assert problem == "1 of 2 sessions ended early, though the time was not over"
    assert measured(replace(output, finished=1, timed_out=True)).problems == ()
    first = replace(output.requests[-1], off_length=True)
    (problem,) = measured(replace(output, requests=(*output.requests[:-1], first))).problems
    assert "1 outputs are not as long as the trace asks" in problem


def test_drawn_lengths_are_counted_and_prompts_are_compared_with_the_row(
    output: AiperfOutput,
) -> None:
    drawn = replace(LOAD, isl=1000, num_prompts=4, num_warmups=1, tool=Tool("aiperf"))
    it = measured(output, workload=drawn)
    assert it.problems == ()
    assert "prompts-off" in codes(it)
    more = replace(drawn, num_prompts=5)
    assert "4 of 5 measured requests were made" in measured(output, workload=more).problems
