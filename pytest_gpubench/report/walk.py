"""The walk of ``gpubench bisect``: what a step says, the file, and what a person reads."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pytest_gpubench.gate import wording
from pytest_gpubench.gate.baseline_key import NO_COUNTERPART
from pytest_gpubench.gate.bisection import Answer, Bisection
from pytest_gpubench.model.failures import Failure, GpubenchError, failure_words
from pytest_gpubench.model.metrics import METRICS
from pytest_gpubench.model.printing import counted, for_terminal
from pytest_gpubench.model.verdicts import MetricVerdict, Status, Verdict
from pytest_gpubench.report import numbers
from pytest_gpubench.report.markdown import plain
from pytest_gpubench.report.results import Run

WALK_FILE = "walk.json"
PAGE_FILE = "walk.md"
KIND = "walk"
_MORE_EVIDENCE_HELPS = (Status.INCONCLUSIVE.value, Status.INVALID.value)
GOOD_END = -1
"""Place of the good end."""
_COLUMNS = ("step", "candidate", "answer", "verdict", "change", "pairs", "time", "run")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One of the row: a commit, or an engine."""

    name: str
    """Hash of the commit, or the engine's words."""
    title: str = ""
    """The commit's subject."""

    @property
    def shown(self) -> str:
        """As a person reads it."""
        name = self.name[:12] if len(self.name) == 40 and self.title else self.name
        return f"{name} {self.title}".strip()


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Step(StepVerdict):
    """One candidate that was asked."""

    place: int
    """In the row."""
    seconds: float
    """Wall time."""
    run: str
    """Folder of its run, relative to that of the walk."""
    base: int = GOOD_END
    """Place of what it was compared with."""


@dataclass(frozen=True, slots=True)
class Walk:
    """What is asked, and the steps so far."""

    good: Candidate
    candidates: tuple[Candidate, ...]
    """Oldest first; the last one is the bad end."""
    launches: str
    """As ``--gpubench-launches``: blocks of a step."""
    metrics: tuple[str, ...] = ()
    """Those that decide; empty: every metric that the recipes gate."""
    failure_is_bad: bool = False
    confirm: bool = True
    """Whether the first bad candidate is compared with the one before it."""
    arguments: tuple[str, ...] = ()
    """Of pytest."""
    steps: tuple[Step, ...] = ()

    @property
    def state(self) -> Bisection:
        """What the steps say together."""
        answers = {step.place: step.answer for step in self.steps if step.base == GOOD_END}
        state = Bisection(len(self.candidates), answers)
        alone = self.alone
        return replace(state, alone=alone.answer) if alone else state

    @property
    def alone(self) -> Step | None:
        """The step that compared the first bad candidate with the one before it."""
        return next((step for step in self.steps if step.base != GOOD_END), None)

    @property
    def next(self) -> tuple[int, int] | None:
        """Places to be compared now, what is before and the candidate; None: the walk is over."""
        state = self.state
        if state.next is not None:
            return GOOD_END, state.next
        if self.confirm and state.unconfirmed is not None:
            return state.unconfirmed - 1, state.unconfirmed
        return None

    @property
    def is_decided(self) -> bool:
        """Whether the first bad candidate is known, for certain where that is asked for."""
        state = self.state
        return state.found is not None and (state.confirmed or not self.confirm)

    def conclusion(self) -> str:
        """What the walk has found, in a sentence or a few lines."""
        state = self.state
        bad_end = self.candidates[-1].shown
        if state.end is None:
            return "nothing is known yet"
        last = next(step for step in self.steps if step.place == len(self.candidates) - 1)
        if state.end is Answer.GOOD:
            return (
                f"there is nothing to find: {bad_end} is not worse than {self.good.shown} "
                f"({last.change or last.reason})"
            )
        if state.end is Answer.SKIPPED:
            words = (
                f"the walk cannot begin: {bad_end} could not be told from {self.good.shown}: "
                f"{last.verdict}, {last.reason}"
            )
            if last.verdict not in _MORE_EVIDENCE_HELPS:
                return words
            return f"{words}; give it more evidence with --launches, or one metric with --metric"
        if state.found is not None:
            return self._found(state.found)
        if state.next is not None:
            return f"{counted(len(state.suspects), 'candidate')} left"
        names = [f"  {self.candidates[place].shown}" for place in state.suspects]
        return "\n".join(
            [
                f"the first bad one is one of {len(names)}; what is before the last could not be "
                "told:",
                *names,
            ]
        )

    def _found(self, place: int) -> str:
        found, alone = self.candidates[place], self.alone
        step = next(step for step in self.steps if (step.base, step.place) == (GOOD_END, place))
        first = f"the first bad one is {found.shown} ({step.change or step.reason})"
        if alone is None:
            return first
        before = self.candidates[place - 1].shown
        if alone.answer is Answer.BAD:
            return f"{first}; against {before}, right before it: {alone.change or alone.reason}"
        what = "is not worse than" if alone.answer is Answer.GOOD else "could not be told from"
        return (
            f"undecided: {found.shown} is the first that is worse than {self.good.shown} "
            f"({step.change or step.reason}), and it {what} {before}, right before it "
            f"({alone.change or alone.reason}): the loss may be the sum of smaller ones; compare "
            "the changes of the table"
        )

    def told(self, step: Step) -> Walk:
        """The walk with one more step."""
        return replace(self, steps=(*self.steps, step))


