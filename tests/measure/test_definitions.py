from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gpubench.load.protocol import RequestRecord
from pytest_gpubench.measure import definitions

S = 1_000_000_000


def record(due: float, chunks: Sequence[tuple[float, int]], index: int = 0) -> RequestRecord:
    """A request due at ``due`` seconds with chunks at (seconds, cumulative tokens)."""
    stamps = tuple(round(moment * S) for moment, _ in chunks)
    totals = tuple(total for _, total in chunks)
    return RequestRecord(
        index=index,
        phase="measured",
        request_id=str(index),
        asked_isl=10,
        asked_osl=totals[-1] if totals else 1,
        due_ns=round(due * S),
        send_ns=round(due * S),
        first_token_ns=stamps[0] if stamps else None,
        last_token_ns=stamps[-1] if stamps else None,
        end_ns=stamps[-1] if stamps else None,
        chunk_ns=stamps,
        chunk_tokens=totals,
        prompt_tokens=10,
        completion_tokens=totals[-1] if totals else None,
        finish_reason="length",
        status=200,
    )


floats = st.floats(-1e6, 1e6, allow_nan=False)


@given(values=st.lists(floats, min_size=1, max_size=50), q=st.sampled_from((50, 90, 99)))
def test_percentiles_interpolate_between_ranks(values: list[float], q: int) -> None:
    ranked = sorted(values)
    place = q / 100 * (len(ranked) - 1)
    low = min(int(place), len(ranked) - 1)
    high = min(low + 1, len(ranked) - 1)
    expected = ranked[low] + (ranked[high] - ranked[low]) * (place - low)
    found = definitions.summary("x", values)[f"x_p{q}"]
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-6)


@given(values=st.lists(floats, min_size=1, max_size=50))
def test_percentiles_are_ordered_and_within_the_values(values: list[float]) -> None:
    found = definitions.summary("x", values)
    ordered = [min(values), found["x_p50"], found["x_p90"], found["x_p99"], max(values)]
    assert ordered == sorted(ordered)


def test_percentiles_by_hand() -> None:
    found = definitions.summary("x", [1.0, 2.0, 3.0, 4.0])
    assert [found[f"x_p{q}"] for q in (50, 90, 99)] == pytest.approx([2.5, 3.7, 3.97])
    with pytest.raises(ValueError, match="at least one value"):
        definitions.quantiles([])


def test_summary_by_hand() -> None:
    assert definitions.summary("x", [1.0, 2.0, 6.0]) == pytest.approx(
        {"x_mean": 3.0, "x_p50": 2.0, "x_p90": 5.2, "x_p99": 5.92}
    )
    assert definitions.summary("x", []) == {}


def test_request_times_by_hand() -> None:
    one = record(1.0, [(1.5, 1), (1.8, 4), (2.1, 7)])
    assert definitions.ttft(one) == pytest.approx(0.5)
    assert definitions.e2e(one) == pytest.approx(1.1)
    assert definitions.tpot(one) == pytest.approx(0.1)
    assert definitions.chunk_gaps([one, record(5.0, [(5.5, 1), (5.6, 2)])]) == pytest.approx(
        [0.3, 0.3, 0.1]
    )


def test_undefined_is_none() -> None:
    single, silent = record(1.0, [(1.5, 1)]), record(1.0, [])
    assert definitions.tpot(single) is None
    assert definitions.ttft(silent) is None
    assert definitions.e2e(silent) is None
    assert definitions.tpot(silent) is None
    assert definitions.chunk_gaps([single, silent]).size == 0
    assert definitions.span([silent]) is None


def test_send_lag_counts_as_ttft() -> None:
    late = record(1.0, [(1.5, 1)])
    assert definitions.ttft(late) == pytest.approx(0.5)  # from the due time, whenever it was sent


def test_span_is_first_due_to_last_token() -> None:
    assert definitions.span(
        [record(2.0, [(3.0, 1)]), record(1.0, [(1.5, 1), (4.25, 2)])]
    ) == pytest.approx(3.25)


