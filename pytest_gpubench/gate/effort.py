"""How many launches, and rounds on each, a comparison needs before it can tell its tolerance: from
the spreads that a baseline shows and what a start and a round cost. Pure.

Decided before a run, or by spreads alone: what a metric's values are has no part in when to stop.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pytest_gpubench.gate import statistics
from pytest_gpubench.gate.baselines import MIN_LAUNCHES, Baseline
from pytest_gpubench.gate.metric_tests import logs, rounds_between, share_of
from pytest_gpubench.gate.policy import MetricPolicy
from pytest_gpubench.gate.statistics import Array, Estimate, Rounds
from pytest_gpubench.measure.measurement import Measurement
from pytest_gpubench.model import rounds as allowed_rounds
from pytest_gpubench.model.frozen import FrozenMap

GOAL = 1.5
"""A change of so many times the tolerance is to be found ..."""
GOAL_POWER = 0.8
"""... in this share of runs; twice the tolerance is then found in some 97%."""
NEAR = 1.01
"""Where the goal cannot be met, rounds that would lower what is found by less are not taken."""
ENOUGH = 0.1
"""A baseline's launch is measured until the standard error of its mean is this part of the
tolerance: rounds then add 4% to what launches 0.3 tolerances apart already vary by."""


@dataclass(frozen=True, slots=True)
class Known:
    """What a baseline says of one gated metric, on the log scale."""

    metric: str
    launches: Array
    """The last axis has one value per launch."""
    rounds: Rounds | None
    """As the baseline alone shows it; None: it never had two rounds on a launch."""
    limit: float
    """Worsening from which a change counts."""

    def foreseen(self, launches: int, rounds: int) -> Estimate:
        """A run's comparison with so many launches of so many rounds."""
        told = self.rounds
        if told is not None:
            told = Rounds(told.variance, told.df, told.before, 1 / rounds)
        return statistics.foreseen(self.launches, launches, rounds=told)

    def found(self, launches: int, rounds: int, power: float = GOAL_POWER) -> Array:
        """Worsening (log scale) that such a run finds in this share of runs."""
        return self.foreseen(launches, rounds).detectable(self.limit, power)


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds."""

    start: float
    """Of a server, until it can be measured."""
    rounds: Mapping[str, float]
    """Of one round of each case."""


@dataclass(frozen=True, slots=True)
class Compared:
    """A server whose cases are compared with baselines."""

    cases: Mapping[str, Sequence[Known]]
    cost: Cost
    allowed: Mapping[str, allowed_rounds.Rounds]
    """Of each case: what its recipe or the command line says."""


@dataclass(frozen=True, slots=True)
class Effort:
    """Launches of a server, and rounds of each case on each of them."""

    launches: int
    rounds: Mapping[str, int]
    seconds: float
    """What it takes."""
    reached: bool
    """Whether every metric of every case meets the goal."""


def known_of(
    policies: Iterable[MetricPolicy], baseline: Baseline | None, key: FrozenMap
) -> tuple[Known, ...]:
    """What a baseline says of its metrics, those left out of which it has too few launches."""
    found = []
    for policy in policies:
        if policy.tolerance is None or policy.refused or baseline is None:
            continue
        history = baseline.history(key, policy.metric)
        if len(history.window) < MIN_LAUNCHES:
            continue
        level = math.exp(math.fsum(map(math.log, history.window)) / len(history.window))
        values = logs(policy.metric, history.window)
        rounds = rounds_between(history.rounds, ())
        found.append(Known(policy.metric, values, rounds, policy.log_limit(level)))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class RoundPlan:
    """How often a case is measured on a launch."""

    allowed: allowed_rounds.Rounds
    policies: tuple[MetricPolicy, ...]
    planned: int
    """By the baseline that it is compared with; 1 where there is none."""
    recording: bool
    """Whether the launch is to become a part of a baseline."""

    def wants_another(self, rounds: Sequence[Measurement]) -> bool:
        """Whether the case is measured once more after these rounds.

        Looks at how far apart they are, never at how good: a result has no part in when to stop.
        """
        done = len(rounds)
        if any(one.problems or one.invalid for one in rounds) or done >= self.allowed.most:
            return False
        if done < max(self.allowed.least, self.planned):
            return True
        return self.recording and (done < _FEWEST or not self._narrow(rounds))

    def _narrow(self, rounds: Sequence[Measurement]) -> bool:
        values, tolerances = [], []
        barred = frozenset[str]().union(*(one.not_gated for one in rounds))
        for policy in self.policies:
            found = [one.metrics.get(policy.metric, 0.0) for one in rounds]
            usable = policy.metric not in barred and min(found) > 0
            if policy.tolerance is not None and not policy.refused and usable:
                values.append([math.log(value) for value in found])
                tolerances.append(policy.log_limit(found[0]))
        return narrow(values, tolerances)


_FEWEST = 3
"""Rounds of a launch that is recorded: two hardly show how far apart they are."""


def rounds_for(known: Iterable[Known], launches: int, most: int) -> tuple[int, bool]:
    """The fewest rounds on each of so many launches with which every metric meets the goal, and
    whether they do; where they do not, the fewest that come as near to it as ``most`` would, to
    NEAR: where launches differ, rounds do not help."""
    metrics = [one for one in known if math.isfinite(one.limit)]

    def missed(rounds: int) -> float:
        return max((float(one.found(launches, rounds)) / one.limit for one in metrics), default=0.0)

    for rounds in range(1, most + 1):
        if missed(rounds) <= GOAL:
            return rounds, True
    near = NEAR * missed(most)
    return next(rounds for rounds in range(1, most + 1) if missed(rounds) <= near), False


def cheapest(server: Compared, launches: Sequence[int], budget: float = math.inf) -> Effort:
    """What a server should be given: the cheapest of the allowed numbers of launches that meets the
    goal; where none does within the budget, the one that finds the smallest changes.

    Args:
        launches: allowed numbers.
        budget: seconds for this server; the smallest effort is taken even where it costs more.
    """
    cases, cost, allowed = server.cases, server.cost, server.allowed
    efforts = []
    for count in launches:
        planned = {
            name: rounds_for(known, count, allowed[name].most) for name, known in cases.items()
        }
        rounds = {name: max(number, allowed[name].least) for name, (number, _) in planned.items()}
        reached = all(met for _, met in planned.values())
        while _seconds(count, rounds, cost) > budget:
            several = [name for name, number in rounds.items() if number > allowed[name].least]
            if not several:
                break
            rounds[max(several, key=lambda name: rounds[name] * cost.rounds[name])] -= 1
            reached = False
        efforts.append(Effort(count, rounds, _seconds(count, rounds, cost), reached))
    within = [one for one in efforts if one.seconds <= budget]
    if not within:
        return min(efforts, key=lambda one: one.seconds)
    meeting = [one for one in within if one.reached]
    if meeting:
        return min(meeting, key=lambda one: one.seconds)
    return min(within, key=lambda one: (_worst(cases, one), one.seconds))


def within(
    servers: Mapping[str, Compared], launches: Sequence[int], budget: float
) -> dict[str, Effort]:
    """What each server is given of so many seconds: what meets the goal where all of it fits, else
    each the same part of that."""
    wanted = {name: cheapest(one, launches) for name, one in servers.items()}
    total = math.fsum(effort.seconds for effort in wanted.values())
    if total <= budget:
        return wanted
    return {
        name: cheapest(one, launches, budget * wanted[name].seconds / total)
        for name, one in servers.items()
    }


def found_by(known: Iterable[Known], launches: int, rounds: int, power: float) -> dict[str, float]:
    """By metric the worsening, as a share, that such a run finds in this share of runs."""
    return {
        one.metric: abs(share_of(one.metric, float(one.found(launches, rounds, power))))
        for one in known
        if math.isfinite(one.limit)
    }


def narrow(values: Sequence[Sequence[float]], tolerances: Sequence[float]) -> bool:
    """Whether rounds of one launch tell their mean well enough for a baseline.

    Args:
        values: of each metric, the logarithms of its rounds; three or more.
        tolerances: of each metric, on the log scale.
    """
    return all(
        float(np.std(rounds, ddof=1)) / math.sqrt(len(rounds)) <= ENOUGH * tolerance
        for rounds, tolerance in zip(values, tolerances, strict=True)
    )


def _seconds(launches: int, rounds: Mapping[str, int], cost: Cost) -> float:
    each = sum(number * cost.rounds[name] for name, number in rounds.items())
    return launches * (cost.start + each)


def _worst(cases: Mapping[str, Sequence[Known]], effort: Effort) -> float:
    """How far the goal is missed, by the worst metric."""
    return max(
        (
            float(one.found(effort.launches, effort.rounds[name]) / one.limit)
            for name, known in cases.items()
            for one in known
            if math.isfinite(one.limit)
        ),
        default=0.0,
    )
