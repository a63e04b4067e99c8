"""Many runs to one answer: what had to report and did not, which attempt counts, the ratios over all of it, one exit code. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_gpubench.domain.failures import Failure, GpubenchError
from pytest_gpubench.domain.metrics import METRICS
from pytest_gpubench.domain.verdicts import Status, Verdict
from pytest_gpubench.gate.evidence import evidence_of
from pytest_gpubench.gate.ratios import RatioPoint, judge_ratio
from pytest_gpubench.report.loaded import CaseResult, InitResult, Loaded

EXIT_FAILED = 1
EXIT_NOTHING = 5
EXIT_UNDECIDED = 10
INTERRUPTED = "interrupted"
_WORST_FIRST = (Status.FAIL, Status.INVALID, Status.INCONCLUSIVE, Status.PASS, Status.UNGATED)


@dataclass(frozen=True, slots=True)
class Row:
    """One case, or one ratio, over all its launches."""

    name: str
    """Case id, or ``ratio NAME:POINT``."""
    job: str
    """Entry of the matrix; empty without a matrix, and for ratios."""
    status: Status
    reason: str
    results: tuple[CaseResult, ...] = ()
    """The attempt of each launch that counts, in the order in which they ended."""
    notes: tuple[str, ...] = ()
    """Other attempts, one sentence each."""
    failure: Failure | None = None

    @property
    def infrastructure(self) -> bool:
        """Whether it failed for a reason that a machine may try again."""
        return self.failure is not None and self.failure.failure_class == "infrastructure"


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
        """As pytest's: 1 where anything failed, 10 where anything is undecided or absent, 5 where there is nothing, else 0."""
        statuses = {row.status for row in self.rows}
        if Status.FAIL in statuses:
            return EXIT_FAILED
        if statuses & {Status.INCONCLUSIVE, Status.INVALID}:
            return EXIT_UNDECIDED
        return 0 if self.rows else EXIT_NOTHING

    @property
    def retryable(self) -> bool:
        """Whether there are failures and every one of them is of the class infrastructure: no verdict is among them."""
        failed = [row for row in self.rows if row.status is Status.FAIL]
        return bool(failed) and all(row.infrastructure for row in failed)

    def lines(self) -> list[str]:
        """For a terminal: what is not in order, then the counts."""
        lines = [
            f"{row.status.value} {row.name}: {row.reason}" for row in self.rows if row.status not in (Status.PASS, Status.UNGATED)
        ]
        lines += [f"{row.name}: {note}" for row in self.rows for note in row.notes]
        lines += [f"versions disagree: {sentence}" for sentence in self.disagreements]
        lines += [f"in no job: {sentence}" for sentence in self.left_out]
        lines += self.jobs
        counts = [(status, sum(row.status is status for row in self.rows)) for status in _WORST_FIRST]
        return [*lines, "merged: " + (", ".join(f"{count} {status.value}" for status, count in counts if count) or "nothing")]


