"""Rounds as one measurement."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_gpubench.measure.measurement import Drafting, Flag, Measurement, Totals, combined

ONE = Measurement(
    {"output_tput": 100.0, "goodput": 0.0, "ttft_p50": 0.2},
    Totals(10, 0, 100, 200, 220, 220, 1, None),
    flags=(Flag("few-requests", "p99 of 10", ("ttft_p99",), ("ttft_p99",)),),
    drafting=Drafting(10, 30, 12, (0.7,)),
    send_lag_max=0.002,
    started_unix=1.0,
)
TWO = replace(
    ONE,
    metrics={"output_tput": 121.0, "goodput": 2.0},
    flags=(Flag("few-requests", "p99 of 10", ("tpot_p99",)), Flag("preemptions", "one")),
    drafting=Drafting(20, 60, 30, (0.8,)),
    send_lag_max=0.001,
    started_unix=9.0,
    series=({"t": 1.0},),
)


def test_one_round_is_what_it_is() -> None:
    assert combined([ONE]) is ONE
    assert ONE.rounds == ()


def test_several_rounds_are_one_measurement() -> None:
    both = combined([ONE, TWO])
    assert both.metrics == pytest.approx({"output_tput": 110.0, "goodput": 1.0})
    assert both.totals == Totals(20, 0, 200, 400, 440, 440, 2, None)
    assert both.drafting == Drafting(30, 90, 42, (0.8,))
    assert [flag.code for flag in both.flags] == ["few-requests", "preemptions"]
    assert both.flags[0].metrics == ("ttft_p99", "tpot_p99")
    assert both.flags[0].hidden == ("ttft_p99",)
    assert both.send_lag_max == 0.002
    assert both.started_unix == 1.0
    assert both.series == TWO.series
    assert both.rounds == (ONE.metrics, TWO.metrics)
    assert Measurement.from_json(both.to_json()) == both


def test_what_is_wrong_with_one_round_is_wrong_with_all() -> None:
    both = combined([replace(ONE, invalid=("slow",)), replace(TWO, problems=("failed",))])
    assert both.invalid == ("slow",)
    assert both.problems == ("failed",)


def test_drafts_that_one_round_did_not_count_are_not_known() -> None:
    assert combined([ONE, replace(TWO, drafting=None)]).drafting is None


def test_no_round_is_refused() -> None:
    with pytest.raises(ValueError, match="no round"):
        combined([])
