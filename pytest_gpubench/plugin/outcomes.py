"""From verdicts to pytest: reports, statuses, exit code."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from pytest_gpubench.model.cases import RecipeBook
from pytest_gpubench.model.failures import Failure
from pytest_gpubench.model.metrics import mean_of
from pytest_gpubench.model.printing import for_terminal
from pytest_gpubench.model.secrets import Secrets
from pytest_gpubench.model.specs import Launch, init_subject
from pytest_gpubench.model.verdicts import Status, Verdict
from pytest_gpubench.plugin.items import (
    EVALUATION,
    INIT_GATE,
    RATIO,
    RESULT,
    USES_US,
    Chosen,
    mark_values,
    parameters_of,
)
from pytest_gpubench.recipes.selection import nearest
from pytest_gpubench.report.records import as_utf8, plain
from pytest_gpubench.report.terminal import Row

if TYPE_CHECKING:
    from pytest_gpubench.engines.against import Against


EXIT_UNDECIDED = 10
"""Exit code where pytest's own would be 0 although a verdict is INCONCLUSIVE or INVALID, or a
selected case did not run."""

_MEASURED, _SETTLED, _ACCEPTED = (
    ("measured", "m", "MEASURED"),
    ("settled", "t", "SETTLED"),
    ("accepted", "a", "ACCEPTED"),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One of our items, as the run's end needs it; it travels on the test report as plain data."""

    nodeid: str
    outcome: str
    """pytest's: passed, failed, skipped."""
    case: str = ""
    start: str = ""
    """``KEY:init`` where the item is about the start of a server; its case is empty then."""
    recipe: str = ""
    point: str = ""
    verdict: Verdict | None = None
    """None where nothing was judged and nothing failed that a record stands for."""
    note: str = ""
    """What there is to say beside the verdict."""
    metrics: dict[str, float] = field(default_factory=dict)
    tentative: list[str] = field(default_factory=list)

    server: str = ""
    launch: str = ""
    """Of a server, as in the names of records: ``launch-1``, ``b2``."""
    arm: str = ""
    subject: str = ""
    """What was judged: a case, the start of a server, or a ratio; empty if nothing was."""
    sides: list[str] = field(default_factory=list)
    """The two cases of a ratio."""
    accepted: bool = False
    """A regression that is being recorded as the new level."""
    settled: bool = False
    """A reserve launch that nobody needed."""
    refused: bool = False
    """Not tried: its launch failed before."""
    repeated: bool = False
    """Some plugin ran the item again; the run ends with a usage error."""

    @classmethod
    def of(cls, report: pytest.TestReport) -> Outcome | None:
        """What one of our items left on its report; None on any other."""
        data = getattr(report, "gpubench", None)
        if data is None:
            return None
        verdict = data.get("verdict") and Verdict.from_json(data["verdict"])
        return cls(report.nodeid, report.outcome, **{**data, "verdict": verdict})

    @property
    def key(self) -> str:
        """What the item is about: a case, the start of a server, or itself."""
        return self.subject or self.case or self.nodeid

    @property
    def status(self) -> Status | None:
        """Of the verdict."""
        return self.verdict.status if self.verdict else None

    @property
    def undecided(self) -> bool:
        """Whether the verdict leaves the question open."""
        return self.verdict is not None and self.verdict.status.undecided

    @property
    def line(self) -> str:
        """What a table says beside the status."""
        return (self.verdict.line if self.verdict else "") or self.note


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
    data = dict(result)
    if launch:
        data |= {"server": launch.server, "launch": launch.label, "arm": launch.arm}
    if case:
        data |= {
            "case": case.id,
            "recipe": case.recipe,
            "point": case.id.removeprefix(case.identity.label + "-"),
        }
    elif launch and INIT_GATE in getattr(item, "fixturenames", ()):
        data |= _start_of(book, launch)
    leave(report, data)
    if data.get("verdict") and takes_properties(item.config):
        item.user_properties.extend(junit_properties(data["verdict"]))
        report.user_properties = list(item.user_properties)


def leave(report: pytest.TestReport, fields: Mapping[str, Any]) -> None:
    """Put fields of ``Outcome`` on a report, as built-in types (xdist sends nothing else)."""
    report.gpubench = plain(fields)  # type: ignore[attr-defined]


def junit_properties(verdict: Verdict) -> list[tuple[str, str]]:
    """The verdict, its reason, and per metric its own verdict and change."""
    from pytest_gpubench.gate.wording import interval  # collecting needs no gate room

    secrets = Secrets.of(os.environ)
    reason = secrets.hide(as_utf8(verdict.reason))
    found = [("gpubench_verdict", verdict.status.value), ("gpubench_reason", reason)]
    for one in verdict.metrics:
        name = f"gpubench_{one.metric}" + ("_limit" if one.against == "limit" else "")
        found.append((name, one.status.value))
        if one.change is not None:
            found.append((f"{name}_change", interval(one.change)))
        if one.waiver is not None:
            words = f"{one.waiver.state}: {one.waiver.bug} until {one.waiver.until}"
            found.append((f"{name}_waiver", secrets.hide(as_utf8(words))))
    return found


def _start_of(book: RecipeBook, launch: Launch) -> dict[str, Any]:
    """What a report says of the start of a server, as of a case."""
    served = book.cases_of(launch.server)[0]
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
    if hasattr(report, "wasxfail"):
        report.wasxfail = secrets.hide(report.wasxfail)


