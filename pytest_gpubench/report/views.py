"""Loaded results as a report shows them: one view per case, its launches side by side. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pytest_gpubench.model.evaluation import ACCURACY
from pytest_gpubench.model.failures import failure_words
from pytest_gpubench.model.frozen import entries
from pytest_gpubench.model.grouping import grouped
from pytest_gpubench.model.metrics import mean_of
from pytest_gpubench.model.printing import counted
from pytest_gpubench.model.verdicts import Status
from pytest_gpubench.model.workload import Workload
from pytest_gpubench.report.merge_runs import INTERRUPTED, Row, attempts_that_count, gave_answer
from pytest_gpubench.report.numbers import finite
from pytest_gpubench.report.results import CaseResult
from pytest_gpubench.report.terminal import speed_words


@dataclass(frozen=True, slots=True)
class CaseView:
    """One case (and arm) with the attempt of each launch that counts."""

    last: CaseResult
    """The one that decides: a launch that failed, else the last."""
    launches: tuple[CaseResult, ...] = field(repr=False)
    metrics: Mapping[str, float]
    """Geometric means over the launches; those that rest on too few requests included."""
    hidden: frozenset[str]
    """Metrics that rest on too few requests."""
    conc: int
    shape: str
    """Lengths: ``1k1k``; ``agentic`` of traces, which have none."""
    load: str
    """``c64``, or ``r2.5`` where requests come at a rate."""

    @property
    def id(self) -> str:
        arm = self.last.launch.arm
        return f"{self.last.case} [{arm}]" if arm else self.last.case

    @property
    def model(self) -> str:
        """What is served: prefix, precision and variant, unless the shape says that."""
        identity = self.last.identity
        variant = "" if identity.variant == self.shape else identity.variant
        return " ".join(word for word in (identity.model, identity.precision, variant) if word)

    @property
    def hardware(self) -> str:
        return self.last.hardware or "?"

    @property
    def topology(self) -> str:
        return self.last.topology.label.upper()

    @property
    def spec(self) -> str:
        return self.last.identity.spec

    @property
    def line(self) -> str:
        """What stays the same along one curve over concurrency: ``TP8 mtp``."""
        arm = f" [{self.last.launch.arm}]" if self.last.launch.arm else ""
        return " ".join(word for word in (self.topology, self.spec) if word) + arm

    @property
    def status(self) -> Status:
        failure = self.last.failure
        interrupted = failure is not None and failure.cause == INTERRUPTED
        return Status.INCONCLUSIVE if interrupted else self.last.status

    @property
    def reason(self) -> str:
        """Why the status is what it is; for a failure its summary with cause and class."""
        failure, verdict = self.last.failure, self.last.verdict
        if failure is not None:
            return failure_words(failure)
        return verdict.reason if verdict is not None else "no verdict was reached"

    @property
    def remedy(self) -> str:
        failure, verdict = self.last.failure, self.last.verdict
        if failure is not None:
            return failure.remedy
        return verdict.remedy if verdict is not None else ""

    @property
    def doubts(self) -> tuple[str, ...]:
        """Reasons why its times do not count, of any launch."""
        found = [
            reason
            for launch in self.launches
            if launch.measurement
            for reason in launch.measurement.invalid
        ]
        return tuple(dict.fromkeys(found))

    @property
    def tags(self) -> str:
        """Words by which the page filters."""
        topology, status = self.topology.lower(), self.status.value.lower()
        return " ".join((self.hardware, topology, self.spec or "plain", self.shape, status))


def case_views(results: Iterable[CaseResult]) -> list[CaseView]:
    """Views of the results, in the order of their cases; of several attempts the merge's counts."""
    groups = grouped(results, lambda result: (result.case, result.launch.arm))
    return [_view(group) for group in groups.values()]


def failed_first(views: Sequence[CaseView]) -> list[CaseView]:
    """What needs a person, worst first: FAIL, INVALID, INCONCLUSIVE."""
    order = [Status.FAIL, Status.INVALID, Status.INCONCLUSIVE]
    return sorted(
        (view for view in views if view.status in order), key=lambda view: order.index(view.status)
    )


