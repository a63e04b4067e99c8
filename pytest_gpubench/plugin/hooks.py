"""pytest's hooks in a run that has recipes, each a short adapter."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

import pytest

from pytest_gpubench.model.cases import Case
from pytest_gpubench.model.specs import Launch, init_subject
from pytest_gpubench.plugin import outcomes, ratio_items
from pytest_gpubench.plugin.items import (
    INIT_GATE,
    UNTIL_GREEN,
    USES_US,
    Chosen,
    parameters_of,
    refuse_repeats,
    run_order,
)
from pytest_gpubench.plugin.reserves import Settling, subject_of, subjects_of
from pytest_gpubench.plugin.session import BenchmarkSession
from pytest_gpubench.plugin.xdist import (
    UNASKED,
    Selection,
    ServerScheduling,
    refuse_what_would_mislead,
)
from pytest_gpubench.recipes.problems import problem_text
from pytest_gpubench.report.terminal import summary_lines


class Hooks:
    """pytest's hooks, each a short adapter."""

    def __init__(self, benchmark: BenchmarkSession) -> None:
        self._benchmark = benchmark
        self._told_selection = False
        self._scheduling = False
        self._unasked = ""
        self._cases_of: dict[Launch, list[Case]] = {}
        self._phases_run: set[tuple[str, str]] = set()
        """Node id and phase of our items."""

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: object) -> None:
        node.workerinput["gpubench_run"] = self._benchmark.folder.path.name  # type: ignore[attr-defined]

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config) -> ServerScheduling | None:
        if config.getoption("dist") != "load":
            return None
        from xdist.workermanage import parse_tx_spec_config

        self._scheduling = True
        return ServerScheduling(config, len(parse_tx_spec_config(config)), self._selection().units)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: list[str]) -> None:
        if self._told_selection:
            return
        self._told_selection = True
        config, settings = node.config, self._benchmark.settings
        selection = self._selection()
        if any(selection.parameters_of(nodeid) for nodeid in ids):
            workers = int(node.workerinput["workercount"])
            refusal = refuse_what_would_mislead(
                config.getoption("dist"), workers, settings.exclusive, bool(settings.base_url)
            )
            if refusal:
                raise pytest.UsageError(refusal)
            config.stash[USES_US] = True
        if USES_US in config.stash or not ids:
            config.stash[USES_US] = True
            self._benchmark.selected = selection.chosen(ids)
            self._benchmark.read_baselines(selection.subjects(ids))
            outcomes.announce_selection(config, self._benchmark.book, self._benchmark.selected)
            self._benchmark.plan_budget(map(self._benchmark.book.case, selection.chosen(ids).cases))
            if self._scheduling:
                points = ratio_items.points_among(self._benchmark, ids)
                self._benchmark.ratios_left = [nodeid for nodeid, _ in points]

    def _selection(self) -> Selection:
        return Selection(self._benchmark.book, self._benchmark.parameters)

    def pytest_report_header(self) -> list[str]:
        book = self._benchmark.book
        lines = [
            f"gpubench: {len(book.cases)} cases of {', '.join(book.files)}, one server "
            f"per {book.policy}"
        ]
        if self._benchmark.settings.against is not None:
            lines.append(
                f"gpubench: against: {self._benchmark.settings.against.text}; the "
                "engines take turns as A B B A"
            )
        if book.unsupported:
            from pytest_gpubench.recipes.inferencex import unsupported_groups

            groups = unsupported_groups(book.unsupported).items()
            counts = ", ".join(f"{len(names)} {group}" for group, names in groups)
            lines.append(
                f"gpubench: {len(book.unsupported)} entries are not supported: {counts} (gpubench "
                "plan lists them)"
            )
        return lines

    @pytest.hookimpl(tryfirst=True)
    def pytest_pycollect_makeitem(self, obj: object) -> list[pytest.Item] | None:
        return [] if ratio_items.is_idle(obj, self._benchmark.book) else None

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> Generator[None, None, None]:
        positions = {item: index for index, item in enumerate(items)}
        if USES_US in config.stash and self._benchmark.book.problems:
            raise pytest.UsageError(problem_text(self._benchmark.book))
        refusal = self._benchmark.wrong_ratios() if USES_US in config.stash else None
        if refusal:
            raise pytest.UsageError(refusal)
        self._unasked = outcomes.unasked(config, items, self._benchmark.book)
        ratios = ratio_items.take_out(items)
        yield
        repeated = refuse_repeats(config, items)
        if repeated:
            raise pytest.UsageError(repeated)
        items[:] = run_order(items, dict(self._benchmark.book.servers), positions)
        ratio_items.put_back(config, items, ratios)
        self._benchmark.accepted = True

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._benchmark.collected = time.monotonic()
        found = [parameters for item in session.items if (parameters := parameters_of(item))]
        cases: dict[str, Case] = {case.id: case for _, case in found if case}
        servers: dict[Launch, None] = dict.fromkeys(launch for launch, _ in found if launch)
        self._benchmark.selected = Chosen.of(found)
        for launch, case in found:
            if launch and case:
                self._cases_of.setdefault(launch, []).append(case)
        if USES_US in session.config.stash:
            outcomes.announce_selection(
                session.config, self._benchmark.book, self._benchmark.selected, self._unasked
            )
        # pytest calls this hook also where the collection was refused or has errors.
        if self._benchmark.accepted and not session.testsfailed:
            self._benchmark.write_documents(list(cases.values()))
        if session.config.option.collectonly:
            return
        output = getattr(session.config, "workeroutput", None)
        if output is None:  # a worker says it with the test that needs the file
            self._benchmark.read_baselines(subjects_of(session.items))
        elif USES_US in session.config.stash:
            output[UNASKED] = self._unasked
        self._benchmark.plan_budget(cases.values())
        if any(launch.reserve for launch in servers):
            benchmark = self._benchmark
            benchmark.settling = Settling(
                session.items,
                lambda subject: benchmark.gate.judging.verdict(subject),
                benchmark.budget.refusal if benchmark.budget else None,
            )

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        found = parameters_of(item)
        if not found or not found[0]:
            return
        self._refuse_repeat(item, "setup")
        if found[1] is None:
            self._skip_start_of_reused(item, found[0])
        settled = self._benchmark.settling and self._benchmark.settling.reason(item)
        if settled:
            outcomes.settle(item, subject_of(item)[1], settled)
        dead = self._benchmark.servers.failed_before(found[0])
        if dead is not None:
            if found[1] is not None:
                self._benchmark.runner.note_failure(found[0], found[1], dead)
            outcomes.refuse(item, dead)

    def _skip_start_of_reused(self, item: pytest.Item, launch: Launch) -> None:
        """No case of that launch needs the server: its start is not tested."""
        if not self._benchmark.settings.reuse or INIT_GATE not in getattr(item, "fixturenames", ()):
            return
        reuse, cases = self._benchmark.runner.reuse, self._cases_of.get(launch, [])
        if reuse is not None and cases and all(reuse.find(launch, case) for case in cases):
            pytest.skip("not started: every result on this launch is reused")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> None:
        if parameters_of(item):
            self._refuse_repeat(item, "call")

    def _refuse_repeat(self, item: pytest.Item, phase: str) -> None:
        """Whichever plugin repeats an item: it fails, and the run ends with a usage error."""
        if (item.nodeid, phase) in self._phases_run:
            outcomes.refuse_repeat(item, f"{item.nodeid} was run before: {UNTIL_GREEN}")
        self._phases_run.add((item.nodeid, phase))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        failure = outcomes.as_failure(report)  # attaching may leave less of the exception
        outcomes.attach(item, report, self._benchmark.book)
        launch, case = parameters_of(item) or (None, None)
        left = outcomes.Outcome.of(report)
        refused = left is not None and left.refused
        if report.failed and launch and case and case.runnable and not refused:
            self._benchmark.runner.note_failure(launch, case, failure)
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        outcomes.collect(report, self._benchmark.outcomes)

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        return outcomes.status_of(report)

    def _tell_wall_time(self, terminalreporter: pytest.TerminalReporter) -> None:
        """The records of all workers of xdist lie in one folder."""
        from pytest_gpubench.report.wall_time import wall_lines

        for line in wall_lines(self._benchmark.results()):
            terminalreporter.write_line(line)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        # Workers of xdist report in the order in which they end.
        places: dict[str, tuple[int, float]] = {}
        for place, case in enumerate(self._benchmark.book.cases):
            places.setdefault(init_subject(case.server), (-case.gpus, place - 0.5))
            places[case.id] = (-case.gpus, place)
        rows = outcomes.rows(self._benchmark.outcomes, places)
        if rows:
            terminalreporter.section("gpubench")
            verbosity = terminalreporter.config.get_verbosity()
            for line in summary_lines(rows, frontier=verbosity >= 0, verbose=verbosity > 0)[1:]:
                terminalreporter.write_line(line)
            if verbosity > 0:
                self._tell_wall_time(terminalreporter)
        for line in outcomes.against_lines(
            self._benchmark.settings.against,
            self._benchmark.outcomes,
            self._benchmark.settings.first_engine,
        ):
            terminalreporter.write_line(line)
        for line in outcomes.ratio_lines(self._benchmark.outcomes):
            terminalreporter.write_line(line)
        for line in self._benchmark.said:
            terminalreporter.write_line(line)
        if self._benchmark.folder.path.exists():
            terminalreporter.write_line(f"\nrecords: {self._benchmark.folder.path}")
