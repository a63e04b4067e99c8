"""The state of a run that has recipes. Whoever needs a part of it is given that part."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pytest

from pytest_gpubench.plugin.items import Chosen

if TYPE_CHECKING:
    from pytest_gpubench.load.workers import WorkerPool
    from pytest_gpubench.model.cases import Case, RecipeBook
    from pytest_gpubench.model.specs import Launch
    from pytest_gpubench.plugin.items import Parameters
    from pytest_gpubench.plugin.outcomes import Outcome
    from pytest_gpubench.plugin.reserves import Settling
    from pytest_gpubench.plugin.runner import CaseRunner
    from pytest_gpubench.report.records import RunFolder
    from pytest_gpubench.report.results import Loaded
    from pytest_gpubench.runs.baselining import Baselines
    from pytest_gpubench.runs.budgeting import Budget
    from pytest_gpubench.runs.endings import Harness
    from pytest_gpubench.runs.engines_under_test import Arms
    from pytest_gpubench.runs.run_gate import Gate
    from pytest_gpubench.runs.servers import ServerPool
    from pytest_gpubench.runs.settings import Settings


@dataclass
class BenchmarkSession:
    """State of one run: recipes, launches, servers, results.

    What runs tests is imported and made when the first test asks for it: it is half a second that
        collecting need not pay.
    """

    config: pytest.Config
    settings: Settings
    book: RecipeBook
    parameters: Parameters
    folder: RunFolder
    launches: tuple[Launch, ...] = ()
    """Planned for every server, in order."""
    settling: Settling | None = None
    """None where every launch is certain."""
    outcomes: list[Outcome] = field(default_factory=list)
    selected: Chosen = field(default_factory=Chosen)
    ratios_left: list[str] = field(default_factory=list)
    """Node ids of ratios that no worker of xdist runs."""
    accepted: bool = False
    """Whether the collected tests may run: neither recipes nor selection were refused."""
    begun: float = field(default_factory=time.monotonic)
    collected: float | None = None
    """When the collection was over, as ``time.monotonic``."""
    said: list[str] = field(default_factory=list)
    """Lines for the end of the run, below the table."""

    @cached_property
    def servers(self) -> ServerPool:
        """The engines of this run.

        Raises:
            pytest.UsageError: if ``--gpubench-ignore-findings`` names an unknown rule, or the
            recipes of engine B are wrong.
        """
        from pytest_gpubench.model.failures import GpubenchError
        from pytest_gpubench.plugin.live import launches_of, say
        from pytest_gpubench.runs.leasing import Leasing
        from pytest_gpubench.runs.servers import ServerPool

        worker = getattr(self.config, "workerinput", None)
        leasing = Leasing(
            self.settings,
            self.folder.path.name,
            functools.partial(say, self.config),
            worker["workercount"] if worker else 1,
        )
        try:
            return ServerPool(
                self.settings,
                self.book,
                self.folder,
                leasing,
                self._expect_load,
                launches_of(self.config),
                self._harness,
            )
        except GpubenchError as error:
            raise pytest.UsageError(str(error)) from None

    @cached_property
    def _harness(self) -> Harness:
        from pytest_gpubench.runs.endings import Harness

        return Harness(limit=pytest.fail.Exception, interrupt=pytest.exit.Exception)

    @cached_property
    def load_workers(self) -> WorkerPool:
        """The processes that measure: they take one case after another."""
        from pytest_gpubench.load.workers import WorkerPool

        return WorkerPool()

    def _expect_load(self, launch: Launch) -> None:
        """Let the processes that will measure a launch's cases start while its server does."""
        chosen = set(self.selected.cases)
        cases = [case for case in self.book.cases_of(launch.server) if case.id in chosen]
        needed = [case.workload.workers for case in cases if case.evaluation is None]
        self.load_workers.prepare(max(needed, default=0))

    @property
    def arms(self) -> Arms:
        """What each launch starts; one engine, or the two of ``--gpubench-against``."""
        return self.servers.arms

    @cached_property
    def runner(self) -> CaseRunner:
        """Measures the cases of this run."""
        from pytest_gpubench.plugin.live import launches_of, shows_of
        from pytest_gpubench.plugin.runner import CaseRunner

        return CaseRunner(
            self.settings,
            self.book,
            self.folder,
            self.servers,
            self.gate,
            self.load_workers,
            self._harness,
            shows_of(self.config),
            launches_of(self.config),
            self._cases_of,
        )

    def _cases_of(self, launch: Launch) -> list[Case]:
        """The selected cases that are measured on a launch."""
        chosen = map(self.book.case, self.selected.cases)
        return [case for case in chosen if case.server == launch.server and case.runnable]

    @cached_property
    def gate(self) -> Gate:
        """Judges what this process measures."""
        from pytest_gpubench.gate.case_verdicts import Judging
        from pytest_gpubench.runs.run_gate import Gate

        judging = Judging(
            self.launches,
            self.baselines.of,
            require_baseline=self.settings.require_baseline,
            difference_of=lambda server: self.arms.words(server),
            waivers_of=lambda: self.baselines.waivers,
        )
        planned = self.budget.rounds if self.budget else None
        return Gate(self.settings, self.book, judging, planned)

    @cached_property
    def budget(self) -> Budget | None:
        """The run's time, where it was given one; its clock starts with the first look."""
        if self.settings.budget_s is None:
            return None
        from pytest_gpubench.runs.budgeting import Budget

        return Budget(self.settings.budget_s)

    def plan_budget(self, cases: Iterable[Case]) -> None:
        """Plan within the budget, after the baselines were read, and say what it will tell."""
        if self.budget is None or self.config.option.collectonly:
            return
        self.budget.plan(
            self.book,
            cases,
            self.launches,
            self.baselines,
            self.settings.rounds,
            self.settings.gate_only,
        )
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            for line in self.budget.lines:
                reporter.write_line(f"gpubench: {line}")

    @cached_property
    def baselines(self) -> Baselines:
        """The baseline files of this run's cases."""
        from pytest_gpubench.runs.baselining import Baselines

        waive = not self.config.getoption("runxfail", False)
        return Baselines(self.settings.baselines, self.book, waive=waive)

    @property
    def about(self) -> dict[str, Any]:
        """What run.json and the run's own page, which is made before it, both say of the run, by
        fields of ``results.Run``."""
        from pytest_gpubench.plugin.xdist import processes
        from pytest_gpubench.report.results import Spent

        collecting = 0.0 if self.collected is None else self.collected - self.begun
        seconds = time.monotonic() - self.begun
        return {"spent": Spent(round(seconds, 3), processes(self.config), round(collecting, 3))}

    def results(self) -> Loaded:
        """What lies in the run's folder so far."""
        from pytest_gpubench.report.read_results import load_results
        from pytest_gpubench.report.results import Loaded

        path = self.folder.path
        loaded = load_results([path]) if path.is_dir() else Loaded((), ())
        runs = tuple(replace(run, **self.about) for run in loaded.runs)
        return replace(loaded, runs=runs)

    def wrong_ratios(self) -> str | None:
        """What is wrong with the ratios of the recipes, as one text; None where nothing is."""
        if not self.book.ratios:
            return None
        from pytest_gpubench.gate.ratios import faults

        found = faults(self.book.ratios, self.book.cases)
        return "\n".join(f"{self.book.ratio_places[at]}: {words}" for at, words in found) or None

    def read_baselines(self, subjects: Iterable[str]) -> None:
        """Read what the run will be judged against, before it starts anything.

        Raises:
            pytest.UsageError: if a file cannot be used.
        """
        if self.config.option.collectonly:
            return
        from pytest_gpubench.model.failures import GpubenchError

        try:
            self.baselines.read(subjects)
        except GpubenchError as error:
            raise pytest.UsageError(str(error)) from None

    def finish(self, session: pytest.Session) -> None:
        """On the controller: record what is to be recorded, and decide the exit code."""
        from pytest_gpubench.plugin import outcomes

        session.exitstatus = outcomes.exit_status(
            session, self.outcomes, self.settings.inconclusive
        )
        self.said += outcomes.swallowed(self.outcomes)
        self.said += outcomes.waiver_lines(self.outcomes)
        if not any(outcome.verdict for outcome in self.outcomes):
            return
        from pytest_gpubench.plugin.finishing import finish

        interrupted = session.exitstatus in (
            pytest.ExitCode.INTERRUPTED,
            pytest.ExitCode.INTERNAL_ERROR,
        )
        path = self.folder.path
        lines, failed = finish(
            self.config, self.settings, self.baselines, path, self.outcomes, interrupted=interrupted
        )
        self.said += [*lines, *self.baselines.idle_waivers()]
        if failed and session.exitstatus in (pytest.ExitCode.OK, outcomes.EXIT_UNDECIDED):
            session.exitstatus = int(pytest.ExitCode.TESTS_FAILED)

    def close(self) -> None:
        """Stop whatever still runs."""
        try:
            if "servers" in vars(self):
                self.servers.close()
        finally:
            if "load_workers" in vars(self):
                self.load_workers.close()

    def write_documents(self, cases: list[Case]) -> None:
        """Write the files that ``--gpubench-plan`` and ``--gpubench-matrix`` name, and say which
        files of the cases' loads are not there.

        Raises:
            pytest.UsageError: if a file cannot be written, or the matrix has too many kinds of
            jobs.
        """
        plan, matrix = self.settings.plan, self.settings.matrix
        if plan is None and matrix is None:
            return
        from pytest_gpubench.model.failures import GpubenchError
        from pytest_gpubench.model.printing import for_terminal
        from pytest_gpubench.runs.planning import missing_files, write_matrix, write_plan

        option = "plan"
        try:
            if plan is not None:
                write_plan(plan, self.book, cases, self.arms, self.launches)
            option = "matrix"
            if matrix is not None:
                write_matrix(matrix, self.book, cases, self.settings)
        except GpubenchError as error:
            raise pytest.UsageError(f"--gpubench-{option}: {error}") from None
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            for line in missing_files(cases):
                reporter.write_line(for_terminal(line))
