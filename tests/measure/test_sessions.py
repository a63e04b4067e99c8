"""What sessions took, and hits in the prefix cache against what their trace promises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from pytest_gpubench.dialects.metrics_page import parse_metrics
from pytest_gpubench.dialects.vllm.dialect import COUNTERS
from pytest_gpubench.load.loopback.stream import Counters
from pytest_gpubench.load.protocol import ClientFacts, Phase, RequestRecord
from pytest_gpubench.measure.compute import compute, series_of
from pytest_gpubench.measure.measurement import Measurement
from pytest_gpubench.measure.session_figures import MOST_ROWS, by_prefix, by_turn, prefix_cache
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.specs import Topology
from pytest_gpubench.model.workload import Workload

MS = 1_000_000
SECOND = 1000 * MS
WORKLOAD = Workload(
    isl=64, osl=5, conc=2, num_prompts=1, num_warmups=0, dataset="sessions", handover="drain"
)
CLIENT = ClientFacts("", "", "", planned=6)


def request(index: int, session: str, turn: int, due: float, **more: Any) -> RequestRecord:
    """100 prompt tokens more each turn, of which all but 50 were there before; 100 ms to the first
    of 5 output tokens, one per 20 ms."""
    due_ns = int(due * SECOND)
    stamps = tuple(due_ns + (100 + 20 * token) * MS for token in range(5))
    tokens = 100 * (turn + 1)
    phase: Phase = "measured"
    record = RequestRecord(
        index=index,
        phase=phase,
        request_id=f"{phase}-{index}",
        asked_isl=tokens,
        asked_osl=5,
        due_ns=due_ns,
        send_ns=due_ns + MS,
        first_token_ns=stamps[0],
        last_token_ns=stamps[-1],
        end_ns=stamps[-1] + MS,
        chunk_ns=stamps,
        chunk_tokens=(1, 2, 3, 4, 5),
        prompt_tokens=tokens,
        completion_tokens=5,
        finish_reason="length",
        status=200,
        turn=turn,
        session=session,
        root=session,
        session_turns=3,
        kept_tokens=tokens - 50 if turn else 0,
        shared_tokens=tokens - 50 if turn else 0,
    )
    return replace(record, **more)


RECORDS = [
    *(request(turn, "a", turn, 1.0 + turn) for turn in range(3)),
    *(request(3 + turn, "b", turn, 2.0 + 2 * turn) for turn in range(3)),
]
PROMISED = 2 * (144 + 240)  # whole blocks of 16 of 150 and 250 tokens, in two sessions


def measured(
    records: Sequence[RequestRecord] = RECORDS,
    *,
    hits: int | None = PROMISED,
    caching: bool = True,
    stopped_by: Any = "count",
    slo: dict[str, float] | None = None,
    **chosen: Any,
) -> Measurement:
    tokens = sum(record.completion_tokens or 0 for record in records)
    page = Counters(
        generation_tokens=tokens, prefix_cache_queries=1200, prefix_cache_hits=hits or 0
    ).metrics_text("m", speculative=False)
    empty = Counters().metrics_text("m", speculative=False)
    if hits is None:
        page, empty = (
            text.replace("vllm:prefix_cache_hits", "vllm:none") for text in (page, empty)
        )
    return compute(
        records,
        parse_metrics(empty),
        parse_metrics(page),
        replace(WORKLOAD, slo=FrozenMap(slo or {})),
        Topology(),
        replace(CLIENT, stopped_by=stopped_by),
        counters=COUNTERS,
        speculative=False,
        prefix_caching=caching,
        cache_block=16,
        **chosen,
    )


def codes(found: Measurement) -> set[str]:
    return {flag.code for flag in found.flags}


def test_hits_as_promised_pass_and_are_a_metric() -> None:
    found = measured()
    assert (found.problems, found.invalid) == ((), ())
    assert not codes(found) & {"prefix-misses", "prefix-hits"}
    assert found.metrics["prefix_hit_rate"] == pytest.approx(PROMISED / 1200)
    assert found.prefix_cache == {
        "hits": PROMISED,
        "prompt_tokens": 1200,
        "promised": PROMISED,
        "most": PROMISED,
        "block": 16,
        "slack": 96,
        "over": 0,
        "under": 0,
    }
    again = Measurement.from_json(found.to_json())
    assert (again.turns, again.prefixes) == (found.turns, found.prefixes)


@pytest.mark.parametrize(
    ("hits", "invalid", "flagged"),
    [
        (PROMISED + 96, False, False),
        (PROMISED + 97, True, False),
        (PROMISED - 96, False, False),
        (PROMISED - 97, False, True),
        (0, False, True),
    ],
)
def test_one_block_a_request_is_let_pass(hits: int, invalid: bool, flagged: bool) -> None:
    found = measured(hits=hits)
    assert bool(found.invalid) is invalid
    assert ("prefix-misses" in codes(found)) is flagged
    if invalid:
        assert "something else was in the cache" in found.invalid[0]


@pytest.mark.parametrize(
    ("found", "invalid", "flagged"),
    [(144, False, False), (160, False, False), (176, True, False), (112, False, True)],
)
def test_each_turn_is_held_against_the_promise_where_the_engine_tells(
    found: int, invalid: bool, flagged: bool
) -> None:
    records = [replace(RECORDS[1], cached_tokens=found), RECORDS[0], *RECORDS[2:]]
    seen = measured(records)
    assert bool(seen.invalid) is invalid
    assert ("prefix-misses" in codes(seen)) is flagged
    if invalid:
        assert "(in 1 request more than promised)" in seen.invalid[0]


def test_with_caching_off_there_must_be_none() -> None:
    off = measured(hits=0, caching=False)
    assert off.invalid == ()
    assert "prefix_hit_rate" not in off.metrics
    assert "prefix-misses" not in codes(off)
    on = measured(hits=16, caching=False)
    assert "prefix caching is off in the recipe, but the engine counted 16" in on.invalid[0]


def test_what_is_not_counted_is_said() -> None:
    found = measured(hits=None)
    assert "prefix-hits-unchecked" in codes(found)
    assert "prefix_hit_rate" not in found.metrics


def test_prompts_that_may_share_more_than_the_trace_says_have_no_upper_bound() -> None:
    records = [replace(record, shared_tokens=None) for record in RECORDS]
    assert measured(records, hits=1000).invalid == ()
    seen = prefix_cache(records, 1000, 16)
    assert seen is not None
    assert seen.most is None


def test_texts_that_a_server_was_sent_before_explain_no_more_hits_than_the_first_time() -> None:
    by_text = [replace(record, shared_tokens=None) for record in RECORDS]
    assert measured(by_text, hits=PROMISED, sent_before=True).invalid == ()
    assert measured(by_text, hits=PROMISED + 1, caching=False, sent_before=True).invalid[1:] == ()
    assert measured(hits=PROMISED + 96, sent_before=True).invalid == ()  # by length: drawn anew
    (reason,) = measured(by_text, hits=PROMISED + 1, sent_before=True).invalid
    assert "769 tokens of prompts in its prefix cache, of which the trace explains 768" in reason
    assert "--gpubench-server-per=point" in reason


def test_sessions_have_times_of_their_own() -> None:
    found = measured()
    # 2.18 s from the first due time to the last token of a, 4.18 s of b; 15 tokens each
    assert found.metrics["session_duration_mean"] == pytest.approx(3.18)
    assert found.metrics["session_duration_p50"] == pytest.approx(3.18)
    assert found.metrics["session_output_tput"] == pytest.approx((15 / 2.18 + 15 / 4.18) / 2)
    assert "session_goodput" not in found.metrics
    slow = [replace(RECORDS[0], due_ns=RECORDS[0].due_ns - SECOND), *RECORDS[1:]]
    assert measured(slow, slo={"ttft": 0.5}).metrics["session_goodput"] == 0.5


def test_a_sub_session_belongs_to_its_roots_time() -> None:
    child = request(6, "a.1", 0, 8.0, root="a", session_turns=1)
    found = measured([*RECORDS, child], hits=PROMISED, stopped_by="duration")
    assert found.metrics["session_duration_mean"] == pytest.approx((7.18 + 4.18) / 2)


def test_turns_and_prefixes_are_rows() -> None:
    found = measured()
    assert [row["begin"] for row in found.turns] == [0, 1, 2]
    assert [row["requests"] for row in found.turns] == [2, 2, 2]
    assert [row["prompt_tokens"] for row in found.turns] == [100, 200, 300]
    assert [row["ttft"] for row in found.turns] == pytest.approx([0.1] * 3)
    assert [(row["begin"], row["end"]) for row in found.prefixes] == [(0, 0), (128, 255)]
    assert [row["requests"] for row in found.prefixes] == [2, 4]
    single = [replace(record, turn=0, kept_tokens=None) for record in RECORDS]
    assert by_turn(single) == ()
    assert by_prefix(single) == ()


def test_very_long_conversations_end_in_one_row() -> None:
    rows = by_turn([request(turn, "a", turn, turn) for turn in range(MOST_ROWS + 20)])
    assert len(rows) == MOST_ROWS
    assert (rows[-1]["begin"], rows[-1]["end"], rows[-1]["requests"]) == (99, 119, 21)


def test_a_session_that_ends_early_is_named() -> None:
    failed = replace(RECORDS[1], error="HTTP status 500: refused on purpose")
    found = measured([RECORDS[0], failed, *RECORDS[3:]])
    assert found.problems[0] == (
        "1 session ended early ('a' in turn 1 of 3: HTTP status 500: refused on purpose), so 1 of "
        "their turns were not sent"
    )


def test_sessions_that_the_end_of_the_run_cuts_are_flagged() -> None:
    found = measured(RECORDS[:-1], stopped_by="duration")
    assert found.problems == ()
    (flag,) = (flag for flag in found.flags if flag.code == "sessions-unfinished")
    assert flag.message.startswith("1 session was under way when the run ended by its duration")
    assert found.metrics["session_duration_mean"] == pytest.approx(2.18)


def test_offload_traffic_is_in_the_series() -> None:
    page = (
        "# TYPE vllm:kv_offload_store_bytes_total counter\n"
        'vllm:kv_offload_store_bytes_total{engine="0"} 4096\n'
        "# TYPE vllm:prefix_cache_hits_total counter\n"
        'vllm:prefix_cache_hits_total{engine="0"} 32\n'
    )
    (point,) = series_of([(5, page)], 0, COUNTERS)
    assert (point.offload_stored, point.offload_loaded, point.prefix_cache_hits) == (4096, None, 32)
    assert {"vllm:kv_offload_load_bytes_total", "vllm:prefix_cache_hits_total"} <= set(
        COUNTERS.watched
    )
