from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from pytest_gpubench.dialects.metrics_page import Scrape, parse_metrics
from pytest_gpubench.dialects.vllm.dialect import COUNTERS
from pytest_gpubench.engines.idleness import wait_idle
from pytest_gpubench.load.load_run import run_load
from pytest_gpubench.load.loopback.server import LoopbackServer
from pytest_gpubench.load.loopback.stream import Counters, Schedule
from pytest_gpubench.load.protocol import ClientFacts, EngineView, LoadPlan, Phase, RequestRecord
from pytest_gpubench.measure.compute import compute
from pytest_gpubench.measure.measurement import Measurement
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.metrics import METRICS
from pytest_gpubench.model.specs import Speculative, Topology
from pytest_gpubench.model.workload import Workload

MS = 1_000_000
CLIENT = ClientFacts("", "", "")
WORKLOAD = Workload(isl=10, osl=5, conc=1, num_prompts=10, num_warmups=1)


def request(index: int, phase: Phase = "measured") -> RequestRecord:
    """10 prompt tokens, 5 output tokens; 100 ms to the first, then one per 20 ms; one request after
    the other, 200 ms each."""
    due = (1000 + 200 * index) * MS
    stamps = tuple(due + (100 + 20 * token) * MS for token in range(5))
    return RequestRecord(
        index=index,
        phase=phase,
        request_id=f"{phase}-{index}",
        asked_isl=10,
        asked_osl=5,
        due_ns=due,
        send_ns=due + MS,
        first_token_ns=stamps[0],
        last_token_ns=stamps[-1],
        end_ns=stamps[-1] + MS,
        chunk_ns=stamps,
        chunk_tokens=(1, 2, 3, 4, 5),
        prompt_tokens=10,
        completion_tokens=5,
        finish_reason="length",
        status=200,
    )


RECORDS = [request(0, "warmup"), *(request(index) for index in range(10))]


def scrape(tokens: int, *, drafts: Sequence[int] | None = None, **counts: Any) -> Scrape:
    counters = Counters(generation_tokens=tokens, **counts)
    for accepted in drafts or ():
        counters.count_draft(3, accepted)
    return parse_metrics(counters.metrics_text("m", speculative=drafts is not None))


BEFORE, AFTER = scrape(1000), scrape(1055)


def measurement(
    records: Sequence[RequestRecord] = RECORDS,
    before: Scrape = BEFORE,
    after: Scrape = AFTER,
    client: ClientFacts = CLIENT,
    **extra: Any,
) -> Measurement:
    options: dict[str, Any] = {"speculative": False, "prefix_caching": False, **extra}
    return compute(
        records, before, after, WORKLOAD, Topology(tp=2, pp=2), client, **options, counters=COUNTERS
    )


def changed(index: int, **fields: Any) -> list[RequestRecord]:
    return [
        replace(record, **fields)
        if record.index == index and record.phase == "measured"
        else record
        for record in RECORDS
    ]


def test_every_metric_by_hand() -> None:
    found = measurement()
    assert found.problems == ()
    # first due time 1.0 s; last token of the tenth request at 1.0 + 9 * 0.2 + 0.18 s
    duration = 1.98
    assert found.metrics == pytest.approx(
        {
            "output_tput": 50 / duration,
            "output_tput_per_gpu": 50 / duration / 4,
            "input_tput_per_gpu": 100 / duration / 4,
            "total_tput_per_gpu": 150 / duration / 4,
            "request_tput": 10 / duration,
            "duration": duration,
            **{f"ttft_{stat}": 0.1 for stat in ("mean", "p50", "p90", "p99")},
            **{f"tpot_{stat}": 0.02 for stat in ("mean", "p50", "p90", "p99")},
            **{f"e2e_{stat}": 0.18 for stat in ("mean", "p50", "p90", "p99")},
            **{f"icl_{stat}": 0.02 for stat in ("mean", "p50", "p90", "p99")},
            **{f"itl_{stat}": 0.02 for stat in ("mean", "p50", "p90", "p99")},
            "peak_output_tput": 50 / duration,
            "interactivity": 50.0,
            # from the first completion to the last: nine requests of 5 tokens in 9 * 0.2 s
            "steady_output_tput": 25.0,
        }
    )
    assert found.send_lag_max == pytest.approx(0.001)
    assert (
        found.totals.requests,
        found.totals.output_tokens,
        found.totals.output_tokens_with_warmup,
    ) == (10, 50, 55)
    assert found.totals.engine_output_tokens == 55