def open_rows(rows: Iterable[Row]) -> list[Row]:
    """Rows of a merge that need a person and that no case's record stands for: starts of servers,
    cases that did not run, ratios, tests that are none of ours."""
    return [row for row in rows if not row.status.needs_nobody and not row.results]


def other_counts(rows: Iterable[Row]) -> list[str]:
    """What a headline says beside the verdicts of measured cases, a phrase each."""
    found = open_rows(rows)
    kinds = [row.kind for row in found]
    failed = sum(row.kind == "start" and row.failure is not None for row in found)
    counts = (
        (failed, "server", "did not start"),
        (kinds.count("start") - failed, "start", "did not hold"),
        (kinds.count("case"), "case", "did not run"),
        (kinds.count("ratio"), "ratio", "did not hold"),
        (kinds.count("test"), "other test", "failed"),
    )
    return [f"{counted(number, noun)} {what}" for number, noun, what in counts if number]


def status_counts(views: Iterable[CaseView]) -> dict[Status, int]:
    """How many cases have each status, worst first, zeros left out."""
    found = [view.status for view in views]
    return {status: found.count(status) for status in Status if status in found}


def _view(attempts: Sequence[CaseResult]) -> CaseView:
    group = attempts_that_count(attempts)
    failed = [one for one in group if one.failure is not None]
    last = next(filter(gave_answer, failed), failed[0] if failed else group[-1])
    names = dict.fromkeys(name for result in group for name in result.metrics)
    conc = _size(last.workload.get("conc"))
    isl, osl = (_size(last.workload.get(name), least=0) for name in ("isl", "osl"))
    rate = finite(last.workload.get("request_rate")) or 0.0
    workload = Workload(
        isl, osl, conc, 1, 0, arrival="constant" if rate else "closed", request_rate=rate
    )
    return CaseView(
        last=last,
        launches=tuple(group),
        metrics={
            name: mean_of([one.metrics[name] for one in group if name in one.metrics])
            for name in names
        },
        hidden=frozenset(
            name for one in group if one.measurement for name in one.measurement.hidden
        ),
        conc=conc,
        shape=workload.shape,
        load=str(last.evaluation.get("name") or "")
        or workload.label.removeprefix(f"{workload.shape}-"),
    )


@dataclass(frozen=True, slots=True)
class ServerView:
    """One server (and arm) that was asked questions: its speed beside its accuracy."""

    name: str
    speed: tuple[str, ...]
    """Highest throughput and where, acceptance: a phrase each."""
    accuracy: tuple[str, ...]
    """A phrase for each evaluation."""
    status: Status
    """The worst of its cases."""


def server_views(views: Sequence[CaseView]) -> list[ServerView]:
    """The servers of which some case is an evaluation, in the order of the views."""
    groups = grouped(views, lambda view: (view.last.server, view.last.launch.arm))
    found = []
    for (server, arm), own in groups.items():
        asked = [view for view in own if view.last.evaluation]
        if asked:
            points = [(view.last.case.partition(":")[2], view.metrics) for view in own]
            name = f"{server} [{arm}]" if arm else server
            status = min((view.status for view in own), key=list(Status).index)
            words = tuple(filter(None, map(_accuracy_words, asked)))
            found.append(ServerView(name, tuple(speed_words(points)), words, status))
    return found


def _accuracy_words(view: CaseView) -> str:
    part, share = view.last.evaluation, view.metrics.get(ACCURACY)
    if share is None:
        return ""
    ends = [end for value in entries(part.get("interval")) if (end := finite(value)) is not None]
    between = f" (98% interval {ends[0]:.1%} to {ends[1]:.1%})" if len(ends) > 1 else ""
    return f"{view.load} {share:.1%} right{between}"


def _size(value: object, least: int = 1) -> int:
    number = finite(value)
    return int(number) if number is not None and least <= number <= 1e9 else least
