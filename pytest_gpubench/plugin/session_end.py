"""The end of a run, on the controller: an ordered list of writers, then ``run.json`` with the exit
code that pytest really returns."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

from pytest_gpubench.plugin.items import USES_US
from pytest_gpubench.plugin.outcomes import EXIT_UNDECIDED, Outcome
from pytest_gpubench.plugin.ratio_items import judge_left
from pytest_gpubench.plugin.xdist import RAISED, UNASKED

if TYPE_CHECKING:
    from pytest_gpubench.plugin.session import BenchmarkSession
    from pytest_gpubench.report.results import Loaded

Writer: TypeAlias = Callable[[pytest.Session], None]
"""May raise the session's exit status, never lower it."""
_LONGEST_REASON = 500


@dataclass(frozen=True, slots=True)
class _Failed:
    """A failed phase of a test, or a file that could not be collected."""

    test: str
    reason: str
    ours: Outcome | None = None
    """What one of our items left on its report; None for other tests."""


class SessionEnd:
    """pytest's hooks around the end of a run."""

    def __init__(self, benchmark: BenchmarkSession, writers: Sequence[Writer]) -> None:
        self._benchmark = benchmark
        self._writers = writers
        self._failed: list[_Failed] = []
        self._session: pytest.Session | None = None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed.append(_Failed(report.nodeid, _reason(report), Outcome.of(report)))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._failed.append(_Failed(report.nodeid, f"not collected: {_reason(report)}"))

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """xdist would not tell that a hook of a worker failed after its last test."""
        output = getattr(node, "workeroutput", {})
        unasked = output.get(UNASKED, "")
        if unasked and unasked not in self._benchmark.said:  # every worker has found the same
            self._benchmark.said.append(unasked)
        raised = output.get(RAISED)
        if raised:
            self._failed.append(_Failed(node.gateway.id, raised[:_LONGEST_REASON]))

    @pytest.hookimpl(trylast=True, specname="pytest_sessionfinish")
    def pytest_write_results(self, session: pytest.Session) -> None:
        if not _runs_tests(session.config):
            return
        for write in self._writers:
            write(session)
        if session.exitstatus == pytest.ExitCode.OK:
            self._contradict(session)

    def _contradict(self, session: pytest.Session) -> None:
        """Say what speaks against a green run, whoever made it green."""
        from pytest_gpubench.report.read_results import load_results

        option, folder = session.config.option, self._benchmark.folder.path
        loaded = load_results([folder]) if folder.is_dir() else _nothing()
        outcomes = self._benchmark.outcomes
        failed = [f"FAIL {one.test}: {one.reason}" for one in self._failed]
        failed += unsaid_failures(outcomes, loaded)
        failed += [f"the record of {one} is gone: something removed it before the run had ended"
                   for one in lost_records(outcomes, loaded)]  # fmt: skip
        left = []
        if not (option.setuponly or option.setupplan):
            left = self._not_run(loaded)
        if failed:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        elif left:
            session.exitstatus = EXIT_UNDECIDED
        count = "1 selected case" if len(left) == 1 else f"{len(left)} selected cases"
        ended = f"{count} did not run, the first {left[0]}: something ended the run" if left else ""
        self._benchmark.said += [*failed, *filter(None, [ended])]

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, None, None]:
        """Around every other plugin: what is judged now must be in JUnit's file, and any of them,
        the terminal's summary included, may set the exit status."""
        self._session = session
        try:
            if _runs_tests(session.config):
                judge_left(self._benchmark, session)
            yield
        except BaseException as error:
            self._keep_raised(session, "pytest_sessionfinish", error)
            raise
        finally:
            self._write_run_file(session)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_unconfigure(self) -> Generator[None, None, None]:
        try:
            yield
        except BaseException as error:
            if self._session is not None:
                self._keep_raised(self._session, "pytest_unconfigure", error)
                self._write_run_file(self._session)
            raise

    def _keep_raised(self, session: pytest.Session, hook: str, error: BaseException) -> None:
        """What a hook raises here ends pytest past the session's exit status."""
        if isinstance(error, pytest.exit.Exception):
            session.exitstatus = (
                session.exitstatus if error.returncode is None else error.returncode
            )
        elif isinstance(error, KeyboardInterrupt):
            session.exitstatus = pytest.ExitCode.INTERRUPTED
        else:
            session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED
            words = " ".join(f"{type(error).__name__}: {error}".split())
            self._failed.append(_Failed(hook, words[:_LONGEST_REASON]))

    def _write_run_file(self, session: pytest.Session) -> None:
        folder = self._benchmark.folder.path
        config = session.config
        if USES_US not in config.stash or not _runs_tests(config):
            return
        if not folder.is_dir() and not self._failed and not self._benchmark.said:
            return
        from pytest_gpubench.report.read_results import load_results
        from pytest_gpubench.report.records import RUN_FILE, try_to_write

        loaded = load_results([folder]) if folder.is_dir() else _nothing()
        document = {
            "kind": "run",
            "exit": int(session.exitstatus),
            "finished": datetime.now(UTC).isoformat(),
            **self._benchmark.about,
            "selection": _selection(config),
            "failed": len(self._failed),
            "retryable": self._retryable(int(session.exitstatus), loaded),
            **_by_kind([one for one in self._failed if not _is_recorded(one.ours, loaded)]),
            "not_run": self._not_run(loaded),
        }
        try_to_write(folder / RUN_FILE, document)  # whatever the disk says: the run has ended

    def _retryable(self, code: int, loaded: Loaded) -> bool:
        """Whether every failure was of the class infrastructure, as the records say."""
        if not self._failed or code != pytest.ExitCode.TESTS_FAILED:
            return False
        cases = {(one.case, one.launch.label): one.failure for one in loaded.cases()}
        starts = {(one.server, one.launch.label): one.failure for one in loaded.inits()}
        for one in self._failed:
            if one.ours is None:
                return False
            case, server = (one.ours.case, one.ours.launch), (one.ours.server, one.ours.launch)
            failure = cases[case] if case in cases else starts.get(server)
            if failure is None or failure.failure_class != "infrastructure":
                return False
        return True

    def _not_run(self, loaded: Loaded) -> list[str]:
        """Selected cases without a record; one that was skipped with a reason has its reason."""
        told = {one.case for one in loaded.cases()}
        told |= {one.case for one in self._benchmark.outcomes if one.outcome == "skipped"}
        return [case for case in self._benchmark.selected.cases if case not in told]