def test_all_names_are_in_the_metric_table() -> None:
    view = EngineView(0.01, 0.08, 0.08, 2, 6, 4)
    records = [
        replace(record, engine=view, session="a", root="a", session_turns=10) for record in RECORDS
    ]
    workload = replace(WORKLOAD, slo=FrozenMap({"ttft": 1}))
    before = scrape(1000, drafts=())
    after = scrape(1055, drafts=(3, 1), prefix_cache_queries=110, prefix_cache_hits=5)
    found = compute(
        records,
        before,
        after,
        workload,
        Topology(),
        CLIENT,
        speculative=True,
        prefix_caching=True,
        counters=COUNTERS,
    )
    assert found.invalid == ()
    elsewhere = {
        "accuracy",
        "engine_init",
        "gpu_power",
        "energy_per_output_token",
    }  # the start of a server, and its GPUs
    assert set(METRICS) - set(found.metrics) == elsewhere, "give them values: measure/compute.py"
    assert set(found.metrics) <= set(METRICS), "describe them: model/metrics.py"


def test_acceptance_is_idle_to_idle() -> None:
    found = measurement(
        before=scrape(1000, drafts=(3,)),
        after=scrape(1055, drafts=(3, 2, 0, 1, 3)),
        speculative=True,
    )
    assert found.drafting is not None
    assert (found.drafting.drafts, found.drafting.draft_tokens, found.drafting.accepted_tokens) == (
        4,
        12,
        6,
    )
    assert found.drafting.acceptance_per_position == pytest.approx((3 / 4, 2 / 4, 1 / 4))
    assert found.metrics["acceptance_length"] == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("asked", "counts"), [(None, True), (2.5, True), (2.55, True), (2.7, False), (2.0, False)]
)
def test_a_made_up_acceptance_must_be_the_one_that_was_asked_for(
    asked: float | None, counts: bool
) -> None:
    draws = [1, 2] * 1000
    after = scrape(1055, drafts=draws)
    found = measurement(after=after, speculative=True, injected=asked)
    assert found.metrics["acceptance_length"] == 2.5
    assert (found.invalid == ()) is counts
    if not counts:
        assert (
            f"an acceptance length of {asked:g} was to be made up, and it was 2.50 over 2000"
            in (found.invalid[0])
        )


def test_a_draft_says_what_is_made_up() -> None:
    def length(**options: Any) -> float | None:
        return Speculative("eagle3", 3, options=FrozenMap(options)).injected_length

    assert length() is None
    assert length(synthetic_acceptance_length=2.5) is None
    assert length(rejection_sample_method="synthetic", synthetic_acceptance_length=2.5) == 2.5
    rates = (0.9, 0.5, 0.1)
    assert length(rejection_sample_method="synthetic", synthetic_acceptance_rates=rates) == 2.5


def test_without_draft_there_is_no_acceptance() -> None:
    found = measurement()
    assert found.drafting is None
    assert "acceptance_length" not in found.metrics


def test_one_token_outputs_have_no_tpot() -> None:
    stamps: dict[str, Any] = {"chunk_tokens": (1,), "completion_tokens": 1, "asked_osl": 1}
    records = [
        replace(
            record,
            **stamps,
            chunk_ns=record.chunk_ns[:1],
            last_token_ns=record.first_token_ns,
            asked_isl=10,
        )
        for record in RECORDS
    ]
    found = measurement(records, after=scrape(1011))
    assert found.problems == ()
    assert not [name for name in found.metrics if name.startswith(("tpot", "icl", "interactivity"))]


