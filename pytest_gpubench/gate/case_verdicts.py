"""Verdicts of a run: after each launch all launches of a case so far are judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pytest_gpubench.gate.accuracy_verdicts import (
    AccuracyEvidence,
    judge_accuracy,
    judge_accuracy_pair,
)
from pytest_gpubench.gate.baselines import Baseline
from pytest_gpubench.gate.decide import judge, judge_pair
from pytest_gpubench.gate.effort import RoundPlan, known_of, rounds_for
from pytest_gpubench.gate.evidence import LaunchEvidence, LaunchPlan
from pytest_gpubench.gate.policy import MetricPolicy
from pytest_gpubench.gate.waivers import NO_WAIVERS, Waivers
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.rounds import Rounds
from pytest_gpubench.model.specs import Launch
from pytest_gpubench.model.verdicts import Verdict


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one launch says about one subject, and under which key it may be compared."""

    launch: LaunchEvidence
    date: str
    """When it ended, ISO 8601."""
    key: FrozenMap
    axis: FrozenMap


@dataclass(slots=True)
class _Subject:
    """A case, or the start of a server: its launches so far and the verdict on them."""

    launches: dict[tuple[str, int], Evidence] = field(default_factory=dict)
    """By arm and index; a launch that is measured again replaces what it said."""
    answered: dict[str, AccuracyEvidence] = field(default_factory=dict)
    """Of an evaluation, by arm."""
    answered_by: FrozenMap = field(default_factory=FrozenMap)
    """Axis of the engine that is judged; empty while it has not answered."""
    verdict: Verdict | None = None

    def of_arm(self, arm: str) -> list[LaunchEvidence]:
        return [self.launches[place].launch for place in sorted(self.launches) if place[0] == arm]

    def axis(self, arm: str) -> FrozenMap:
        """Of the newest launch of an arm; empty before there is one."""
        places = [place for place in self.launches if place[0] == arm]
        return self.launches[max(places)].axis if places else FrozenMap()


class Judging:
    """The verdicts of one process: xdist keeps all launches of a server on one worker."""

    def __init__(
        self,
        launches: Sequence[Launch],
        baseline_of: Callable[[str], Baseline | None],
        *,
        require_baseline: bool = False,
        difference_of: Callable[[str], str] = lambda _server: "",
        waivers_of: Callable[[], Waivers] = lambda: NO_WAIVERS,
    ) -> None:
        self._plans = launch_plans(launches)
        self._baseline_of = baseline_of
        self._require_baseline = require_baseline
        self._difference_of = difference_of
        self._waivers_of = waivers_of
        self._subjects: dict[str, _Subject] = {}

    def judge(
        self, subject: str, launch: Launch, evidence: Evidence, policies: Sequence[MetricPolicy]
    ) -> Verdict:
        """The verdict on a subject with this launch taken in.

        Raises:
            GpubenchError: if its baseline file, or that of the waivers, cannot be used.
        """
        state = self._subjects.setdefault(subject, _Subject())
        state.launches[launch.arm, launch.index] = evidence
        plan = self._plans[launch.server]
        waive = self._waivers_of().on(subject, state.axis(launch.arm and "b"))
        if launch.arm:
            difference = self._difference_of(launch.server)
            state.verdict = judge_pair(
                policies,
                state.of_arm("a"),
                state.of_arm("b"),
                plan,
                difference=difference,
                waive=waive,
            )
        else:
            state.verdict = judge(
                policies,
                state.of_arm(""),
                self._baseline_of(subject),
                evidence.key,
                plan,
                axis=evidence.axis,
                require_baseline=self._require_baseline,
                waive=waive,
            )
        return state.verdict

    def judge_answers(
        self,
        subject: str,
        launch: Launch,
        evidence: AccuracyEvidence,
        key: FrozenMap,
        axis: FrozenMap,
    ) -> Verdict:
        """The verdict on an evaluation with this launch taken in.

        Raises:
            GpubenchError: if its baseline file, or that of the waivers, cannot be used.
        """
        state = self._subjects.setdefault(subject, _Subject())
        state.answered[launch.arm] = evidence
        if launch.arm != "a":
            state.answered_by = axis
        waive = self._waivers_of().on(subject, state.answered_by)
        if launch.arm:
            first, second = (state.answered.get(arm) for arm in ("a", "b"))
            difference = self._difference_of(launch.server)
            state.verdict = judge_accuracy_pair(first, second, difference, waive=waive)
        else:
            state.verdict = judge_accuracy(
                evidence,
                self._baseline_of(subject),
                key,
                require_baseline=self._require_baseline,
                waive=waive,
            )
        return state.verdict

    def round_plan(
        self,
        subject: str,
        launch: Launch,
        key: FrozenMap,
        policies: Sequence[MetricPolicy],
        allowed: Rounds,
        *,
        recording: bool,
    ) -> RoundPlan:
        """How often a case is measured on a launch.

        Raises:
            GpubenchError: if its baseline file cannot be used.
        """
        if launch.arm:
            return RoundPlan(allowed, tuple(policies), 1, recording=False)
        known = known_of(policies, self._baseline_of(subject), key)
        planned, _ = rounds_for(known, self._plans[launch.server].total, allowed.most)
        return RoundPlan(allowed, tuple(policies), planned if known else 1, recording=recording)

    def verdict(self, subject: str) -> Verdict | None:
        """The last verdict on a subject, None before the first."""
        state = self._subjects.get(subject)
        return state.verdict if state else None


def launch_plans(launches: Sequence[Launch]) -> dict[str, LaunchPlan]:
    """Per server how many launches are certain and in reserve; of two arms only one counts, so that
    the unit is the pair."""
    plans: dict[str, LaunchPlan] = {}
    for launch in launches:
        if launch.arm == "b":
            continue
        plan = plans.get(launch.server, LaunchPlan(0, 0))
        plans[launch.server] = LaunchPlan(
            plan.certain + (not launch.reserve), plan.reserve + launch.reserve
        )
    return plans