def collect(report: pytest.TestReport, into: list[Outcome]) -> None:
    """Keep what the run's end needs of a report."""
    outcome = Outcome.of(report)
    if outcome is not None:
        into.append(outcome)


def status_of(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """What pytest has no word for has a category and a letter of its own."""
    outcome = Outcome.of(report)
    if outcome is None or report.failed:
        return None
    if report.passed and outcome.accepted:
        return _ACCEPTED
    if report.passed:
        return _MEASURED if outcome.verdict and outcome.verdict.pending else None
    if outcome.settled:
        return _SETTLED
    if outcome.status is None or not outcome.undecided:
        return None
    word = outcome.status.value
    return word.lower(), "V" if outcome.status is Status.INVALID else "I", word


def last_verdicts(outcomes: Sequence[Outcome]) -> dict[str, Outcome]:
    """By case (or start of a server) the item whose verdict counts: the last one."""
    return {outcome.key: outcome for outcome in outcomes if outcome.verdict}


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
        outcome.undecided for outcome in last_verdicts(outcomes).values()
    ):
        return EXIT_UNDECIDED if inconclusive == "exit" else int(pytest.ExitCode.TESTS_FAILED)
    undecided = any(outcome.undecided for outcome in outcomes)
    skipped = sum(
        outcome.outcome == "skipped" and outcome.status is not Status.WAIVED for outcome in outcomes
    )
    only_ours = session.testscollected == len(outcomes) and not undecided
    return (
        int(pytest.ExitCode.NO_TESTS_COLLECTED)
        if outcomes and only_ours and skipped == len(outcomes)
        else own
    )


def swallowed(outcomes: Sequence[Outcome]) -> list[str]:
    """A sentence per verdict FAIL of which pytest knows nothing: the test caught it, or is marked
    xfail."""
    return [
        f"FAIL {one.key}: {one.line}, although its test {one.outcome}: the verdict counts"
        for one in outcomes
        if one.status is Status.FAIL and not one.accepted and one.outcome != "failed"
    ]


def waiver_lines(outcomes: Sequence[Outcome]) -> list[str]:
    """What waivers of known bugs did in this run, a line each."""
    verdicts = [(key, one.verdict) for key, one in last_verdicts(outcomes).items() if one.verdict]
    if not any(metric.waiver for _, verdict in verdicts for metric in verdict.metrics):
        return []
    from pytest_gpubench.gate.waivers import told_of

    return [for_terminal(one.words) for one in told_of(verdicts)]


def unasked(config: pytest.Config, items: Sequence[pytest.Item], book: RecipeBook) -> str:
    """A sentence for each thing that the recipes ask for and that no test of the files that were
    collected judges; empty where single tests were named."""
    if any("::" in argument for argument in config.args):
        return ""
    wanted = {
        EVALUATION: (book.evaluations, "have evals, and no test asks their questions", "accuracy"),
        RATIO: (book.ratios, "have ratios, and no test judges them", "ratio"),
        INIT_GATE: (
            any(case.gates.get("engine_init") for case in book.cases),
            "gate engine_init, and no test judges it",
            "engine_init",
        ),
    }
    used = {name for item in items for name in getattr(item, "fixturenames", ())}
    return "\n".join(
        f"the recipes {words}: import test_{test} from pytest_gpubench.suite where "
        "test_throughput is imported"
        for fixture, (asked, words, test) in wanted.items()
        if asked and fixture not in used
    )


def announce_selection(
    config: pytest.Config, book: RecipeBook, selected: Chosen, unasked: str = ""
) -> None:
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
    if config.option.keyword:
        families = Counter(book.case(name).identity.model for name in selected.cases)
        if len(families) > 1:
            counts = ", ".join(f"{name} ({count})" for name, count in families.most_common())
            reporter.write_line(f"-k {config.option.keyword!r} selects several families: {counts}")
    if unasked:
        reporter.write_line(unasked)
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
    statuses = [launch.status.value for launch in launches if launch.status]
    status = "FAIL" if last.outcome == "failed" and not statuses else next(reversed(statuses), "-")
    tentative = frozenset(name for launch in launches for name in launch.tentative)
    names = dict.fromkeys(name for launch in launches for name in launch.metrics)
    metrics = {
        name: mean_of([launch.metrics[name] for launch in launches if name in launch.metrics])
        for name in names
    }
    return Row(last.recipe, point, metrics, status, last.line, tentative)


def against_lines(
    against: Against | None, outcomes: Sequence[Outcome], first: Against | None = None
) -> list[str]:
    """What the two engines of a comparison are; nothing where there is one engine or nothing was
    measured."""
    if against is None or not any(outcome.arm == "b" and outcome.metrics for outcome in outcomes):
        return []
    option = "--gpubench-against-checkout" if against.recipes else "--gpubench-against"
    which = (
        f"the one of --gpubench-first-engine: {first.text}"
        if first
        else "the engine of the recipes"
    )
    return ["", f"(a) is {which}, (b) the one of {option}: {against.text}"]


def ratio_lines(outcomes: Sequence[Outcome]) -> list[str]:
    """A line per ratio that was judged."""
    lines = [
        for_terminal(f"{outcome.verdict.status.value}: {outcome.subject}: {outcome.line}")
        for outcome in outcomes
        if outcome.sides and outcome.verdict
    ]
    return ["", *lines] if lines else []