def document(walk: Walk) -> dict[str, Any]:
    """The walk as JSON data."""
    found: dict[str, Any] = TypeAdapter(Walk).dump_python(walk, mode="json")
    return {"kind": KIND, "schema": 1, **found, "conclusion": walk.conclusion()}


def read_walk(path: Path) -> Walk:
    """The walk of a file.

    Raises:
        GpubenchError: if it is none.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict) or data.get("kind") != KIND:
            raise GpubenchError(f"{path} is no walk of gpubench bisect; begin another folder")
        names = Walk.__dataclass_fields__
        walk = TypeAdapter(Walk).validate_python(
            {name: data[name] for name in names if name in data}
        )
    except (OSError, ValueError, RecursionError) as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise GpubenchError(f"{path} cannot be read ({why}); begin another folder") from None
    if any(not GOOD_END <= step.base < step.place < len(walk.candidates) for step in walk.steps):
        raise GpubenchError(f"{path} has a step of no candidate; begin another folder")
    return walk


def step_line(walk: Walk, step: Step) -> str:
    """A step as a line for the terminal, now."""
    name = walk.candidates[step.place].shown
    what = step.change or step.reason
    if step.answer is Answer.SKIPPED:
        what = step.reason
    return for_terminal(
        f"{name}: {step.answer.value} ({step.verdict}, {what}; "
        f"{counted(step.pairs, 'pair')}, {numbers.seconds(step.seconds)})"
    )


def table(walk: Walk) -> list[str]:
    """The steps in the order of the candidates, for the terminal."""
    rows = [_COLUMNS, *_rows(walk)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return [for_terminal(line.rstrip()) for line in lines]


def page(walk: Walk) -> str:
    """The walk as Markdown."""
    lines = [
        "# Which change was it",
        "",
        *(f"{plain(line)}  " for line in walk.conclusion().splitlines()),
        "",
        f"Each candidate against {plain(walk.good.shown)}, in pairs A B B A; "
        f"`--gpubench-launches={walk.launches}`; "
        + (f"gated: {', '.join(walk.metrics)}" if walk.metrics else "gated: as the recipes say")
        + f"; pytest {plain(shlex.join(walk.arguments)) or '(no arguments)'}",
        "",
        _row(_COLUMNS),
        _row(["---"] * len(_COLUMNS)),
        *(_row([plain(cell) for cell in row]) for row in _rows(walk)),
        "",
    ]
    skipped = [step for step in walk.steps if step.answer is Answer.SKIPPED]
    if skipped:
        lines += ["Skipped:", ""]
        lines += [
            f"- {plain(walk.candidates[step.place].shown)}: {plain(step.reason)}"
            for step in skipped
        ]
        lines.append("")
    return "\n".join(lines)


def _rows(walk: Walk) -> list[tuple[str, ...]]:
    order = {
        step.place: number
        for number, step in enumerate(walk.steps, start=1)
        if step.base == GOOD_END
    }
    by_place = {step.place: step for step in walk.steps if step.base == GOOD_END}
    found = walk.state.found
    rows: list[tuple[str, ...]] = [("", f"{walk.good.shown}", "the good end", *[""] * 5)]
    for place, candidate in enumerate(walk.candidates):
        step = by_place.get(place)
        if step is None:
            rows.append(("", candidate.shown, "not asked", *[""] * 5))
            continue
        answer = f"{step.answer.value}, the first" if place == found else step.answer.value
        rows.append((str(order[place]), candidate.shown, answer, *_facts(step)))
    if walk.alone is not None:
        place = walk.alone.place
        against = f"{walk.candidates[place].shown}, against {walk.candidates[place - 1].shown}"
        answer = walk.alone.answer.value
        rows.append((str(len(walk.steps)), against, answer, *_facts(walk.alone)))
    return rows


def _facts(step: Step) -> tuple[str, ...]:
    time = numbers.seconds(step.seconds)
    return step.verdict, step.change, str(step.pairs), time, step.run


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


NOT_MEASURED = "not measured"
_ENDED_BY_ITSELF = (0, 1, 10)
"""Exit codes of pytest after which verdicts are whole: passed, failed, undecided."""
_CANDIDATES = "b"
_NOT_ITS_FAULT = ("infrastructure", "client")


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

    def told(answer: Answer, verdict: str, reason: str) -> StepVerdict:
        return StepVerdict(answer, verdict, reason, change, pairs)

    for verdict in verdicts.values():
        if Answer.of(verdict.status) is Answer.BAD:
            return told(Answer.BAD, verdict.status.value, verdict.reason)
    for arm, failure in _failures(run) if run else ():
        own = arm == _CANDIDATES and failure.cause != NO_COUNTERPART
        bad = failure_is_bad and own and failure.failure_class not in _NOT_ITS_FAULT
        whose = "engine B" if arm == _CANDIDATES else "engine A, the good end's,"
        reason = f"{whose} failed: {failure_words(failure)}"
        return told(Answer.BAD if bad else Answer.SKIPPED, NOT_MEASURED, reason)
    broken = _broken(run, exit_code, said)
    if broken:
        return told(Answer.SKIPPED, NOT_MEASURED, broken)
    undecided = next((one for one in verdicts.values() if one.status.undecided), None)
    if undecided is not None:
        return told(Answer.SKIPPED, undecided.status.value, undecided.reason)
    if not any(verdict.status is Status.PASS for verdict in verdicts.values()):
        words = "nothing is gated in the selected cases"
        return told(Answer.SKIPPED, Status.UNGATED.value, words)
    if exit_code:
        words = f"every verdict is PASS, and pytest ended with {exit_code}: {said}"
        return told(Answer.SKIPPED, NOT_MEASURED, words)
    reason = f"{counted(len(verdicts), 'subject')} judged, none worse than allowed"
    return told(Answer.GOOD, Status.PASS.value, reason)


def _last_verdicts(run: Run) -> dict[str, Verdict]:
    """By case, or start of a server, the verdict on all its launches."""
    results = (*run.cases, *run.inits)  # in the order in which they ended
    return {one.subject: one.verdict for one in results if one.verdict is not None}


def _failures(run: Run) -> Iterator[tuple[str, Failure]]:
    """Those of the good end's engine first: after them nothing can be said of the other one."""
    results = (*run.inits, *run.cases)
    found = [(one.launch.arm, one.failure) for one in results if one.failure is not None]
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
