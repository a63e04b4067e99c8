"""How many rounds and launches a comparison is given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from pytest_gpubench.gate import effort, statistics
from pytest_gpubench.gate.baselines import Baseline, LaunchEntry, append
from pytest_gpubench.gate.effort import Compared, Cost, Known, RoundPlan
from pytest_gpubench.gate.policy import MetricPolicy
from pytest_gpubench.gate.statistics import Rounds as Spread
from pytest_gpubench.measure.measurement import Flag, Measurement, Totals
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.rounds import Rounds

TPUT = MetricPolicy("output_tput", 0.05)
LIMIT = TPUT.log_limit(1.0)


def measured(value: float) -> Measurement:
    return Measurement({"output_tput": value}, Totals(1, 0, 1, 1, 1, 1))


def plan(least: int = 1, most: int = 8, planned: int = 1, *, recording: bool = False) -> RoundPlan:
    return RoundPlan(Rounds(least, most), (TPUT,), planned, recording)


def taken(wanted: RoundPlan, values: Sequence[float]) -> int:
    """Rounds that a launch with these results takes."""
    rounds = [measured(values[0])]
    while wanted.wants_another(rounds):
        rounds.append(measured(values[len(rounds)]))
    return len(rounds)


NOISY = [100.0, 110.0, 95.0, 104.0, 99.0, 107.0, 93.0, 101.0, 100.0, 100.0]


@pytest.mark.parametrize(
    ("wanted", "rounds"),
    [
        (plan(), 1),
        (plan(3), 3),
        (plan(planned=5), 5),
        (plan(most=4, planned=20), 4),
        (plan(recording=True), 8),
        (plan(recording=True, most=2), 2),
    ],
)
def test_rounds_that_are_taken(wanted: RoundPlan, rounds: int) -> None:
    assert taken(wanted, NOISY) == rounds


def test_a_baseline_takes_as_many_as_tell_its_level_and_three_at_least() -> None:
    assert taken(plan(recording=True), [100.0] * 8) == 3
    assert (
        taken(plan(recording=True), [100.0, 102.0, 100.0, 102.0, 100.0, 102.0, 100.0, 101.0]) == 5
    )


def test_how_good_a_result_is_has_no_part_in_when_to_stop() -> None:
    slow = [value / 3 for value in NOISY]
    assert taken(plan(recording=True), slow) == taken(plan(recording=True), NOISY)
    assert taken(plan(planned=3), slow) == 3


def test_what_does_not_count_is_not_measured_once_more() -> None:
    for bad in (
        replace(measured(1), invalid=("slow client",)),
        replace(measured(1), problems=("x",)),
    ):
        assert not plan(5).wants_another([measured(1), bad])


def test_a_metric_that_is_not_gated_asks_for_no_round() -> None:
    flag = Flag("few-requests", "few", ("output_tput",))
    rounds = [replace(measured(value), flags=(flag,)) for value in NOISY[:3]]
    assert not plan(recording=True).wants_another(rounds)


def known(noise: float, launch: float, rounds: int = 4, metric: str = "output_tput") -> Known:
    """Eight launches whose means spread by exactly what launches and rounds give."""
    wave = (
        np.array([-1.0, 1.0] * 4)
        * math.sqrt(7 / 8)
        / statistics.pulled_summary(np.array([-1.0, 1.0] * 4) * math.sqrt(7 / 8)).variance ** 0.5
    )
    spread = math.sqrt(launch**2 + noise**2 / rounds)
    told = Spread(np.asarray(noise**2), 8.0 * (rounds - 1), 1 / rounds, 1 / rounds)
    return Known(metric, wave * spread, told if rounds > 1 else None, LIMIT)


def test_noisy_rounds_are_answered_with_more_of_them() -> None:
    calm, _ = effort.rounds_for([known(0.004, 0.002)], 2, 16)
    noisy, met = effort.rounds_for([known(0.01, 0.002)], 2, 16)
    assert calm == 1
    assert 2 <= noisy <= 16
    assert met
    most, reached = effort.rounds_for([known(0.2, 0.002)], 2, 16)
    assert most > 4
    assert not reached
    # Where launches differ, rounds do not help.
    assert effort.rounds_for([known(0.005, 0.05)], 2, 16) == (1, False)


def test_where_rounds_were_never_seen_one_is_taken() -> None:
    assert effort.rounds_for([known(0.0, 0.05, rounds=1)], 2, 16) == (1, False)


def compared(noise: float, launch: float, round_s: float = 10.0, least: int = 1) -> Compared:
    metrics = {"a": [known(noise, launch)], "b": [known(0.001, 0.001)]}
    allowed = Rounds(least, 16)
    cost = Cost(100.0, {"a": round_s, "b": round_s})
    return Compared(metrics, cost, {"a": allowed, "b": allowed})


def test_the_cheapest_effort_that_meets_the_goal() -> None:
    calm = effort.cheapest(compared(0.001, 0.001), (1, 2, 3))
    assert (calm.launches, dict(calm.rounds), calm.reached) == (1, {"a": 1, "b": 1}, True)
    assert calm.seconds == 120
    noisy = effort.cheapest(compared(0.03, 0.001), (1, 2, 3))
    assert noisy.rounds["a"] > noisy.rounds["b"] == 1


def test_a_budget_takes_rounds_away_and_then_launches() -> None:
    full = effort.cheapest(compared(0.05, 0.001), (2, 3))
    less = effort.cheapest(compared(0.05, 0.001), (2, 3), full.seconds / 2)
    assert less.seconds <= full.seconds / 2
    assert not less.reached
    least = effort.cheapest(compared(0.05, 0.001), (2, 3), 1.0)
    assert least.launches == 2
    assert set(least.rounds.values()) == {1}


def test_no_fewer_rounds_are_planned_than_are_asked_for() -> None:
    asked = compared(0.001, 0.001, least=3)
    for budget in (math.inf, 1.0):
        assert dict(effort.cheapest(asked, (1, 2), budget).rounds) == {"a": 3, "b": 3}


def test_servers_share_a_budget_by_what_they_need() -> None:
    servers = {"calm": compared(0.001, 0.001), "noisy": compared(0.05, 0.001)}
    free = effort.within(servers, (1, 2, 3), math.inf)
    tight = effort.within(servers, (1, 2, 3), 0.6 * sum(one.seconds for one in free.values()))
    assert tight["noisy"].seconds < free["noisy"].seconds
    assert sum(one.seconds for one in tight.values()) < sum(one.seconds for one in free.values())


def test_more_evidence_finds_less() -> None:
    one = [known(0.03, 0.005)]
    shares = [
        effort.found_by(one, launches, rounds, 0.95)["output_tput"]
        for launches, rounds in ((1, 1), (1, 8), (3, 8))
    ]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] > 0.05  # never less than the tolerance


def test_what_a_baseline_says() -> None:
    key = FrozenMap({"a": "b"})
    entries = [
        LaunchEntry(
            f"r{index}",
            "launch-1",
            f"2026-01-0{index + 1}T00:00:00+00:00",
            "",
            FrozenMap({"output_tput": 100.0 + index}),
            rounds=4,
            noise=FrozenMap({"output_tput": 0.02}),
        )
        for index in range(6)
    ]
    baseline = append(Baseline("c"), key, entries)
    (found,) = effort.known_of([TPUT, MetricPolicy("tpot_p50", 0.05)], baseline, key)
    assert found.metric == "output_tput"
    assert found.rounds is not None
    assert found.rounds.variance == pytest.approx(0.0004)
    assert found.rounds.df == 18
    assert found.rounds.before == 0.25
    assert effort.known_of([TPUT], append(Baseline("c"), key, entries[:4]), key) == ()
    assert effort.known_of([TPUT], None, key) == ()


@pytest.mark.parametrize(("text", "rounds"), [("3", (3, 3)), (" 1 .. 8 ", (1, 8))])
def test_rounds_as_they_are_written(text: str, rounds: tuple[int, int]) -> None:
    assert Rounds.parse(text) == Rounds(*rounds)


@pytest.mark.parametrize("text", ["", "0", "8..1", "1..101", "x", "1...3", "²"])
def test_rounds_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write a number such as 3"):
        Rounds.parse(text)


def test_equal_rounds_change_nothing_and_fewer_widen_the_interval() -> None:
    old, new = known(0.02, 0.01).launches, np.array([0.03, 0.01])
    plain = statistics.against_baseline(old, new)
    same = statistics.against_baseline(
        old, new, rounds=Spread(np.asarray(0.0001), 24.0, 0.25, 0.25)
    )
    fewer = statistics.against_baseline(
        old, new, rounds=Spread(np.asarray(0.0004), 24.0, 0.25, 1.0)
    )
    more = statistics.against_baseline(
        old, new, rounds=Spread(np.asarray(0.0004), 24.0, 0.25, 0.05)
    )
    assert same.half_width() == pytest.approx(plain.half_width())
    assert fewer.half_width() > plain.half_width() > more.half_width()
    assert fewer.df <= plain.df


@pytest.mark.parametrize(
    ("launch", "noise", "before", "now"),
    [(0.001, 0.05, 8, 8), (0.1, 0.1, 16, 5), (0.06, 0.07, 8, 2), (0.01, 0.03, 3, 8)],
)
def test_rounds_keep_the_promise_of_one_in_a_thousand(
    launch: float, noise: float, before: int, now: int
) -> None:
    rng = np.random.default_rng([7, before, now])
    trials = 40_000

    def draw(launches: int, rounds: int) -> tuple[statistics.Array, statistics.Array]:
        means = launch * rng.standard_normal((trials, launches))
        each = means[..., None] + noise * rng.standard_normal((trials, launches, rounds))
        return each.mean(axis=-1), each.var(axis=-1, ddof=1)

    (old, old_seen), (new, new_seen) = draw(8, before), draw(3, now)
    df = 8 * (before - 1) + 3 * (now - 1)
    variance = (old_seen.sum(axis=-1) * (before - 1) + new_seen.sum(axis=-1) * (now - 1)) / df
    spread = Spread(variance, df, 1 / before, 1 / now)
    same = statistics.against_baseline(old, new, rounds=spread)
    twice = statistics.against_baseline(old, new + 2 * LIMIT, rounds=spread)
    assert statistics.worse(same, LIMIT, 2).mean() <= 0.001
    assert statistics.inside(twice, LIMIT, 3).mean() <= 0.001
