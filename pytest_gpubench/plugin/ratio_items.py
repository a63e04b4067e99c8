"""Ratios as test items: run last where both sides are selected, judged from the records of the run.

Under xdist the sides may be measured by different workers, so that no worker can judge; the
controller does, when all have ended.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import pytest

from pytest_gpubench.plugin.items import RATIO, note_on, parameters_of
from pytest_gpubench.plugin.outcomes import junit_properties, leave, takes_properties
from pytest_gpubench.runs.endings import Failed, Skipped

if TYPE_CHECKING:
    from pytest_gpubench.gate.ratios import RatioPoint
    from pytest_gpubench.model.cases import RecipeBook
    from pytest_gpubench.model.verdicts import Verdict
    from pytest_gpubench.plugin.session import BenchmarkSession


def is_idle(function: object, book: RecipeBook) -> bool:
    """Whether this is our test of ratios, or of accuracy, and the recipes have none: then it is no
    item, and no count is off by one."""
    if getattr(function, "__module__", "") != "pytest_gpubench.suite":
        return False
    has = {"test_ratio": book.ratios, "test_accuracy": book.evaluations}
    return not has.get(getattr(function, "__name__", ""), True)


def take_out(items: list[pytest.Item]) -> list[pytest.Item]:
    """Remove the items of ratios, so that no ``-k`` chooses among them: what counts is whether
    their sides are selected."""
    found = {item: None for item in items if RATIO in getattr(item, "fixturenames", ())}
    if found:
        items[:] = [item for item in items if item not in found]
    # without ratios the function is an item by itself
    return [item for item in found if ratio_of(item)]


def put_back(
    config: pytest.Config, items: list[pytest.Item], ratios: Sequence[pytest.Item]
) -> None:
    """Append the ratios whose two sides are selected; the others are deselected."""
    selected = {
        case.id for item in items if (case := (parameters_of(item) or (None, None))[1]) is not None
    }
    refused = tuple(config.getoption("deselect") or ())
    others = [
        item
        for item in ratios
        if not _both(ratio_of(item), selected) or item.nodeid.startswith(refused)
    ]
    left = set(others)
    items += [item for item in ratios if item not in left]
    if others:
        config.hook.pytest_deselected(items=others)


def ratio_of(item: pytest.Item) -> RatioPoint | None:
    """The ratio of an item; None for another item."""
    callspec = getattr(item, "callspec", None)
    point: RatioPoint | None = callspec.params.get(RATIO) if callspec is not None else None
    return point


def _both(point: RatioPoint | None, selected: Collection[str]) -> bool:
    return point is not None and point.of in selected and point.over in selected


def verdict_on(benchmark: BenchmarkSession, point: RatioPoint) -> Verdict:
    """The verdict from the records that this run has written."""
    from pytest_gpubench.report.merge_runs import attempts_that_count, ratio_verdict
    from pytest_gpubench.report.read_results import load_results

    path = benchmark.folder.path
    found = list(load_results([path]).cases()) if path.is_dir() else []
    sides = {
        case: attempts_that_count([one for one in found if one.case == case])
        for case in (point.of, point.over)
    }
    return ratio_verdict(point, sides)


def judge_item(benchmark: BenchmarkSession, item: pytest.Item, point: RatioPoint) -> Verdict:
    """The verdict on a ratio.

    Raises:
        Ending: where it is not PASS.
    """
    verdict = verdict_on(benchmark, point)
    note_on(item)(_report_fields(benchmark, point, verdict))
    benchmark.gate.enforce(subject_of_ratio(point), verdict)
    return verdict


def judge_left(benchmark: BenchmarkSession, session: pytest.Session) -> None:
    """Judge the ratios that no worker of xdist runs, in a run that was neither interrupted nor
    broken."""
    whole = session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
    if not whole or session.shouldstop or session.shouldfail:
        return
    failed = _judge_from_controller(benchmark, benchmark.ratios_left)
    if failed and session.exitstatus == pytest.ExitCode.OK:  # pytest has counted its failures
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _judge_from_controller(benchmark: BenchmarkSession, nodeids: Iterable[str]) -> bool:
    """Judge these items of ratios and report each as if it had run; whether one failed."""
    hook = benchmark.config.hook
    failed = False
    for nodeid, point in points_among(benchmark, nodeids):
        verdict = verdict_on(benchmark, point)
        outcome: Literal["passed", "failed", "skipped"] = "passed"
        words = ""
        try:
            benchmark.gate.enforce(subject_of_ratio(point), verdict)
        except Failed as error:
            outcome, words, failed = "failed", str(error), True
        except Skipped as error:
            outcome, words = "skipped", str(error)
        path, name = nodeid.split("::")[0], nodeid.partition("::")[2]
        for when in ("setup", "call", "teardown"):
            mine = when == "call"
            report = pytest.TestReport(
                nodeid=nodeid,
                location=(path, None, name),
                keywords={name: 1},
                outcome=outcome if mine else "passed",
                longrepr=_longrepr(outcome, path, words) if mine else None,
                when=when,
                user_properties=junit_properties(verdict)
                if when != "setup" and takes_properties(benchmark.config)
                else [],
            )
            if mine:
                leave(report, _report_fields(benchmark, point, verdict))
            hook.pytest_runtest_logreport(report=report)
    return failed


def points_among(
    benchmark: BenchmarkSession, nodeids: Iterable[str]
) -> list[tuple[str, RatioPoint]]:
    """The items of ratios among these, with their ratios."""
    known = {made.id: made.values[0] for made in benchmark.parameters.of((RATIO,))}
    found = []
    for nodeid in nodeids:
        point = known.get(nodeid.partition("[")[2].removesuffix("]"))
        if point is not None:
            found.append((nodeid, point))
    return found


def subject_of_ratio(point: RatioPoint) -> str:
    """What is judged, beside cases and the starts of servers."""
    return f"ratio {point.label}"


def _report_fields(
    benchmark: BenchmarkSession, point: RatioPoint, verdict: Verdict
) -> dict[str, Any]:
    subject = subject_of_ratio(point)
    fields = benchmark.gate.report_fields(subject, verdict, note=verdict.reason)
    return fields | {"sides": [point.of, point.over]}


def _longrepr(outcome: str, path: str, words: str) -> Any:
    return (path, 0, f"Skipped: {words}") if outcome == "skipped" else words or None
