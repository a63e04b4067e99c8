from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gpubench.dialects import metrics_page
from pytest_gpubench.dialects.metrics_page import parse_metrics
from pytest_gpubench.dialects.vllm.dialect import COUNTERS
from pytest_gpubench.engines.idleness import wait_idle
from pytest_gpubench.load.loopback.stream import Counters
from pytest_gpubench.model.failures import BenchmarkError

PAGE = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 2.0
vllm:num_requests_running{engine="1",model_name="m"} 3.0
# HELP vllm:generation_tokens_total Number of generation tokens processed.
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{engine="0",model_name="m"} 100.0
vllm:generation_tokens_total{engine="1",model_name="m"} 50.0
# HELP vllm:generation_tokens_created Number of generation tokens processed.
# TYPE vllm:generation_tokens_created gauge
vllm:generation_tokens_created{engine="0",model_name="m"} 1.7e+09
# HELP vllm:spec_decode_num_accepted_tokens_per_pos_total Accepted tokens per draft position.
# TYPE vllm:spec_decode_num_accepted_tokens_per_pos_total counter
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="m",position="0"} 30.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="1",model_name="m",position="0"} 10.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="m",position="1"} 20.0
# HELP vllm:time_to_first_token_seconds Histogram of time to first token in seconds.
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.1",model_name="m"} 3.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="+Inf",model_name="m"} 4.0
vllm:time_to_first_token_seconds_count{engine="0",model_name="m"} 4.0
vllm:time_to_first_token_seconds_sum{engine="0",model_name="m"} 0.5
"""


def pages(*counters: Counters) -> Callable[[], str]:
    remaining = list(counters)

    def fetch() -> str:
        current = remaining.pop(0) if len(remaining) > 1 else remaining[0]
        return current.metrics_text("m", speculative=False)

    return fetch


def test_totals_are_summed_over_engines_and_missing_is_none() -> None:
    scrape = parse_metrics(PAGE)
    assert scrape.total("vllm:generation_tokens_total") == 150
    assert scrape.total("vllm:num_requests_running") == 5
    assert scrape.total("vllm:nothing") is None


def test_by_label() -> None:
    scrape = parse_metrics(PAGE)
    assert scrape.by_label("vllm:spec_decode_num_accepted_tokens_per_pos_total", "position") == {
        "0": 40,
        "1": 20,
    }
    assert scrape.by_label("vllm:generation_tokens_total", "position") == {}
    assert scrape.by_label("vllm:nothing", "position") == {}


def test_difference_has_counters_and_histograms_only() -> None:
    later = PAGE.replace(
        '_total{engine="1",model_name="m"} 50.0', '_total{engine="1",model_name="m"} 57.0'
    ).replace("_sum{", "_sum{")
    change = parse_metrics(later).since(parse_metrics(PAGE))
    assert change.total("vllm:generation_tokens_total") == 7
    assert change.total("vllm:time_to_first_token_seconds_count") == 0
    assert change.total("vllm:num_requests_running") is None
    assert change.total("vllm:generation_tokens_created") is None


def test_label_sets_that_appear_later_count_from_zero() -> None:
    early = "".join(line + "\n" for line in PAGE.splitlines() if 'position="1"' not in line)
    change = parse_metrics(PAGE).since(parse_metrics(early))
    assert change.by_label("vllm:spec_decode_num_accepted_tokens_per_pos_total", "position") == {
        "0": 0,
        "1": 20,
    }


def test_restarted_server_is_an_error() -> None:
    with pytest.raises(ValueError, match="generation_tokens_total went backwards by 90"):
        parse_metrics(PAGE.replace("} 100.0", "} 10.0")).since(parse_metrics(PAGE))


@given(
    st.dictionaries(
        st.from_regex(r"[a-z_:][a-z0-9_:]{0,20}", fullmatch=True),
        st.integers(0, 10**12),
        max_size=8,
    )
)
def test_plain_lines_are_read_as_written(values: dict[str, int]) -> None:
    scrape = parse_metrics("".join(f"{name} {value}\n" for name, value in values.items()))
    assert {sample.name: sample.value for sample in scrape.samples} == values


@given(st.text(max_size=80))
def test_other_text_is_read_or_refused_with_value_error(text: str) -> None:
    with suppress(ValueError):
        parse_metrics(text)


def test_idle_needs_two_equal_quiet_scrapes() -> None:
    busy = Counters(running=1, generation_tokens=5)
    queued = Counters(waiting=1, generation_tokens=8)
    settling = Counters(generation_tokens=9)
    quiet = Counters(generation_tokens=10)
    asked: list[str] = []
    source = pages(busy, queued, settling, quiet, quiet)

    def fetch() -> str:
        asked.append(source())
        return asked[-1]

    assert wait_idle(fetch, COUNTERS, interval=0).total("vllm:generation_tokens_total") == 10
    assert len(asked) == 5


def test_engine_that_stays_busy_is_one_sentence() -> None:
    with pytest.raises(
        BenchmarkError, match=re.escape("not idle after 0.05 s: 3 requests running, 1 waiting")
    ):
        wait_idle(pages(Counters(running=3, waiting=1)), COUNTERS, 0.05, interval=0.01)


FRESH = (
    'vllm:generation_tokens_total{engine="0"} '
    '0.0\nvllm:generation_tokens_total{engine="1"} 0.0\nvllm:request_success_total 0.0\n'
)
"""Several API server processes, before the first request: prometheus_client leaves a gauge of the
kind "most recent" out until it is set (seen with --data-parallel-size 2 on two H100s)."""


def test_gauges_that_were_never_set_are_idle() -> None:
    assert (
        wait_idle(lambda: FRESH, COUNTERS, 0.05, interval=0).total("vllm:generation_tokens_total")
        == 0
    )
    with pytest.raises(BenchmarkError, match="lacks vllm:num_requests_waiting"):
        wait_idle(
            lambda: FRESH.replace("0.0", "3.0") + "vllm:num_requests_running 0.0\n", COUNTERS, 0.05
        )


STALE = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0"} 2.0
vllm:num_requests_waiting{engine="0"} 0.0
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{engine="0"} 29856.0
# TYPE vllm:request_success_total counter
vllm:request_success_total{engine="0",finished_reason="length"} 96.0
"""
"""Two API servers of vLLM 0.32 on the CPU, 30 s after the last of 96 requests: of the values that
each process was told, the one told last is shown, and a process that was behind is told last of a
time when requests still ran. (With ``--data-parallel-size 2`` on two H100s it said 7.)"""


