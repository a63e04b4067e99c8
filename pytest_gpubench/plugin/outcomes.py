"""From verdicts to pytest: reports, statuses, exit code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from pytest_gpubench.domain.cases import RecipeBook
from pytest_gpubench.domain.verdicts import Status, Verdict
from pytest_gpubench.plugin.collection import parameters_of
from pytest_gpubench.plugin.state import ASKED
from pytest_gpubench.report.terminal import Row

EXIT_UNDECIDED = 10
"""Exit code where pytest's own would be 0 although a verdict is INCONCLUSIVE or INVALID."""

RESULT = pytest.StashKey[dict[str, Any]]()
"""What a case leaves on its item, as built-in types: it travels on the test report."""

_KEPT = ("case", "recipe", "point", "verdict", "note", "metrics", "tentative")
_UNDECIDED = {Status.INCONCLUSIVE.value: ("inconclusive", "I", "INCONCLUSIVE"), Status.INVALID.value: ("invalid", "V", "INVALID")}


@dataclass(frozen=True, slots=True)
class Outcome:
    """One of our items, as the run's end needs it."""

    nodeid: str
    outcome: str
    """pytest's: passed, failed, skipped."""
    case: str = ""
    recipe: str = ""
    point: str = ""
    verdict: str = ""
    note: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    tentative: list[str] = field(default_factory=list)

    def row(self) -> Row:
        """The line of the summary table."""
        verdict = self.verdict or ("FAIL" if self.outcome == "failed" else "-")
        return Row(self.recipe, self.point, self.metrics, verdict, self.note, frozenset(self.tentative))


def raise_verdict(verdict: Verdict) -> None:
    """Turn a verdict into pytest's outcome, without a traceback: FAIL fails, INVALID and INCONCLUSIVE are skips with a reason."""
    text = f"{verdict.status.value}: {verdict.reason}" + (f"; {verdict.remedy}" if verdict.remedy else "")
    if verdict.status is Status.FAIL:
        pytest.fail(text, pytrace=False)
    if verdict.status in (Status.INCONCLUSIVE, Status.INVALID):
        pytest.skip(text)


def attach(item: pytest.Item, report: pytest.TestReport) -> None:
    """Put the case's result on the report of the phase that decided it."""
    found = parameters_of(item)
    if found is None or (report.when != "call" and report.passed):
        return
    launch, case = found
    result: dict[str, Any] = item.stash.get(RESULT, {})
    data = {"launch": launch.server if launch else "", **result}
    if case:
        data |= {"case": case.id, "recipe": case.recipe, "point": case.id.removeprefix(case.identity.label + "-")}
    report.gpubench = data  # type: ignore[attr-defined]
    if data.get("verdict"):
        item.user_properties.append(("gpubench_verdict", str(data["verdict"])))
        report.user_properties = list(item.user_properties)


def collect(report: pytest.TestReport, into: list[Outcome]) -> None:
    """Keep what the run's end needs of a report."""
    data = getattr(report, "gpubench", None)
    if data is not None:
        known = {name: data[name] for name in _KEPT if name in data}
        into.append(Outcome(report.nodeid, report.outcome, **known))


def status_of(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """INCONCLUSIVE and INVALID have a category and a letter of their own."""
    data = getattr(report, "gpubench", None)
    if data is None or not report.skipped:
        return None
    return _UNDECIDED.get(data.get("verdict", ""))


def exit_status(session: pytest.Session, outcomes: Sequence[Outcome]) -> int:
    """pytest's exit code, 10 for undecided verdicts, 5 for a run that was nothing but cases and skipped them all."""
    own = int(session.exitstatus)
    if own != pytest.ExitCode.OK or session.config.option.collectonly:
        return own
    if any(outcome.verdict in _UNDECIDED for outcome in outcomes):
        return EXIT_UNDECIDED
    skipped = sum(outcome.outcome == "skipped" for outcome in outcomes)
    only_ours = session.testscollected == len(outcomes)
    return int(pytest.ExitCode.NO_TESTS_COLLECTED) if outcomes and only_ours and skipped == len(outcomes) else own


def announce_selection(config: pytest.Config, book: RecipeBook, selected: tuple[int, int]) -> None:
    """Say how many cases and servers were selected; where none was, which words would select some."""
    cases, servers = selected
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or ASKED not in config.stash:
        return
    reporter.ensure_newline()
    reporter.write_line(f"selected {cases} case{'s' if cases != 1 else ''} on {servers} server{'s' if servers != 1 else ''}")
    if not cases and book.cases and (config.option.keyword or config.option.markexpr):
        asked = f"-k {config.option.keyword!r}" if config.option.keyword else f"-m {config.option.markexpr!r}"
        words = ", ".join(dict.fromkeys(tag for case in book.cases for tag in case.tags))
        files = ", ".join(book.files)
        reporter.write_line(f"{asked} selects none of the {len(book.cases)} cases of {files}; their words are: {words}")