def read_matrix(path: Path) -> Mapping[str, Any]:
    """The file of ``--gpubench-matrix``, or the manifest of a submission.

    Raises:
        GpubenchError: if it is neither.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise GpubenchError(f"--matrix {path} cannot be read: {getattr(error, 'strerror', None) or 'it is no JSON'}") from None
    if not _is_matrix(document):
        raise GpubenchError(f"--matrix {path} is no matrix: give the file that gpubench matrix or --gpubench-matrix wrote")
    found: Mapping[str, Any] = document
    return found


def _is_matrix(document: object) -> bool:
    if not isinstance(document, dict) or document.get("kind") not in ("matrix", "submission"):
        return False
    launches = document.get("launches", 1)
    lists = {name: document.get(name, []) for name in ("include", "left_out", "ratios", "ended")}
    if "include" not in document or not all(isinstance(found, list) for found in lists.values()):
        return False
    return (
        isinstance(launches, int)
        and launches >= 1
        and all(_names_cases(entry) for entry in lists["include"])
        and all(isinstance(one, dict) and {"what", "reason"} <= one.keys() for one in lists["left_out"])
        and all(_is_ratio(point) for point in lists["ratios"])
    )


def _names_cases(entry: object) -> bool:
    cases = entry.get("cases") if isinstance(entry, dict) else None
    return isinstance(cases, list) and all(isinstance(case, str) for case in cases)


def _is_ratio(point: object) -> bool:
    try:
        found = RatioPoint(**point) if isinstance(point, dict) else None
    except TypeError:
        return False
    if found is None or found.metric not in METRICS:
        return False
    texts = (found.name, found.point, found.of, found.over)
    bounds = (found.at_least, found.at_most)
    return all(isinstance(text, str) for text in texts) and all(isinstance(one, int | float | None) for one in bounds)


def merge(loaded: Loaded, matrix: Mapping[str, Any] | None = None) -> Merged:
    """One row per case that the matrix names or that has a record, then one per ratio of the matrix.

    A case of the matrix without a result is INCONCLUSIVE, unless its server failed to start, which is its failure. Of several
    attempts of one case and launch the newest that gave an answer counts; an attempt that was interrupted or that the
    infrastructure failed gave none. The others are named.

    Args:
        loaded: from ``loading.load_results``.
        matrix: from ``read_matrix``; None: only what has a record can be told.
    """
    jobs = {case: str(entry.get("name", "")) for entry in (matrix or {}).get("include", ()) for case in entry["cases"]}
    attempts: dict[str, list[CaseResult]] = {case: [] for case in jobs}
    for result in loaded.cases():
        attempts.setdefault(result.case, []).append(result)
    starts = _failed_starts(loaded.inits())
    certain = int((matrix or {}).get("launches", 1))
    rows = [_row(case, jobs.get(case, ""), found, starts, certain if matrix else 1) for case, found in attempts.items()]
    chosen = {row.name: row.results for row in rows}
    rows += [_ratio_row(RatioPoint(**point), chosen) for point in (matrix or {}).get("ratios", ())]
    counted = [result for row in rows for result in row.results]
    skipped = tuple(f"{one['what']}: {one['reason']}" for one in (matrix or {}).get("left_out", ()))
    jobs_ended = tuple(str(sentence) for sentence in (matrix or {}).get("ended", ()))
    return Merged(tuple(rows), tuple(_disagreements(counted)), skipped, jobs_ended)


def gave_answer(result: CaseResult) -> bool:
    """Whether an attempt says something about the case: neither interrupted nor failed by the infrastructure."""
    failure = result.failure
    return failure is None or (failure.failure_class != "infrastructure" and failure.cause != INTERRUPTED)


def attempts_that_count(found: Sequence[CaseResult]) -> list[CaseResult]:
    """Of each launch the newest attempt that gave an answer, else the newest, in the order in which they ended."""
    by_launch: dict[str, list[CaseResult]] = {}
    for result in sorted(found, key=lambda one: one.finished):
        by_launch.setdefault(result.launch.label, []).append(result)
    chosen = [next((one for one in reversed(mine) if gave_answer(one)), mine[-1]) for mine in by_launch.values()]
    return sorted(chosen, key=lambda one: one.finished)


def _row(case: str, job: str, found: Sequence[CaseResult], starts: Mapping[str, InitResult], certain: int) -> Row:
    chosen = attempts_that_count(found)
    counts = {one.launch.label: one for one in chosen}
    others = [one for one in sorted(found, key=lambda one: one.finished) if one.finished != counts[one.launch.label].finished]
    notes = [_other(one, counts[one.launch.label]) for one in others]
    start = starts.get(case.rpartition(":")[0])
    status, reason, failure = _judged(chosen, start, certain)
    return Row(case, job, status, reason, tuple(chosen), tuple(notes), failure)


def _judged(chosen: Sequence[CaseResult], start: InitResult | None, certain: int) -> tuple[Status, str, Failure | None]:
    failed = [one for one in chosen if one.failure is not None]
    real = [one for one in failed if gave_answer(one)]
    for one in (*real, *failed):
        failure = one.failure
        if failure is not None and failure.cause != INTERRUPTED:
            return Status.FAIL, f"{failure.summary} [{failure.cause}, {failure.failure_class}]", failure
    measured = [one for one in chosen if one.failure is None]
    if start is not None and start.failure is not None and not measured:
        return Status.FAIL, f"the server did not start: {start.failure.summary} [{start.failure.cause}]", start.failure
    if failed:
        return Status.INCONCLUSIVE, "it was interrupted and not measured again; run it again with --gpubench-reuse", None
    if not measured:
        return Status.INCONCLUSIVE, "it has not reported; see its job, and run it again with --gpubench-reuse", None
    last = measured[-1]
    verdict = last.verdict
    if len(measured) < certain and last.status not in (Status.FAIL, Status.INVALID) and not last.launch.arm:
        return Status.INCONCLUSIVE, f"{len(measured)} of {certain} launches have reported", None
    return last.status, verdict.reason if verdict else "it was measured and not judged", None


def _other(one: CaseResult, counts: CaseResult) -> str:
    what = one.failure.summary if one.failure else one.status.value
    return f"another attempt of {one.launch.label} in run {one.run} does not count ({what}); run {counts.run} does"


def _failed_starts(inits: Iterable[InitResult]) -> dict[str, InitResult]:
    """The last start of each server, where it failed."""
    last: dict[str, InitResult] = {}
    for init in sorted(inits, key=lambda one: one.finished):
        last[init.server] = init
    return {server: init for server, init in last.items() if init.failure is not None}


def ratio_verdict(point: RatioPoint, chosen: Mapping[str, Sequence[CaseResult]]) -> Verdict:
    """The verdict on a ratio from the results that count, by case; of two engines that were compared the recipes' own counts."""
    sides = []
    for case in (point.of, point.over):
        valid = [one for one in chosen.get(case, ()) if one.failure is None and one.status is not Status.INVALID]
        valid = [one for one in valid if one.launch.arm != "b"]
        sides.append([evidence_of(one.launch.label, one.measurement) for one in valid if one.measurement is not None])
    return judge_ratio(point, *sides)


def _ratio_row(point: RatioPoint, chosen: Mapping[str, Sequence[CaseResult]]) -> Row:
    verdict = ratio_verdict(point, chosen)
    return Row(f"ratio {point.label}", "", verdict.status, verdict.reason)


def _disagreements(results: Sequence[CaseResult]) -> Iterable[str]:
    """Two engines of one run (arms), and hardware of different kinds, may differ in engine and driver."""
    for name in ("engine", "plugin", "driver", "commit"):
        groups: dict[tuple[str, str], dict[str, int]] = {}
        for one in results:
            value = getattr(one.versions, name)
            apart = (one.hardware, one.launch.arm) if name in ("engine", "driver") else ("", "")
            if value:
                counts = groups.setdefault(apart, {})
                counts[value] = counts.get(value, 0) + 1
        for (hardware, _), counts in groups.items():
            if len(counts) > 1:
                where = f" on {hardware}" if hardware else ""
                yield f"{name}{where}: " + ", ".join(f"{value} ({count} results)" for value, count in sorted(counts.items()))