def test_steady_window_by_hand() -> None:
    # two slots; each request: one token after 1 s, the second after 2 s, the next one due at once;
    # slot B starts 1 s later
    slot_a = [record(2.0 * i, [(2.0 * i + 1, 1), (2.0 * i + 2, 2)]) for i in range(6)]
    slot_b = [record(2.0 * i + 1, [(2.0 * i + 2, 1), (2.0 * i + 3, 2)]) for i in range(6)]
    # completions at 2 3 4 ... 13: opens with the 2nd at 3 s, closes with the 11th at 12 s; two
    # tokens at each second in (3, 12]
    assert definitions.steady_throughput(slot_a + slot_b, 2) == pytest.approx(18 / 9)


def test_steady_window_counts_all_tokens_of_a_chunk() -> None:
    records = [record(float(i), [(i + 0.5, 1), (i + 1.0, 4)]) for i in range(10)]
    assert definitions.steady_throughput(records, 1) == pytest.approx(4.0)


@pytest.mark.parametrize("requests", [1, 2])
def test_no_steady_window_in_a_short_run(requests: int) -> None:
    assert (
        definitions.steady_throughput(
            [record(float(i), [(i + 0.5, 1), (i + 1.0, 2)]) for i in range(requests)], 1
        )
        is None
    )


def test_no_steady_window_where_the_tokens_of_chunks_are_unknown() -> None:
    records = [record(float(i), [(i + 0.5, 1), (i + 1.0, 2)]) for i in range(10)]
    assert definitions.steady_throughput(records, 1) is not None
    assert (
        definitions.steady_throughput(
            [*records[:-1], RequestRecord.from_json({**records[-1].to_json(), "chunk_tokens": ()})],
            1,
        )
        is None
    )


THREE_PER_CHUNK = [
    record(0.0, [(0.05, 1), *((0.05 + 0.03 * step, 1 + 3 * step) for step in range(1, 21))])
    for _ in range(4)
]


def test_three_tokens_per_chunk_every_30_ms() -> None:
    """TPOT and ITL 10 ms, ICL 30 ms, and a peak that is not below the mean."""
    assert definitions.tpot(THREE_PER_CHUNK[0]) == pytest.approx(0.010)
    assert definitions.token_gaps(THREE_PER_CHUNK) == pytest.approx([0.010] * 60 * 4)
    assert definitions.chunk_gaps(THREE_PER_CHUNK) == pytest.approx([0.030] * 20 * 4)
    assert definitions.summary("itl", definitions.token_gaps(THREE_PER_CHUNK))[
        "itl_p99"
    ] == pytest.approx(0.010)
    mean = 4 * 61 / 0.65
    peak = definitions.peak_throughput(THREE_PER_CHUNK)
    assert peak is not None
    assert peak >= mean


@given(
    st.lists(
        st.tuples(
            st.floats(0, 20),
            st.lists(st.tuples(st.floats(0.001, 3), st.integers(1, 5)), min_size=1, max_size=20),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_peak_is_never_below_the_mean(streams: list[tuple[float, list[tuple[float, int]]]]) -> None:
    records = []
    for due, steps in streams:
        at, total, chunks = due, 0, []
        for gap, tokens in steps:
            at, total = at + gap, total + tokens
            chunks.append((at, total))
        records.append(record(due, chunks))
    duration = definitions.span(records)
    peak = definitions.peak_throughput(records)
    assert duration is not None
    assert peak is not None
    assert peak >= sum(item.completion_tokens or 0 for item in records) / duration * (1 - 1e-9)


def test_unknown_chunk_sizes_have_no_itl_and_no_peak() -> None:
    known = record(0.0, [(0.1, 1), (0.2, 2)])
    unknown = replace(known, chunk_tokens=())
    assert definitions.token_gaps([known, unknown]).size == 0
    assert definitions.peak_throughput([known, unknown]) is None


def test_goodput_counts_requests_within_every_limit() -> None:
    records = [
        record(0.0, [(0.1, 1), (0.2, 2)]),
        record(0.0, [(0.3, 1), (0.4, 2)]),
        record(0.0, [(0.1, 1), (1.0, 2)]),
    ]
    assert definitions.goodput(records, {"ttft": 0.2}) == pytest.approx(2.0)
    assert definitions.goodput(records, {"ttft": 0.2, "tpot": 0.5}) == pytest.approx(1.0)
    assert definitions.goodput(records, {"e2e": 0.05}) == 0.0
    assert definitions.goodput(records, {}) is None