def test_gauge_left_behind_by_another_api_server_is_idle_once_nothing_moves() -> None:
    assert (
        wait_idle(lambda: STALE, COUNTERS, 5, interval=0.01, stale=0.1).total(
            "vllm:generation_tokens_total"
        )
        == 29856
    )


def test_gauge_is_believed_while_any_counter_moves() -> None:
    tokens = itertools.count(29856)
    with pytest.raises(BenchmarkError, match="2 requests running"):
        wait_idle(
            lambda: STALE.replace("29856", str(next(tokens))),
            COUNTERS,
            0.3,
            interval=0.01,
            stale=0.1,
        )


def test_gauge_of_a_single_process_is_believed() -> None:
    page = '# TYPE python_info gauge\npython_info{version="3.12"} 1.0\n' + STALE
    with pytest.raises(BenchmarkError, match="2 requests running"):
        wait_idle(lambda: page, COUNTERS, 0.3, interval=0.01, stale=0.1)


@pytest.mark.parametrize(
    ("page", "words"),
    [("up 1\n", "lacks vllm:num_requests_running"), ("<html>\n", "not in Prometheus")],
)
def test_page_of_another_server_is_one_sentence(page: str, words: str) -> None:
    with pytest.raises(BenchmarkError, match=words):
        wait_idle(lambda: page, COUNTERS, 0.05)


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf", "1e999", "-1"])
@pytest.mark.parametrize(
    "name",
    ["vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:generation_tokens_total"],
)
def test_a_count_that_is_none_is_named_at_once(name: str, value: str) -> None:
    page = Counters().metrics_text("m", speculative=False)
    odd = re.sub(rf"(?m)^({name}{{[^}}]*}}) \S+", rf"\1 {value}", page)
    assert odd != page
    with pytest.raises(BenchmarkError, match=name) as found:
        wait_idle(lambda: odd, COUNTERS, timeout=1000.0)
    assert found.value.failure.cause == "metrics-unreadable"


def test_a_counter_that_leaves_the_page_is_named() -> None:
    before = parse_metrics(PAGE)
    assert before.vanished(before, COUNTERS) == ()
    after = parse_metrics(
        "".join(
            line for line in PAGE.splitlines(keepends=True) if 'tokens_total{engine="1"' not in line
        )
    )
    assert after.vanished(before, COUNTERS) == ("vllm:generation_tokens_total",)
    assert parse_metrics("").vanished(before, COUNTERS)[0] == "vllm:generation_tokens_total"


@given(st.text(max_size=200))
def test_no_page_is_too_strange(text: str) -> None:
    for page in (
        text,
        f'a{{b="{text}"}} 1\n',
        f"vllm:num_requests_running {text}\n",
        f"# TYPE x {text}\nx 1\n",
    ):
        with suppress(ValueError):
            parse_metrics(page)


_VALUES = (
    "0",
    "1.0",
    "-3",
    "1e9",
    "NaN",
    "+Inf",
    "-Inf",
    "7 1700000000",
    "x",
    "",
    "1_0",
    "0x1",
    "9" * 30,
)
_ODD_LINES = (
    'vllm:x{a="b} 1"} 5',
    'vllm:x{a="b 2',
    "vllm:x 1 # {} 2",
    "vllm:x{} 1",
    "vllm:x\t4",
    "  vllm:y 3  ",
    "# TYPE vllm:x counter",
    "# TYPE",
    "#",
    "",
    "vllm:x 5\r",
    "vllm:x} 5",
)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from(PAGE.splitlines()), st.sampled_from(_VALUES)).map(
                lambda found: (
                    found[0]
                    if found[0].startswith("#")
                    else f"{found[0].rpartition(' ')[0]} {found[1]}"
                )
            ),
            st.sampled_from(_ODD_LINES),
            st.text(max_size=12),
        ),
        max_size=12,
    ).map("\n".join)
)
def test_a_page_of_known_lines_is_read_as_any_other(page: str) -> None:
    def outcome(read: Callable[[str], object]) -> str:
        try:
            return repr(read(page))  # NaN is not equal to itself
        except ValueError as error:
            return type(error).__name__

    assert outcome(parse_metrics) == outcome(metrics_page._parsed)
    assert outcome(parse_metrics) == outcome(metrics_page._parsed), "by what is kept"


def test_values_are_those_of_the_page_and_not_of_the_one_before() -> None:
    names = ("vllm:generation_tokens_total", "vllm:num_requests_running")
    for number in (1, 2):
        page = re.sub(r" [0-9.e+]+$", f" {number}.0", PAGE, flags=re.MULTILINE)
        assert [parse_metrics(page).total(name) for name in names] == [2.0 * number] * 2
