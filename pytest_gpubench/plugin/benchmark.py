"""The plugin object of a run that has recipes: it holds the run's state and adapts pytest's hooks to it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import pytest

from pytest_gpubench.model.cases import Case, RecipeBook
from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.model.specs import Launch
from pytest_gpubench.plugin import benchmark_json, fleet, garbage, outcomes, reporting, signals
from pytest_gpubench.plugin.baselining import Baselines
from pytest_gpubench.plugin.collection import MARK_FIELDS, Chosen, Parameters
from pytest_gpubench.plugin.session_end import SessionEnd
from pytest_gpubench.plugin.settings import Settings
from pytest_gpubench.plugin.settling import Settling
from pytest_gpubench.plugin.state import BENCHMARK
from pytest_gpubench.recipes import find_ambiguity, load_recipes, plan_launches
from pytest_gpubench.recipes.problems import problem_text
from pytest_gpubench.recipes.selection import field_errors
from pytest_gpubench.report.records import RunFolder

if TYPE_CHECKING:
    from pytest_gpubench.plugin.arms import Arms
    from pytest_gpubench.plugin.gating import Gate
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
    launches: tuple[Launch, ...] = ()
    """Planned for every server, in order."""
    settling: Settling | None = None
    """None where every launch is certain."""
    outcomes: list[outcomes.Outcome] = field(default_factory=list)
    selected: Chosen = field(default_factory=Chosen)
    ratios_left: list[str] = field(default_factory=list)
    """Node ids of ratios that no worker of xdist runs."""
    accepted: bool = False
    """Whether the collected tests may run: neither recipes nor selection were refused."""
    said: list[str] = field(default_factory=list)
    """Lines for the end of the run, below the table."""

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

    @property
    def arms(self) -> Arms:
        """What each launch starts; one engine, or the two of ``--gpubench-against``."""
        return self.servers.arms

    @cached_property
    def runner(self) -> CaseRunner:
        """Measures the cases of this run."""
        from pytest_gpubench.plugin.live import shows_of
        from pytest_gpubench.plugin.runner import CaseRunner

        reuse = fleet.resolve(self.config).reuse
        return CaseRunner(self.settings, self.book, self.folder, self.servers, self.gate, shows_of(self.config), reuse=reuse)

    @cached_property
    def gate(self) -> Gate:
        """Judges what this process measures."""
        from pytest_gpubench.plugin.gating import Gate
        from pytest_gpubench.plugin.judging import Judging

        judging = Judging(
            self.launches,
            self.baselines.of,
            require_baseline=self.settings.require_baseline,
            difference_of=lambda server: self.arms.words(server),
        )
        return Gate(self.settings, self.book, judging)

    @cached_property
    def baselines(self) -> Baselines:
        """The baseline files of this run's cases."""
        return Baselines(self.settings.baselines, self.book)

    def unmatched_ratios(self) -> str | None:
        """The ratios of the recipes that would judge nothing, as one text; None where there is none."""
        if not self.book.ratios:
            return None
        from pytest_gpubench.gate.ratios import unmatched

        return "\n".join(f"{', '.join(self.book.files)}: {words}" for words in unmatched(self.book.ratios, self.book.cases)) or None

    def read_baselines(self, subjects: Iterable[str]) -> None:
        """Read what the run will be judged against, before it starts anything.

        Raises:
            pytest.UsageError: if a file cannot be used.
        """
        if self.config.option.collectonly:
            return
        try:
            self.baselines.read(subjects)
        except GpubenchError as error:
            raise pytest.UsageError(str(error)) from None

    def finish(self, session: pytest.Session) -> None:
        """On the controller: record what is to be recorded, and decide the exit code."""
        session.exitstatus = outcomes.exit_status(session, self.outcomes, self.settings.inconclusive)
        self.said = outcomes.swallowed(self.outcomes)
        if not any(outcome.verdict for outcome in self.outcomes):
            return
        from pytest_gpubench.plugin.finishing import finish

        interrupted = session.exitstatus in (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERNAL_ERROR)
        path = self.folder.path
        lines, failed = finish(self.config, self.settings, self.baselines, path, self.outcomes, interrupted=interrupted)
        self.said += lines
        if failed and session.exitstatus in (pytest.ExitCode.OK, outcomes.EXIT_UNDECIDED):
            session.exitstatus = int(pytest.ExitCode.TESTS_FAILED)

    def close(self) -> None:
        """Stop whatever still runs."""
        if "servers" in vars(self):
            self.servers.close()

    def write_documents(self, cases: list[Case]) -> None:
        """Write the files that ``--gpubench-plan`` and ``--gpubench-matrix`` name.

        Raises:
            pytest.UsageError: if a file cannot be written, or the matrix has too many kinds of jobs.
        """
        matrix = fleet.resolve(self.config).matrix
        if self.settings.plan is None and matrix is None:
            return
        from pytest_gpubench.plugin.planning import write_matrix, write_plan

        option = "plan"
        try:
            if self.settings.plan is not None:
                write_plan(self.settings.plan, self.book, cases, self.arms, self.launches)
            option = "matrix"
            if matrix is not None:
                write_matrix(matrix, self.book, cases, self.settings.launches)
        except GpubenchError as error:
            raise pytest.UsageError(f"--gpubench-{option}: {error}") from None


