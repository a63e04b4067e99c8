"""The plugin object of a run that has recipes: it holds the run's state and adapts pytest's hooks to it."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pytest

from pytest_gpubench.domain.cases import Case, RecipeBook
from pytest_gpubench.domain.specs import Launch
from pytest_gpubench.plugin import garbage, outcomes
from pytest_gpubench.plugin.collection import Parameters, parameters_of, refuse_reruns, run_order
from pytest_gpubench.plugin.scheduling import Selection, ServerScheduling, refuse_what_would_mislead
from pytest_gpubench.plugin.settings import Settings
from pytest_gpubench.plugin.state import ASKED, BENCHMARK
from pytest_gpubench.recipes import find_ambiguity, load_recipes, plan_launches
from pytest_gpubench.report.records import RunFolder
from pytest_gpubench.report.terminal import summary_lines

if TYPE_CHECKING:
    from pytest_gpubench.plugin.runner import CaseRunner
    from pytest_gpubench.plugin.servers import ServerPool


@dataclass
class Benchmark:
    """State of one run: recipes, launches, servers, results.

    What runs tests is imported and made when the first test asks for it: it is half a second that collecting need not pay.
    """

    config: pytest.Config
    settings: Settings
    book: RecipeBook
    parameters: Parameters
    folder: RunFolder
    outcomes: list[outcomes.Outcome] = field(default_factory=list)
    selected: tuple[int, int] = (0, 0)

    @cached_property
    def servers(self) -> ServerPool:
        """The engines of this run.

        Raises:
            pytest.UsageError: if ``--gpubench-ignore-findings`` names an unknown rule.
        """
        from pytest_gpubench.plugin.leasing import Leasing
        from pytest_gpubench.plugin.servers import ServerPool

        worker = getattr(self.config, "workerinput", None)
        leasing = Leasing(self.config, self.settings, self.folder.path.name, worker["workercount"] if worker else 1)
        return ServerPool(self.settings, self.book, self.folder, leasing)

    @cached_property
    def runner(self) -> CaseRunner:
        """Measures the cases of this run."""
        from pytest_gpubench.plugin.runner import CaseRunner

        return CaseRunner(self.settings, self.book, self.folder, self.servers)

    def close(self) -> None:
        """Stop whatever still runs."""
        if "servers" in vars(self):
            self.servers.close()

    def write_plan(self, cases: list[Case]) -> None:
        """Write the file that ``--gpubench-plan`` names, if it was given."""
        if self.settings.plan is not None:
            from pytest_gpubench.plugin.planning import write_plan

            write_plan(self.settings.plan, self.settings, self.book, cases, self.servers.doctor)


def activate(config: pytest.Config, settings: Settings) -> None:
    """Load the recipes and take part in the run.

    Raises:
        pytest.UsageError: for options that cannot be met.
    """
    missing = [str(path) for path in settings.recipe_files if settings.recipes_named and not path.is_file()]
    if missing:
        raise pytest.UsageError(f"--gpubench-recipes: {missing[0]} does not exist; give the path of a recipe file")
    worker = getattr(config, "workerinput", None)
    processes = getattr(config.option, "numprocesses", None)
    with garbage.paused():
        book = load_recipes(settings.recipe_files, policy=settings.server_per)
    garbage.spare_what_stays()
    if book.problems and processes:
        raise pytest.UsageError(_problem_text(book))
    launches = plan_launches(key for key, _ in book.servers)
    folder = RunFolder.create(settings.results, worker["gpubench_run"] if worker else None)
    benchmark = Benchmark(config, settings, book, Parameters(book, launches), folder)
    if settings.ignore_findings:
        _ = benchmark.servers  # refuses an unknown rule now, not at the first test
    config.stash[BENCHMARK] = benchmark
    _register_marks(config, book)
    _refuse_ambiguous_selection(config, book)
    if settings.plan is not None:
        config.option.collectonly = True
    config.pluginmanager.register(_Hooks(benchmark), name="gpubench-benchmark")
    config.add_cleanup(benchmark.close)
    _end_cleanly_on_sigterm(config)


def _register_marks(config: pytest.Config, book: RecipeBook) -> None:
    known = {str(line).split(":")[0].split("(")[0].strip() for line in config.getini("markers")}
    tags = dict.fromkeys(tag for case in book.cases for tag in case.tags)
    for tag in tags:
        if tag not in known:
            config.addinivalue_line("markers", f"{tag}: benchmark cases of pytest-gpubench")


def _refuse_ambiguous_selection(config: pytest.Config, book: RecipeBook) -> None:
    keyword = config.option.keyword
    found = find_ambiguity(keyword, book.cases) if keyword else None
    if found is not None:
        raise pytest.UsageError(str(found))


def _end_cleanly_on_sigterm(config: pytest.Config) -> None:
    """Let SIGTERM end the run as Ctrl-C does, so that servers are stopped: pytest itself dies at once."""
    if getattr(signal, "SIGTERM", None) is None or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return
    main_process = os.getpid()

    def interrupt(_number: int, _frame: object) -> None:
        if os.getpid() == main_process:
            raise KeyboardInterrupt("SIGTERM")
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTERM)

    try:
        previous = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread: the embedding program owns the signals
        return

    def restore() -> None:
        signal.signal(signal.SIGTERM, previous)

    config.add_cleanup(restore)


def _problem_text(book: RecipeBook) -> str:
    count = len(book.problems)
    head = f"{count} problem{'s' if count > 1 else ''} in {', '.join(book.files)}:"
    return "\n".join([head, *(f"  {problem}" for problem in book.problems)])


class _Hooks:
    """pytest's hooks, each a short adapter."""

    def __init__(self, benchmark: Benchmark) -> None:
        self._benchmark = benchmark
        self._told_selection = False

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: object) -> None:
        node.workerinput["gpubench_run"] = self._benchmark.folder.path.name  # type: ignore[attr-defined]

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config) -> ServerScheduling | None:
        if config.getoption("dist") != "load":
            return None
        from xdist.workermanage import parse_tx_spec_config

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
            refusal = refuse_what_would_mislead(config.getoption("dist"), workers, settings.exclusive, bool(settings.base_url))
            if refusal:
                raise pytest.UsageError(refusal)
            config.stash[ASKED] = True
        if ASKED in config.stash or not ids:
            config.stash[ASKED] = True
            self._benchmark.selected = selection.count(ids)
            outcomes.announce_selection(config, self._benchmark.book, self._benchmark.selected)

    def _selection(self) -> Selection:
        return Selection(self._benchmark.book, self._benchmark.parameters)

    def pytest_report_header(self) -> list[str]:
        book = self._benchmark.book
        lines = [f"gpubench: {len(book.cases)} cases of {', '.join(book.files)}, one server per {book.policy}"]
        if book.unsupported:
            lines.append(f"gpubench: {len(book.unsupported)} entries are not supported (gpubench plan lists them)")
        return lines

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> Generator[None, None, None]:
        positions = {item: index for index, item in enumerate(items)}
        if ASKED in config.stash and self._benchmark.book.problems:
            raise pytest.UsageError(_problem_text(self._benchmark.book))
        refusal = refuse_reruns(config, items)
        if refusal:
            raise pytest.UsageError(refusal)
        yield
        items[:] = run_order(items, dict(self._benchmark.book.servers), positions)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        found = [parameters for item in session.items if (parameters := parameters_of(item))]
        cases: dict[str, Case] = {case.id: case for _, case in found if case}
        servers: dict[Launch, None] = dict.fromkeys(launch for launch, _ in found if launch)
        self._benchmark.selected = (len(cases), len({launch.server for launch in servers}))
        if ASKED in session.config.stash:
            outcomes.announce_selection(session.config, self._benchmark.book, self._benchmark.selected)
        self._benchmark.write_plan(list(cases.values()))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        found = parameters_of(item)
        if found and found[0]:
            self._benchmark.servers.refuse_failed(found[0])

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        outcomes.attach(item, report)
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        outcomes.collect(report, self._benchmark.outcomes)

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        return outcomes.status_of(report)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        session.exitstatus = outcomes.exit_status(session, self._benchmark.outcomes)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        # Workers of xdist report in the order in which they end.
        places = {case.id: (-case.gpus, place) for place, case in enumerate(self._benchmark.book.cases)}
        measured = [outcome for outcome in self._benchmark.outcomes if outcome.case and outcome.metrics]
        rows = [outcome.row() for outcome in sorted(measured, key=lambda outcome: places[outcome.case])]
        if rows:
            terminalreporter.section("gpubench")
            for line in summary_lines(rows)[1:]:
                terminalreporter.write_line(line)
        if self._benchmark.folder.path.exists():
            terminalreporter.write_line(f"\nrecords: {self._benchmark.folder.path}")