@pytest.mark.parametrize(
    ("records", "words"),
    [
        (
            changed(3, error="HTTP status 503: busy"),
            "1 of 10 measured requests failed: HTTP status 503: busy",
        ),
        (
            changed(3, completion_tokens=4, finish_reason="stop"),
            "1 outputs are not as long as asked, for instance measured request 3: 4 tokens",
        ),
        (
            changed(3, prompt_tokens=12),
            "1 prompts are more than 1 token off, for instance measured request 3: 12 "
            "tokens instead of 10",
        ),
        (changed(3, completion_tokens=None), "1 requests came back without usage"),
        (RECORDS[:-1], "9 of 10 measured requests were made"),
        (
            [replace(RECORDS[0], error="no connection"), *RECORDS[1:]],
            "1 of 1 warm-up requests failed: no connection",
        ),
        ([], "0 of 1 warm-up requests were made"),
    ],
)
def test_bad_requests_fail_before_any_statistics(records: list[RequestRecord], words: str) -> None:
    found = measurement(records)
    assert found.problems[0].startswith(words)
    assert found.metrics == {}


def test_many_reasons_are_counted_and_cut() -> None:
    errors = ["a", "a", "b", "c", "d"]
    records = [
        replace(record, error=error) for record, error in zip(RECORDS[1:], errors, strict=False)
    ]
    found = measurement([RECORDS[0], *records, *RECORDS[6:]])
    assert found.problems == (
        "5 of 10 measured requests failed: a (2x); b; c; and 1 other reasons",
    )


def test_prompt_may_be_one_token_off() -> None:
    assert measurement(changed(3, prompt_tokens=11)).problems == ()


def test_early_end_is_allowed_without_ignore_eos() -> None:
    records = changed(
        3, completion_tokens=4, chunk_tokens=(1, 2, 3, 4), chunk_ns=RECORDS[4].chunk_ns[:4]
    )
    found = compute(
        records,
        BEFORE,
        scrape(1054),
        replace(WORKLOAD, ignore_eos=False),
        Topology(),
        CLIENT,
        speculative=False,
        prefix_caching=False,
        counters=COUNTERS,
    )
    assert found.problems == ()


@pytest.mark.parametrize(
    ("after", "extra", "words"),
    [
        (scrape(1055), {"speculative": True}, "the engine counted no draft"),
        (scrape(1055, drafts=()), {"speculative": True}, "the engine counted no draft"),
    ],
)
def test_engine_that_did_not_draft_fails_the_case(
    after: Scrape, extra: dict[str, Any], words: str
) -> None:
    found = measurement(after=after, **extra)
    assert len(found.problems) == 1
    assert words in found.problems[0]
    assert found.metrics == {}


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (scrape(1056), "the engine counted 56 generated tokens, the client received 55"),
        (scrape(1055, prefix_cache_hits=32), "the engine counted 32 cached tokens"),
    ],
)
def test_engine_that_disagrees_voids_the_measurement(after: Scrape, words: str) -> None:
    found = measurement(after=after)
    assert found.problems == ()
    assert len(found.invalid) == 1
    assert words in found.invalid[0]
    assert found.metrics  # to be looked at


def test_prefix_hits_are_fine_where_caching_is_on() -> None:
    assert measurement(after=scrape(1055, prefix_cache_hits=32), prefix_caching=True).problems == ()


def test_engine_without_counters_is_flagged_not_failed() -> None:
    found = measurement(before=parse_metrics(""), after=parse_metrics(""))
    assert found.problems == ()
    assert "tokens-unchecked" in [flag.code for flag in found.flags]
    assert found.totals.engine_output_tokens is None


def test_restart_between_the_scrapes_is_an_error() -> None:
    with pytest.raises(ValueError, match="restarted"):
        measurement(before=AFTER, after=BEFORE)