def _runs_tests(config: pytest.Config) -> bool:
    """Whether tests are to run: not where they, or their fixtures, are only listed."""
    option = config.option
    return not (option.collectonly or option.showfixtures or option.show_fixtures_per_test)


def _nothing() -> Loaded:
    from pytest_gpubench.report.results import Loaded

    return Loaded((), ())


def unsaid_failures(outcomes: Sequence[Outcome], loaded: Loaded) -> list[str]:
    """A sentence per record of a failure whose test, as pytest was told, did not fail."""
    from pytest_gpubench.model.specs import init_subject

    told = {(one.start or one.case, one.launch): one.outcome for one in outcomes}
    found = [(init_subject(one.server), one.launch.label, one.failure) for one in loaded.inits()]
    found += [(one.case, one.launch.label, one.failure) for one in loaded.cases()]
    return [
        f"FAIL {subject}: {failure.summary}, although its test "
        f"{told.get((subject, launch), 'did not run')}: the record counts"
        for subject, launch, failure in found
        if failure is not None
    ]


def lost_records(outcomes: Sequence[Outcome], loaded: Loaded) -> list[str]:
    """Cases that were measured in this run and have no record any more."""
    there = {(one.case, one.launch.label) for one in loaded.cases()}
    measured = [one for one in outcomes if one.case and one.metrics]
    return [one.case for one in measured if (one.case, one.launch) not in there]


def _by_kind(failed: Sequence[_Failed]) -> dict[str, list[dict[str, str]]]:
    """Ratios apart: a merge judges them again over all runs."""
    found: dict[str, dict[str, dict[str, str]]] = {"ratios": {}, "failures": {}}
    for one in failed:
        ratio = one.ours.subject if one.ours and one.ours.sides else ""
        name = ratio or one.test
        kind = found["ratios" if ratio else "failures"]
        kind.setdefault(name, {"test": name, "reason": one.reason})
    return {kind: list(named.values()) for kind, named in found.items()}


def _is_recorded(ours: Outcome | None, loaded: Loaded) -> bool:
    """Whether a record says that this failed: a case or a start that failed or whose gate did."""
    if ours is None:
        return False
    from pytest_gpubench.model.specs import init_subject
    from pytest_gpubench.model.verdicts import Status

    server, launch = ours.server, ours.launch
    starts = {(one.server, one.launch.label): one for one in loaded.inits()}
    start = starts.get((server, launch))
    if start is not None and start.failure is not None:
        return True  # it did not start, which fails whatever needs it
    if ours.status is not Status.FAIL and not ours.refused:
        return False
    if ours.subject == init_subject(server):
        return start is not None and start.status is Status.FAIL
    cases = {(one.case, one.launch.label): one.status for one in loaded.cases()}
    return cases.get((ours.case, launch)) is Status.FAIL


def _selection(config: pytest.Config) -> list[str]:
    """Files, ``-k``, ``-m``: what tells one run from another run of other tests."""
    words = sorted(map(str, config.args))
    for name, value in (("-k", config.option.keyword), ("-m", config.option.markexpr)):
        words += [name, value] if value else []
    return words


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """One line of what pytest shows."""
    crash = getattr(report.longrepr, "reprcrash", None)
    lines = [line.strip() for line in str(crash.message if crash else report.longrepr).splitlines()]
    told = [line.removeprefix("E ").strip() for line in lines if line]
    if not told:
        return "it failed without a word"
    return (told[0] if crash else told[-1])[:_LONGEST_REASON]
