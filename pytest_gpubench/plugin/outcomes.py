"""From verdicts to pytest: reports, statuses, exit code."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from pytest_gpubench.model.cases import RecipeBook
from pytest_gpubench.model.failures import Failure
from pytest_gpubench.model.printing import for_terminal
from pytest_gpubench.model.secrets import Secrets
from pytest_gpubench.model.specs import Launch, init_subject
from pytest_gpubench.model.verdicts import Status
from pytest_gpubench.plugin.items import (
    INIT_GATE,
    RATIO,
    USES_US,
    Chosen,
    mark_values,
    parameters_of,
)
from pytest_gpubench.recipes.selection import nearest
from pytest_gpubench.report.terminal import Row

if TYPE_CHECKING:
    from pytest_gpubench.engines.against import Against


EXIT_UNDECIDED = 10
"""Exit code where pytest's own would be 0 although a verdict is INCONCLUSIVE or INVALID, or a
selected case did not run."""

RESULT = pytest.StashKey[dict[str, Any]]()
"""What a case leaves on its item, as built-in types: it travels on the test report."""

_KEPT = (
    "case",
    "start",
    "recipe",
    "point",
    "verdict",
    "note",
    "metrics",
    "tentative",
    "launch",
    "arm",
    "subject",
    "pending",
    "judged",
    "sides",
    "accepted",
    "repeated",
)
_MEASURED, _SETTLED, _ACCEPTED = (
    ("measured", "m", "MEASURED"),
    ("settled", "t", "SETTLED"),
    ("accepted", "a", "ACCEPTED"),
)
_UNDECIDED = {
    Status.INCONCLUSIVE.value: ("inconclusive", "I", "INCONCLUSIVE"),
    Status.INVALID.value: ("invalid", "V", "INVALID"),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """One of our items, as the run's end needs it."""

    nodeid: str
    outcome: str
    """pytest's: passed, failed, skipped."""
    case: str = ""
    start: str = ""
    """``KEY:init`` where the item is about the start of a server; its case is empty then."""
    recipe: str = ""
    point: str = ""
    verdict: str = ""
    note: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    tentative: list[str] = field(default_factory=list)

    launch: str = ""
    """Of a server, as in the names of records: ``launch-1``, ``b2``."""
    arm: str = ""
    subject: str = ""
    """What was judged: a case, or the start of a server; empty if nothing was."""
    pending: bool = False
    """The verdict is open, and the plan had another launch for it."""
    judged: dict[str, Any] = field(default_factory=dict)
    """The launch and the verdict, as a baseline needs them."""
    sides: list[str] = field(default_factory=list)
    """The two cases of a ratio."""
    accepted: bool = False
    """A regression that is being recorded as the new level."""
    repeated: bool = False
    """Some plugin ran the item again; the run ends with a usage error."""

    @property
    def key(self) -> str:
        """What the item is about: a case, the start of a server, or itself."""
        return self.subject or self.case or self.nodeid


def settle(item: pytest.Item, subject: str, reason: str) -> NoReturn:
    """Skip an item of a reserve launch that nobody needs."""
    item.stash[RESULT] = {"settled": True, "subject": subject}
    pytest.skip(reason)


def refuse(item: pytest.Item, failure: Failure) -> NoReturn:
    """Fail an item whose launch failed before; its record, or that of the start, says why."""
    item.stash[RESULT] = {"refused": True}
    pytest.fail(for_terminal(failure.summary), pytrace=False)


def refuse_repeat(item: pytest.Item, reason: str) -> NoReturn:
    """Fail an item that a plugin runs again, and end the run."""
    item.stash[RESULT] = {"repeated": True, "note": reason}
    item.session.shouldstop = reason
    pytest.fail(for_terminal(reason), pytrace=False)


def as_failure(report: pytest.TestReport) -> Failure:
    """The failure of a case whose test failed for a reason of its own, before it was measured."""
    crash = getattr(report.longrepr, "reprcrash", None)
    words = str(crash.message if crash else report.longrepr).strip().splitlines() or ["no word"]
    return Failure("test-failed", "client", f"its test failed in {report.when}: {words[0]}")


