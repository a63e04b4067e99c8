"""Many runs to one answer: what had to report and did not, which attempt counts, the ratios over
all of it, one exit code. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias, TypeVar

from pytest_gpubench.gate.evidence import LaunchEvidence, evidence_of
from pytest_gpubench.gate.ratios import RatioPoint, judge_ratio
from pytest_gpubench.gate.waivers import Told, told_of
from pytest_gpubench.model.failures import Failure, failure_words
from pytest_gpubench.model.grouping import grouped
from pytest_gpubench.model.printing import for_terminal
from pytest_gpubench.model.verdicts import Status, Verdict
from pytest_gpubench.report.results import (
    CaseResult,
    InitResult,
    Loaded,
    Result,
    Run,
    RunEnd,
    Versions,
)

EXIT_FAILED = 1
EXIT_NOTHING = 5
EXIT_UNDECIDED = 10
INTERRUPTED = "interrupted"
_UNDECIDED = (2, EXIT_NOTHING, EXIT_UNDECIDED)
"""Exit codes of pytest after which what is missing is INCONCLUSIVE."""
_WHOLE = (0, EXIT_FAILED, EXIT_NOTHING, EXIT_UNDECIDED)
"""Exit codes of a run that came to its end."""
Attempt = TypeVar("Attempt", bound=Result)
RowKind: TypeAlias = Literal["case", "start", "ratio", "test"]
"""What a row is about; ``test``: a test that is none of ours, or a run as a whole."""


@dataclass(frozen=True, slots=True)
class Row:
    """What was judged over all its launches: a case, the start of a server, a ratio; or a test or
    run that failed otherwise."""

    name: str
    """Case id, ``KEY:init``, ``ratio NAME:POINT``, a node id, or ``run NAME``."""
    job: str
    """Entry of the matrix; empty without a matrix, and for all but cases."""
    kind: RowKind
    status: Status
    reason: str
    results: tuple[CaseResult, ...] = ()
    """The attempt of each launch that counts, in the order in which they ended."""
    notes: tuple[str, ...] = ()
    """Other attempts, one sentence each."""
    failure: Failure | None = None
    starts: tuple[InitResult, ...] = ()
    """Of the start of a server: the attempt of each launch that counts."""


@dataclass(frozen=True, slots=True)
class Merged:
    """The answer over all runs."""

    rows: tuple[Row, ...]
    disagreements: tuple[str, ...]
    """Versions that differ between results, one sentence each."""
    left_out: tuple[str, ...]
    """Of the matrix: what no job was to run, one sentence each."""
    jobs: tuple[str, ...] = ()
    """Of a submission: jobs that were killed, cancelled or begun anew, one sentence each."""

    @property
    def exit_code(self) -> int:
        """As pytest's: 1 where anything failed, 10 where anything is undecided or absent, 5 where
        there is nothing, else 0."""
        statuses = {row.status for row in self.rows}
        if Status.FAIL in statuses:
            return EXIT_FAILED
        if statuses & {Status.INCONCLUSIVE, Status.INVALID}:
            return EXIT_UNDECIDED
        return 0 if self.rows else EXIT_NOTHING

    @property
    def waivers(self) -> tuple[Told, ...]:
        """What waivers of known bugs did to the verdicts on cases and starts."""
        found = [(row.name, (row.results or row.starts)[-1:]) for row in self.rows]
        verdicts = [(name, one.verdict) for name, last in found for one in last]
        return told_of([(name, verdict) for name, verdict in verdicts if verdict is not None])

    def lines(self) -> list[str]:
        """For a terminal: what is not in order, then the counts."""
        lines = [
            f"{row.status.value} {row.name}: {row.reason}"
            for row in self.rows
            if row.status not in (Status.PASS, Status.UNGATED)
        ]
        lines += [told.words for told in self.waivers if told.state != "holds"]
        lines += [f"{row.name}: {note}" for row in self.rows for note in row.notes]
        lines += [f"versions disagree: {sentence}" for sentence in self.disagreements]
        lines += [f"in no job: {sentence}" for sentence in self.left_out]
        lines += self.jobs
        counts = Counter(row.status for row in self.rows)
        words = [f"{counts[status]} {status.value}" for status in Status if counts[status]]
        return [*map(for_terminal, lines), f"merged: {', '.join(words) or 'nothing'}"]


def merge(loaded: Loaded, matrix: Mapping[str, Any] | None = None) -> Merged:
    """One row per case that the matrix names, that has a record or that a run was to measure; one
    per start of a server, per ratio, and per test that failed and that no record stands for.

    A case without a result is INCONCLUSIVE, unless its server failed to start, which is its
    failure. Of several attempts of one case (or start) and launch the newest that gave an answer
    counts; an attempt that was interrupted or that the infrastructure failed gave none. The others
    are named.

    Args:
        matrix: from ``read_matrix``; None: only what the folders hold can be told.
    """
    given = matrix or {}
    entries = given.get("include", ())
    jobs = {case: str(entry.get("name", "")) for entry in entries for case in entry["cases"]}
    ends, notes = ends_that_count(loaded.runs)
    attempts: dict[str, list[CaseResult]] = {case: [] for case in jobs}
    attempts |= {case: [] for run in ends for case in run.not_run if case not in jobs}
    for result in loaded.cases():
        attempts.setdefault(result.case, []).append(result)
    starts = _start_rows(loaded.inits())
    failed = {row.starts[-1].server: row.starts[-1] for row in starts if row.starts[-1].failure}
    certain = int(given.get("launches", 1))
    rows = [
        _row(case, jobs.get(case, ""), found, failed, certain) for case, found in attempts.items()
    ]
    chosen = {row.name: row.results for row in rows}
    rows += starts
    judged = [_ratio_row(RatioPoint(**point), chosen) for point in given.get("ratios", ())]
    rows += [*judged, *_other_failures(loaded.runs, ends, {row.name for row in judged})]
    if matrix is not None:  # without one a run may ask, whose own end is still to come
        unfinished, begun_anew = _unfinished(loaded.runs)
        rows += unfinished
        notes += begun_anew
    return Merged(
        tuple(rows),
        tuple(_disagreements([result for row in rows for result in row.results])),
        tuple(f"{one['what']}: {one['reason']}" for one in given.get("left_out", ())),
        (*(str(sentence) for sentence in given.get("ended", ())), *notes),
    )


def ends_that_count(runs: Iterable[Run]) -> tuple[list[RunEnd], list[str]]:
    """How runs ended, of several runs of one selection the last that came to its end; and a
    sentence for each that failed and does not count."""
    last: dict[tuple[str, ...], Run] = {}
    ended = [run for run in runs if run.end is not None]
    for run in sorted(ended, key=_finished):
        if run.end and (run.end.exit in _WHOLE or run.end.selection not in last):
            last[run.end.selection] = run
    notes = []
    for run in ended:
        counts = last[run.end.selection] if run.end else run
        if run.end and counts is not run and (run.end.failures or run.end.exit not in _WHOLE):
            notes.append(
                f"run {run.name} ended with exit code {run.end.exit} and was begun "
                f"anew: run {counts.name} counts"
            )
    return [run.end for run in last.values() if run.end], notes


def _unfinished(runs: Sequence[Run]) -> tuple[list[Row], list[str]]:
    """A row for each run that was killed, or still goes on: what else it was to run, and what of
    that failed, is on no record. A sentence instead where a later run came to its end over all it
    had."""
    rows, notes = [], []
    for run in runs:
        done = _done(run)
        if run.end is not None or not done:
            continue
        last = max(done.values())
        anew = (
            later.name
            for later in runs
            if later.end
            and later.end.exit in _WHOLE
            and _finished(later) > last
            and done.keys() <= _done(later).keys()
        )
        other = next(anew, "")
        if other:
            notes.append(
                f"run {run.name} did not come to its end and was begun anew: run {other} counts"
            )
            continue
        reason = "it did not come to its end: what else it was to run did not report; run it again"
        rows.append(Row(f"run {run.name}", "", "test", Status.INCONCLUSIVE, reason))
    return rows, notes


def _done(run: Run) -> dict[tuple[str, str], float]:
    """Case or start, and launch, of each record, and when it ended."""
    results = (*run.cases, *run.inits)
    return {(one.subject, one.launch.label): one.finished.timestamp() for one in results}


def _finished(run: Run) -> float:
    return run.end.finished.timestamp() if run.end and run.end.finished else 0.0


def _other_failures(
    runs: Iterable[Run], ends: Sequence[RunEnd], judged: Collection[str]
) -> list[Row]:
    """What failed in pytest and is no case, no start and no ratio that is judged here."""
    rows: dict[str, Row] = {}
    for run in runs:
        end = run.end
        if end is None or end not in ends:
            continue
        told = [*end.failures, *(ratio for ratio in end.ratios if ratio.test not in judged)]
        for one in told:
            rows.setdefault(one.test, Row(one.test, "", "test", Status.FAIL, one.reason))
        failed = any(one.status is Status.FAIL for one in (*run.cases, *run.inits))
        says_why = bool(told or end.ratios or failed)
        if end.exit not in (0, *_UNDECIDED) and not (end.exit == EXIT_FAILED and says_why):
            words = "see what it printed; nothing in its records says why"
            name = f"run {run.name}"
            rows[name] = Row(
                name, "", "test", Status.FAIL, f"pytest ended with exit code {end.exit}: {words}"
            )
    return list(rows.values())


def gave_answer(result: Result) -> bool:
    """Whether an attempt says something: neither interrupted nor failed by the infrastructure."""
    failure = result.failure
    return failure is None or (
        failure.failure_class != "infrastructure" and failure.cause != INTERRUPTED
    )


def attempts_that_count(found: Sequence[Attempt]) -> list[Attempt]:
    """Of each launch the newest attempt that gave an answer, else the newest, as they ended."""
    ordered = sorted(found, key=lambda one: one.finished)
    by_launch = grouped(ordered, lambda one: one.launch.label)
    chosen = [next(filter(gave_answer, reversed(mine)), mine[-1]) for mine in by_launch.values()]
    return sorted(chosen, key=lambda one: one.finished)


def _row(
    case: str, job: str, found: Sequence[CaseResult], failed: Mapping[str, InitResult], certain: int
) -> Row:
    chosen = attempts_that_count(found)
    start = failed.get(case.rpartition(":")[0])
    status, reason, failure = _judged(chosen, start, certain)
    return Row(case, job, "case", status, reason, tuple(chosen), _others(found, chosen), failure)


def _start_rows(inits: Iterable[InitResult]) -> list[Row]:
    # engine B is not the recipes' own
    attempts = grouped(inits, lambda one: one.subject + (" [b]" if one.launch.arm == "b" else ""))
    return [_start_row(subject, found) for subject, found in attempts.items()]


def _start_row(subject: str, found: Sequence[InitResult]) -> Row:
    chosen = attempts_that_count(found)
    failed = [one for one in chosen if one.failure is not None]
    notes, starts = _others(found, chosen), tuple(chosen)
    for one in sorted(failed, key=gave_answer, reverse=True):
        failure = one.failure
        if failure is not None and failure.cause != INTERRUPTED:
            reason = f"it did not start: {failure_words(failure)}"
            return Row(subject, "", "start", Status.FAIL, reason, (), notes, failure, starts)
    if failed:
        reason = "its start was interrupted; run it again"
        return Row(subject, "", "start", Status.INCONCLUSIVE, reason, (), notes, None, starts)
    last = chosen[-1]
    reason = last.verdict.reason if last.verdict else "it started, and nothing judged how"
    return Row(subject, "", "start", last.status, reason, (), notes, None, starts)


def _judged(
    chosen: Sequence[CaseResult], start: InitResult | None, certain: int
) -> tuple[Status, str, Failure | None]:
    failed = [one for one in chosen if one.failure is not None]
    real = [one for one in failed if gave_answer(one)]
    for one in (*real, *failed):
        failure = one.failure
        if failure is not None and failure.cause != INTERRUPTED:
            return Status.FAIL, failure_words(failure), failure
    measured = [one for one in chosen if one.failure is None]
    if start is not None and start.failure is not None and not measured:
        why = f"{start.failure.summary} [{start.failure.cause}]"
        return Status.FAIL, f"the server did not start: {why}", start.failure
    if failed:
        words = "it was interrupted and not measured again; run it again with --gpubench-reuse"
        return Status.INCONCLUSIVE, words, None
    if not measured:
        words = "it has not reported; see its job, and run it again with --gpubench-reuse"
        return Status.INCONCLUSIVE, words, None
    last = measured[-1]
    verdict = last.verdict
    if last.evaluation:  # asked once, whatever the number of launches
        certain = 1
    if (
        len(measured) < certain
        and last.status not in (Status.FAIL, Status.INVALID)
        and not last.launch.arm
    ):
        return Status.INCONCLUSIVE, f"{len(measured)} of {certain} launches have reported", None
    return last.status, verdict.reason if verdict else "it was measured and not judged", None


def _others(found: Sequence[Attempt], chosen: Sequence[Attempt]) -> tuple[str, ...]:
    """A sentence for each attempt that does not count."""
    counts = {one.launch.label: one for one in chosen}
    others = sorted(found, key=lambda one: one.finished)
    return tuple(
        f"another attempt of {one.launch.label} in run {one.run} does not count "
        f"({one.failure.summary if one.failure else one.status.value}); "
        f"run {counts[one.launch.label].run} does"
        for one in others
        if one.finished != counts[one.launch.label].finished
    )


def ratio_verdict(point: RatioPoint, chosen: Mapping[str, Sequence[CaseResult]]) -> Verdict:
    """The verdict on a ratio from the results that count, by case; of two engines that were
    compared the recipes' own counts."""

    def evidence(case: str) -> list[LaunchEvidence]:
        return [
            evidence_of(one.launch.label, one.measurement)
            for one in chosen.get(case, ())
            if one.failure is None and one.status is not Status.INVALID
            if one.launch.arm != "b" and one.measurement is not None
        ]

    return judge_ratio(point, evidence(point.of), evidence(point.over))


def _ratio_row(point: RatioPoint, chosen: Mapping[str, Sequence[CaseResult]]) -> Row:
    verdict = ratio_verdict(point, chosen)
    return Row(f"ratio {point.label}", "", "ratio", verdict.status, verdict.reason)


def _disagreements(results: Sequence[CaseResult]) -> Iterable[str]:
    """Arms of one run, and hardware of different kinds, may differ in engine and driver."""
    for name in (item.name for item in fields(Versions)):
        groups: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        for one in results:
            apart = (one.hardware, one.launch.arm) if name in ("engine", "driver") else ("", "")
            groups[apart].update(filter(None, [getattr(one.versions, name)]))
        for (hardware, _), counts in groups.items():
            if len(counts) > 1:
                where = f" on {hardware}" if hardware else ""
                yield f"{name}{where}: " + ", ".join(
                    f"{value} ({count} results)" for value, count in sorted(counts.items())
                )
