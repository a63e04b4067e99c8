"""Charts of sessions: what a record has numbers for, and nothing of what it has not."""

from __future__ import annotations

from typing import Any

from pytest_gpubench.report.html_cases import conversation_charts


def row(begin: float, ttft: float | None, **more: Any) -> dict[str, Any]:
    counts = {"requests": 2, "prompt_tokens": 100.0, "kept_tokens": begin, "cached_tokens": 64.0}
    return {"begin": begin, "end": begin, "ttft": ttft, "tpot": 0.01, **counts, **more}


def titles(measurement: dict[str, Any]) -> list[str]:
    charts = [str(chart) for chart in conversation_charts(measurement, "case")]
    return [text.split('aria-label="', 1)[1].split(".", 1)[0] for text in charts]


TURNS = [row(0, 0.2), row(1, 0.1), row(2, 0.3)]
SERIES = [
    {"seconds": at, "prefix_cache_hits": 100.0 * at, "offload_stored": 2e6 * at} for at in range(4)
]


def test_a_record_of_sessions_has_its_charts() -> None:
    assert titles({"turns": TURNS, "prefixes": TURNS, "series": SERIES}) == [
        "case: TTFT p50 by turn",
        "case: prompt tokens by turn",
        "case: TTFT p50 by shared prefix",
        "case: tokens found in the prefix cache, tok/s",
        "case: KV offloaded, MB/s",
    ]


def test_rates_are_what_a_counter_grew_by() -> None:
    (chart,) = (
        str(chart)
        for chart in conversation_charts({"series": SERIES[:3]}, "case")
        if "MB/s" in str(chart)
    )
    assert "least 2, most 2" in chart


def test_records_without_or_with_nonsense_have_none() -> None:
    assert titles({}) == []
    assert titles({"turns": TURNS[:1], "prefixes": 7, "series": "x"}) == []
    odd = [row(0, None), row(-1, 0.1), row(float("nan"), 0.1), {"begin": "x"}, 3]
    assert titles({"turns": odd, "prefixes": odd, "series": [{"seconds": 1}, None]}) == []
    still = [{"seconds": at, "offload_stored": 5.0} for at in range(3)]
    assert titles({"series": still}) == []


def test_the_name_of_a_case_is_text() -> None:
    (chart, *_) = conversation_charts({"turns": TURNS}, "<script>")
    assert "<script>" not in str(chart)