def activate(config: pytest.Config, settings: Settings) -> None:
    """Load the recipes and take part in the run.

    Raises:
        pytest.UsageError: for options that cannot be met.
    """
    missing = [str(path) for path in settings.recipe_files if settings.recipes_named and not path.exists()]
    if missing:
        raise pytest.UsageError(f"--gpubench-recipes: {missing[0]} does not exist; give the path of a recipe file")
    worker = getattr(config, "workerinput", None)
    processes = getattr(config.option, "numprocesses", None)
    with garbage.paused():
        book = load_recipes(settings.recipe_files, policy=settings.server_per)
    garbage.spare_what_stays()
    if book.problems and processes:
        raise pytest.UsageError(problem_text(book))
    if settings.update_baselines and not worker and not (config.option.collectonly or settings.plan):
        _refuse_unclean_tree(settings)
    launches = _planned(settings, book)
    folder = RunFolder.create(settings.results, worker["gpubench_run"] if worker else None)
    from pytest_gpubench.plugin.hooks import Hooks

    benchmark = Benchmark(config, settings, book, Parameters(book, launches), folder, launches)
    unmatched = benchmark.unmatched_ratios() if processes else None
    if unmatched:  # without workers it is said when one of our tests is collected
        raise pytest.UsageError(unmatched)
    if settings.ignore_findings:
        _ = benchmark.servers  # refuses an unknown rule now, not at the first test
    config.stash[BENCHMARK] = benchmark
    _register_marks(config, book)
    _refuse_ambiguous_selection(config, book)
    if settings.plan is not None:
        config.option.collectonly = True
    config.pluginmanager.register(Hooks(benchmark), name="gpubench-benchmark")
    fleet.take_part(config, benchmark)
    write_report = reporting.take_part(config, benchmark)
    write_json = benchmark_json.join_in(config, settings.benchmark_json, folder.path)
    if worker is None:
        writers = (benchmark.finish, write_report, write_json)
        config.pluginmanager.register(SessionEnd(benchmark, writers), name="gpubench-session-end")
    config.add_cleanup(benchmark.close)
    _be_careful_with_modes(config)
    signals.end_cleanly(config)


def _refuse_unclean_tree(settings: Settings) -> None:
    """Now, and not after hours of measuring."""
    from pytest_gpubench.gate.recording import tree_refusal
    from pytest_gpubench.report.provenance import git_state

    refusal = tree_refusal(git_state(settings.root, apart=settings.baselines))
    if refusal:
        raise pytest.UsageError(f"--gpubench-update-baselines: {refusal}")


def _planned(settings: Settings, book: RecipeBook) -> tuple[Launch, ...]:
    try:
        return plan_launches((key for key, _ in book.servers), settings.launches, against=settings.against is not None)
    except GpubenchError as error:
        raise pytest.UsageError(f"--gpubench-launches: {error}") from None


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
    wrong = field_errors(config.option.markexpr or "", MARK_FIELDS)
    if wrong:
        raise pytest.UsageError(f"-m {config.option.markexpr!r}: {'; '.join(wrong)}")


def _be_careful_with_modes(config: pytest.Config) -> None:
    if config.option.collectonly:
        return
    from pytest_gpubench.host.files import careful_umask

    stack = contextlib.ExitStack()
    stack.enter_context(careful_umask())
    config.add_cleanup(stack.close)