def attach(item: pytest.Item, report: pytest.TestReport, book: RecipeBook) -> None:
    """Put the case's result on the report of the phase that decided it."""
    found = parameters_of(item) or (
        (None, None) if RATIO in getattr(item, "fixturenames", ()) else None
    )
    if found is None or (report.when != "call" and report.passed):
        return
    if not report.passed:
        _hide_secrets(report)
    launch, case = found
    result: dict[str, Any] = item.stash.get(RESULT, {})
    data = {"server": launch.server, "launch": launch.label, "arm": launch.arm} if launch else {}
    properties = result.pop("properties", [])
    data |= result
    if case:
        data |= {
            "case": case.id,
            "recipe": case.recipe,
            "point": case.id.removeprefix(case.identity.label + "-"),
        }
    elif launch and INIT_GATE in getattr(item, "fixturenames", ()):
        data |= _start_of(book, launch)
    report.gpubench = data  # type: ignore[attr-defined]
    if data.get("verdict") and takes_properties(item.config):
        item.user_properties.extend(properties or [("gpubench_verdict", str(data["verdict"]))])
        report.user_properties = list(item.user_properties)


def _start_of(book: RecipeBook, launch: Launch) -> dict[str, Any]:
    """What a report says of the start of a server, as of a case."""
    served = next(case for case in book.cases if case.server == launch.server)
    start = init_subject(launch.server)
    return {
        "start": start,
        "recipe": served.recipe,
        "point": start.removeprefix(served.identity.label + "-"),
    }


def takes_properties(config: pytest.Config) -> bool:
    """Whether verdicts become properties of their tests.

    A JUnit file of the family ``xunit2`` (pytest's default) keeps to the schema of Jenkins' xUnit
    plugin, which refuses a file with properties inside a test case; ``xunit1`` has them.
    """
    return not config.getoption("xmlpath", None) or config.getini("junit_family") in (
        "xunit1",
        "legacy",
    )


def _hide_secrets(report: pytest.TestReport) -> None:
    """Failures quote an engine and its log, fixtures what they were given; the terminal and JUnit
    files show them."""
    secrets = Secrets.of(os.environ)
    if isinstance(report.longrepr, tuple):
        path, line, reason = report.longrepr
        report.longrepr = (path, line, secrets.hide(reason))
    elif report.longrepr is not None:
        shown = str(report.longrepr)
        if isinstance(report.longrepr, str) or secrets.hide(shown) != shown:
            report.longrepr = secrets.hide(shown)
    report.sections = [(name, secrets.hide(text)) for name, text in report.sections]


def collect(report: pytest.TestReport, into: list[Outcome]) -> None:
    """Keep what the run's end needs of a report."""
    data = getattr(report, "gpubench", None)
    if data is not None:
        known = {name: data[name] for name in _KEPT if name in data}
        into.append(Outcome(report.nodeid, report.outcome, **known))