@pytest.mark.parametrize(
    ("requests", "shown", "gated"),
    [
        (10, set(), set()),
        (29, {"p90"}, set()),
        (298, {"p90"}, {"p90"}),
        (299, {"p90", "p99"}, {"p90"}),
    ],
)
def test_percentiles_need_requests(requests: int, shown: set[str], gated: set[str]) -> None:
    records = [RECORDS[0], *(request(index) for index in range(requests))]
    workload = replace(WORKLOAD, num_prompts=requests)
    after = scrape(1005 + 5 * requests)
    found = compute(
        records,
        BEFORE,
        after,
        workload,
        Topology(),
        CLIENT,
        speculative=False,
        prefix_caching=False,
        counters=COUNTERS,
    )
    assert found.problems == ()
    for tail in ("p90", "p99"):
        assert f"ttft_{tail}" in found.metrics  # always in the record
        assert (f"ttft_{tail}" not in found.hidden) == (tail in shown)
        assert (f"icl_{tail}" not in found.not_gated) == (tail in gated)
    assert "ttft_p50" not in found.not_gated


def test_p99_is_gated_from_1000() -> None:
    records = [RECORDS[0], *(request(index) for index in range(1000))]
    workload = replace(WORKLOAD, num_prompts=1000)
    found = compute(
        records,
        BEFORE,
        scrape(6005),
        workload,
        Topology(),
        CLIENT,
        speculative=False,
        prefix_caching=False,
        counters=COUNTERS,
    )
    assert found.flags == ()
    assert found.not_gated == frozenset()


def test_preemptions_and_missing_steady_state_are_flags() -> None:
    found = measurement(after=scrape(1055, preemptions=2))
    assert "preemptions" in [flag.code for flag in found.flags]
    short = compute(
        RECORDS[:2],
        BEFORE,
        scrape(1010),
        replace(WORKLOAD, num_prompts=1),
        Topology(),
        CLIENT,
        speculative=False,
        prefix_caching=False,
        counters=COUNTERS,
    )
    assert short.problems == ()
    assert "steady_output_tput" in short.not_gated
    assert "steady_output_tput" not in short.metrics


def test_client_facts_are_kept() -> None:
    facts = ClientFacts(
        "3.0", "3.11", "uvloop 0.22", cpu_seconds=1.5, window_seconds=3.0, started_unix=1e9
    )
    found = measurement(client=facts)
    assert found.client_cpu_share == 0.5
    assert found.started_unix == 1e9
    assert found.client == {
        "openai": "3.0",
        "python": "3.11",
        "event_loop": "uvloop 0.22",
        "priority": "",
    }


@pytest.mark.parametrize("drafts", [None, (3, 1)])
def test_survives_json(drafts: tuple[int, ...] | None) -> None:
    found = measurement(after=scrape(1055, drafts=drafts))
    assert Measurement.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False))) == found


def test_from_a_real_run_to_numbers_near_the_truth() -> None:
    workload = Workload(isl=40, osl=21, conc=4, num_prompts=24, num_warmups=4, range_ratio=1.0)
    with LoopbackServer(Schedule(0.05, 0.01, 4, num_speculative_tokens=3)).in_thread() as server:

        def page() -> str:
            return server.counters.metrics_text("loopback", speculative=True)

        before = wait_idle(page, COUNTERS, interval=0.01)
        result = run_load(LoadPlan(server.url, "loopback", workload))
        after = wait_idle(page, COUNTERS, interval=0.01)
    found = compute(
        result.records,
        before,
        after,
        workload,
        Topology(tp=2),
        result.client,
        speculative=True,
        prefix_caching=False,
        counters=COUNTERS,
    )
    assert found.problems == ()
    # the schedule: 50 ms to the first token, 10 ms per token, 4 tokens per chunk of which 3 were
    # drafted and accepted
    assert found.metrics["ttft_p50"] == pytest.approx(0.05, abs=0.03)
    assert found.metrics["tpot_p50"] == pytest.approx(0.01, abs=0.002)
    assert found.metrics["icl_p50"] == pytest.approx(0.04, abs=0.008)
    assert found.metrics["e2e_p50"] == pytest.approx(0.25, abs=0.06)
    assert found.metrics["output_tput"] == pytest.approx(4 * 21 / 0.25, rel=0.3)
    assert found.metrics["steady_output_tput"] == pytest.approx(4 * 21 / 0.25, rel=0.3)
    assert found.metrics["acceptance_length"] == 4.0
    assert found.drafting is not None
    assert found.drafting.acceptance_per_position == (1.0, 1.0, 1.0)
    assert found.totals.engine_output_tokens == found.totals.output_tokens_with_warmup == 28 * 21


