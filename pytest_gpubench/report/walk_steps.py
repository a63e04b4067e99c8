"""What one step of a bisection says: a run of pytest in which engine A was the good end's and
engine B the candidate's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pytest_gpubench.gate import wording
from pytest_gpubench.gate.bisection import Answer
from pytest_gpubench.gate.counterparts import NO_COUNTERPART
from pytest_gpubench.model.failures import Failure, failure_words
from pytest_gpubench.model.metrics import METRICS
from pytest_gpubench.model.printing import counted
from pytest_gpubench.model.verdicts import MetricVerdict, Status, Verdict
from pytest_gpubench.report.results import Run

NOT_MEASURED = "not measured"
_ENDED_BY_ITSELF = (0, 1, 10)
"""Exit codes of pytest after which verdicts are whole: passed, failed, undecided."""
_CANDIDATES = "b"
_NOT_ITS_FAULT = ("infrastructure", "client")


@dataclass(frozen=True, slots=True)
class StepVerdict:
    """What is concluded from a step, and why."""

    answer: Answer
    verdict: str
    """The gate's word, or ``not measured``."""
    reason: str
    """One sentence."""
    change: str = ""
    """The metric that decided, or that came nearest to it, with its interval."""
    pairs: int = 0
    """Pairs of launches that it rests on."""


def step_verdict(
    run: Run | None, exit_code: int, said: str, *, failure_is_bad: bool = False
) -> StepVerdict:
    """Read a step.

    A FAIL is bad whatever else happened, a waived one too; nothing is good that is not whole:
    every case measured, every verdict PASS, every test passed.

    Args:
        run: its records; None where it left none.
        exit_code: of pytest; negative: the signal that ended it.
        said: pytest's last words, for a step that was not measured.
        failure_is_bad: whether a candidate whose engine does not start, or fails, is bad.
    """
    verdicts = _last_verdicts(run) if run else {}
    results = [one for verdict in verdicts.values() for one in verdict.metrics]
    worst = max(results, key=_how_bad, default=None)
    change = _change(worst)
    pairs = _pairs(run) if run else 0
    for verdict in verdicts.values():
        if Answer.of(verdict.status) is Answer.BAD:
            status = verdict.status.value
            return StepVerdict(Answer.BAD, status, verdict.reason, change, pairs)
    for arm, failure in _failures(run) if run else ():
        own = arm == _CANDIDATES and failure.cause != NO_COUNTERPART
        bad = failure_is_bad and own and failure.failure_class not in _NOT_ITS_FAULT
        whose = "engine B" if arm == _CANDIDATES else "engine A, the good end's,"
        reason = f"{whose} failed: {failure_words(failure)}"
        answer = Answer.BAD if bad else Answer.SKIPPED
        return StepVerdict(answer, NOT_MEASURED, reason, change, pairs)
    broken = _broken(run, exit_code, said)
    if broken:
        return StepVerdict(Answer.SKIPPED, NOT_MEASURED, broken, change, pairs)
    statuses = {verdict.status for verdict in verdicts.values()}
    undecided = [verdict for verdict in verdicts.values() if verdict.status.undecided]
    if undecided:
        leading = undecided[0]
        return StepVerdict(Answer.SKIPPED, leading.status.value, leading.reason, change, pairs)
    if Status.PASS not in statuses:
        words = "nothing is gated in the selected cases"
        return StepVerdict(Answer.SKIPPED, Status.UNGATED.value, words, change, pairs)
    if exit_code:
        words = f"every verdict is PASS, and pytest ended with {exit_code}: {said}"
        return StepVerdict(Answer.SKIPPED, NOT_MEASURED, words, change, pairs)
    reason = f"{counted(len(verdicts), 'subject')} judged, none worse than allowed"
    return StepVerdict(Answer.GOOD, Status.PASS.value, reason, change, pairs)


def _last_verdicts(run: Run) -> dict[str, Verdict]:
    """By case, or start of a server, the verdict on all its launches."""
    found: dict[str, Verdict] = {}
    for case in run.cases:  # in the order in which they ended
        if case.verdict is not None:
            found[case.case] = case.verdict
    for start in run.inits:
        if start.verdict is not None:
            found[start.subject] = start.verdict
    return found


def _failures(run: Run) -> Iterator[tuple[str, Failure]]:
    """Those of the good end's engine first: after them nothing can be said of the other one."""
    found = [(one.launch.arm, one.failure) for one in run.inits if one.failure is not None]
    found += [(one.launch.arm, one.failure) for one in run.cases if one.failure is not None]
    yield from sorted(found, key=lambda one: one[0] == _CANDIDATES)


def _broken(run: Run | None, exit_code: int, said: str) -> str:
    """Why a run does not count, empty where it does."""
    if exit_code < 0:
        return f"pytest was ended by signal {-exit_code}"
    if exit_code not in _ENDED_BY_ITSELF:
        return f"pytest ended with {exit_code}: {said}"
    if run is None:
        return f"pytest measured nothing: {said}"
    if run.end is None:
        return "pytest did not end by itself"
    failed = (*run.end.failures, *run.end.ratios)
    if failed:
        return f"{failed[0].test} failed: {failed[0].reason}"
    if run.end.not_run:
        return f"{run.end.not_run[0]} was not measured"
    return ""


def _pairs(run: Run) -> int:
    """Pairs of launches of the case that had the most."""
    seen: dict[tuple[str, str], int] = {}
    for case in run.cases:
        if case.measurement is not None:
            place = case.case, case.launch.arm
            seen[place] = seen.get(place, 0) + 1
    return max(
        (min(count, seen.get((case, "a"), 0)) for (case, _), count in seen.items()), default=0
    )


def _how_bad(one: MetricVerdict) -> tuple[int, float]:
    """Worst status first, then how far it moved towards worse in units of its tolerance."""
    severity = -list(Status).index(one.status)
    if one.change is None or one.metric not in METRICS:
        return severity, float("-inf")
    sign = -1 if METRICS[one.metric].direction == "higher" else 1
    return severity, sign * one.change.estimate / (one.tolerance or 1.0)


def _change(one: MetricVerdict | None) -> str:
    if one is None or one.change is None:
        return ""
    return f"{one.metric} {wording.interval(one.change)}"