def status_of(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """What pytest has no word for has a category and a letter of its own."""
    data = getattr(report, "gpubench", None)
    if data is None or report.failed:
        return None
    if report.passed and data.get("accepted"):
        return _ACCEPTED
    if report.passed:
        return _MEASURED if data.get("pending") else None
    return _SETTLED if data.get("settled") else _UNDECIDED.get(data.get("verdict", ""))


def last_verdicts(outcomes: Sequence[Outcome]) -> dict[str, Outcome]:
    """By case (or start of a server) the item whose verdict counts: the last one."""
    return {outcome.key: outcome for outcome in outcomes if outcome.verdict}


def is_undecided(verdict: str) -> bool:
    """Whether a verdict leaves the question open."""
    return verdict in _UNDECIDED


def exit_status(
    session: pytest.Session, outcomes: Sequence[Outcome], inconclusive: str = "exit"
) -> int:
    """pytest's exit code; where that is 0: 10 (or what ``inconclusive`` says) for undecided
    verdicts, 5 for a run that was nothing but cases and skipped them all."""
    own = int(session.exitstatus)
    if any(outcome.repeated for outcome in outcomes):
        return int(pytest.ExitCode.USAGE_ERROR)
    if own != pytest.ExitCode.OK or session.config.option.collectonly:
        return own
    if swallowed(outcomes):
        return int(pytest.ExitCode.TESTS_FAILED)
    if inconclusive != "warn" and any(
        outcome.verdict in _UNDECIDED for outcome in last_verdicts(outcomes).values()
    ):
        return EXIT_UNDECIDED if inconclusive == "exit" else int(pytest.ExitCode.TESTS_FAILED)
    undecided = any(outcome.verdict in _UNDECIDED for outcome in outcomes)
    skipped = sum(outcome.outcome == "skipped" for outcome in outcomes)
    only_ours = session.testscollected == len(outcomes) and not undecided
    return (
        int(pytest.ExitCode.NO_TESTS_COLLECTED)
        if outcomes and only_ours and skipped == len(outcomes)
        else own
    )


def swallowed(outcomes: Sequence[Outcome]) -> list[str]:
    """A sentence per verdict FAIL of which pytest knows nothing: the test caught it, or is marked
    xfail."""
    told = [one for one in outcomes if one.verdict == Status.FAIL.value and not one.accepted]
    return [
        f"FAIL {one.key}: {one.note}, although its test {one.outcome}: the verdict counts"
        for one in told
        if one.outcome != "failed"
    ]


def announce_selection(config: pytest.Config, book: RecipeBook, selected: Chosen) -> None:
    """Say how many cases and servers were selected; where none was, which words would select
    some."""
    cases, servers = len(selected.cases), len(selected.servers)
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or USES_US not in config.stash:
        return
    reporter.ensure_newline()
    reporter.write_line(
        f"selected {cases} case{'s' if cases != 1 else ''} on {servers} "
        f"server{'s' if servers != 1 else ''}"
    )
    if not cases and book.cases and (config.option.keyword or config.option.markexpr):
        asked = (
            f"-k {config.option.keyword!r}"
            if config.option.keyword
            else f"-m {config.option.markexpr!r}"
        )
        words = ", ".join(dict.fromkeys(tag for case in book.cases for tag in case.tags))
        files = ", ".join(book.files)
        reporter.write_line(
            f"{asked} selects none of the {len(book.cases)} cases of {files}; their "
            f"words are: {words}"
        )
        tags = {tag for case in book.cases for tag in case.tags}
        for expression in filter(None, (config.option.keyword, config.option.markexpr)):
            for hint in nearest(expression, tags, mark_values(book.cases)):
                reporter.write_line(hint)


def rows(outcomes: Sequence[Outcome], places: Mapping[str, tuple[int, float]]) -> list[Row]:
    """A line per start of a server and per measured case (and arm, where two engines are compared),
    in the order of ``places``.

    Metrics are geometric means over the launches; the last verdict counts.
    """
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        if (outcome.case and outcome.metrics) or outcome.start:
            groups.setdefault((outcome.start or outcome.case, outcome.arm), []).append(outcome)
    ordered = sorted(groups, key=lambda group: (places[group[0]], group[1]))
    return [_row(groups[group]) for group in ordered]


def _row(launches: Sequence[Outcome]) -> Row:
    last = launches[-1]
    point = f"{last.point} ({last.arm})" if last.arm else last.point
    told = [launch.verdict for launch in launches if launch.verdict]
    verdict = "FAIL" if last.outcome == "failed" and not told else next(reversed(told), "-")
    tentative = frozenset(name for launch in launches for name in launch.tentative)
    names = dict.fromkeys(name for launch in launches for name in launch.metrics)
    metrics = {
        name: _mean([launch.metrics[name] for launch in launches if name in launch.metrics])
        for name in names
    }
    return Row(last.recipe, point, metrics, verdict, last.note, tentative)


def against_lines(against: Against | None, outcomes: Sequence[Outcome]) -> list[str]:
    """What the two engines of a comparison are; nothing where there is one engine or nothing was
    measured."""
    if against is None or not any(outcome.arm == "b" and outcome.metrics for outcome in outcomes):
        return []
    return [
        "",
        f"(a) is the engine of the recipes, (b) the one of --gpubench-against: {against.text}",
    ]


def ratio_lines(outcomes: Sequence[Outcome]) -> list[str]:
    """A line per ratio that was judged."""
    judged = [outcome for outcome in outcomes if outcome.sides and outcome.verdict]
    lines = [
        for_terminal(f"{outcome.verdict}: {outcome.subject}: {outcome.note}") for outcome in judged
    ]
    return ["", *lines] if lines else []


def _mean(values: Sequence[float]) -> float:
    return statistics.geometric_mean(values) if min(values) > 0 else statistics.fmean(values)