def test_undrained_warmup_belongs_to_the_steady_state() -> None:
    """One slot, handed over: the window opens with the first measured request and the throughput is
    that of the whole loop."""
    warmups = [replace(request(index, "warmup"), request_id=f"w{index}") for index in range(5)]
    later = [replace(request(5 + index), index=index) for index in range(10)]
    workload = replace(WORKLOAD, num_warmups=5, handover="continue")
    found = compute(
        [*warmups, *later],
        BEFORE,
        scrape(1075),
        workload,
        Topology(),
        CLIENT,
        speculative=False,
        prefix_caching=False,
        counters=COUNTERS,
    )
    assert found.problems == ()
    assert found.invalid == ()
    # from the first measured due time (2.0 s) to the last completion (3.98 s): ten requests of 5
    # tokens
    assert found.metrics["steady_output_tput"] == pytest.approx(50 / 1.98)


def test_run_that_was_stopped_early_is_whole() -> None:
    facts = ClientFacts("", "", "", stopped_by="duration", planned=400)
    found = measurement(client=facts)
    assert found.problems == ()
    assert found.stopped_by == "duration"
    assert measurement(client=replace(facts, stopped_by="count")).problems == (
        "10 of 400 measured requests were made",
    )
    assert measurement(RECORDS[:1], after=scrape(1005), client=facts).problems == (
        "0 of 400 measured requests were made",
    )


def test_slow_client_voids_the_measurement() -> None:
    facts = ClientFacts("", "", "", lag_mean=0.01, lag_p99=0.02, lag_max=0.03, lag_samples=200)
    found = measurement(client=facts)
    assert found.problems == ()
    assert len(found.invalid) == 1
    assert "event loop was late by 10.0 ms" in found.invalid[0]
    assert found.metrics
    assert found.validity["lag_mean"] == 0.01
    assert Measurement.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False))) == found


def test_acceptance_by_request_is_beside_that_of_the_counters() -> None:
    views = [
        EngineView(None, None, None, 2, 6, accepted)
        for accepted in (1, 2, 3, 0, 6, 5, 4, 3, 2, 1, 3)
    ]
    records = [replace(record, engine=view) for record, view in zip(RECORDS, views, strict=True)]
    found = measurement(
        records,
        before=scrape(1000, drafts=()),
        after=scrape(1055, drafts=(1, 2, 3)),
        speculative=True,
    )
    assert found.drafting is not None
    assert found.drafting.requests_acceptance_length == pytest.approx(1 + 30 / 22)
    assert found.metrics["acceptance_length"] == pytest.approx(3.0)


def test_answers_of_two_models_are_one_measurement_of_neither() -> None:
    named = [replace(record, model="llama") for record in RECORDS]
    assert not measurement(named).problems
    (problem,) = measurement([*named[:-1], replace(named[-1], model="llama-small")]).problems
    assert problem.startswith("the answers came from 2 models (llama, llama-small): a gateway ")


def test_answers_of_another_name_are_flagged() -> None:
    named = [replace(record, model="provider/llama") for record in RECORDS]
    assert "answers-name-another-model" not in [one.code for one in measurement(named).flags]
    (flag,) = [
        one
        for one in measurement(named, served_name="llama").flags
        if one.code == "answers-name-another-model"
    ]
    assert flag.message == "the answers are from 'provider/llama', asked was 'llama'"
    renamed = measurement(named, served_name="provider/llama")
    assert "answers-name-another-model" not in [one.code for one in renamed.flags]
