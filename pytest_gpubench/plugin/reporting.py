"""What a run tells at its beginning and leaves at its end: the estimate, the HTML report, the
summary of a CI job, pytest-benchmark's JSON."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.plugin.items import USES_US, parameters_of

if TYPE_CHECKING:
    from pytest_gpubench.plugin.session import BenchmarkSession
    from pytest_gpubench.plugin.session_end import Writer
    from pytest_gpubench.report.plan import Estimate
    from pytest_gpubench.report.results import Loaded


STEP_SUMMARY = "GITHUB_STEP_SUMMARY"


def take_part(config: pytest.Config, benchmark: BenchmarkSession) -> Writer:
    """Register the hooks; in a worker of xdist there is nothing to do.

    Returns:
        What writes the report when the run ends.
    """
    if hasattr(config, "workerinput"):
        return lambda _session: None
    hooks = _Hooks(benchmark, benchmark.settings.report, os.environ.get(STEP_SUMMARY))
    config.pluginmanager.register(hooks, name="gpubench-reporting")
    return hooks.write


class _Hooks:
    def __init__(
        self, benchmark: BenchmarkSession, target: Path | None, step_summary: str | None
    ) -> None:
        self._benchmark = benchmark
        self._target = target
        self._step_summary = step_summary
        self._said: list[str] = []

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        if (
            USES_US not in session.config.stash
            or session.config.option.collectonly
            or reporter is None
        ):
            return
        found = _estimate(self._benchmark, session)
        if found is not None and found.total and session.config.get_verbosity() > -2:
            reporter.write_line(f"estimated time: {found}")

    def write(self, session: pytest.Session) -> None:
        """Write the page and the job's summary, where they are asked for."""
        if not (self._target or self._step_summary):
            return
        from pytest_gpubench.model.failures import GpubenchError

        loaded = self._benchmark.results()
        if self._target is not None:
            try:
                self._said.append(_write_report(self._target, loaded))
            except GpubenchError as error:
                self._said.append(f"--gpubench-report: {error}")
                session.exitstatus = int(session.exitstatus) or int(pytest.ExitCode.TESTS_FAILED)
        if self._step_summary and loaded.runs:
            self._said += _append_summary(Path(self._step_summary), loaded)

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for line in self._said:
            terminalreporter.write_line(line)


def _estimate(benchmark: BenchmarkSession, session: pytest.Session) -> Estimate | None:
    """None where nothing would be started or measured."""
    from pytest_gpubench.report.plan import Wanted, estimate

    labels: dict[tuple[str, str], dict[str, None]] = {}
    for item in session.items:
        launch, case = parameters_of(item) or (None, None)
        if launch is None or launch.reserve:
            continue
        mine = labels.setdefault((launch.server, launch.label), {})
        if case is not None and case.runnable:
            mine[case.label] = None
    wanted = [Wanted(server, tuple(mine)) for (server, _), mine in labels.items()]
    return estimate(wanted, benchmark.settings.results) if wanted else None


def _write_report(target: Path, loaded: Loaded) -> str:
    if not loaded.runs:
        return f"--gpubench-report: nothing was measured, {target} is not written"
    from pytest_gpubench.report import html

    html.write(target, html.render(loaded))
    return f"report: {target}"


def _append_summary(path: Path, loaded: Loaded) -> list[str]:
    from pytest_gpubench.report.markdown import markdown

    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(markdown(loaded) + "\n")
    except OSError as error:
        return [f"{STEP_SUMMARY}: {path} could not be written: {error.strerror}"]
    return []


_ITS_OPTIONS = ("benchmark_json", "benchmark_compare", "benchmark_save", "benchmark_autosave")


def take_part_for_benchmark(config: pytest.Config, target: Path | None, run: Path) -> Writer:
    """Take part in the run with pytest-benchmark's users in mind.

    Args:
        target: of ``--gpubench-benchmark-json``; None: nothing is written.
        run: folder of the run's records.

    Returns:
        What writes the file when the run ends.
    """
    export = _Export(config, target, run)
    config.pluginmanager.register(export, name="gpubench-benchmark-json")
    return export.write


class _Export:
    """Names our option where its own is given, and writes the file at the end of the run."""

    def __init__(self, config: pytest.Config, target: Path | None, run: Path) -> None:
        self._given = [
            f"--{name.replace('_', '-')}" for name in _ITS_OPTIONS if config.getoption(name, None)
        ]
        self._target = target
        self._run = run
        self._said = ""

    def pytest_report_header(self) -> list[str]:
        if not self._given:
            return []
        option = self._given[0]
        return [
            f"gpubench: {option} is about the benchmark fixture; these cases are "
            "written with --gpubench-benchmark-json FILE"
        ]

    def write(self, session: pytest.Session) -> None:
        """Write the file, if it is asked for: the records of all workers of xdist lie in one
        folder."""
        if self._target is None:
            return
        try:
            self._said = self._write(self._target, session.config.rootpath.name)
        except GpubenchError as error:
            self._said = f"--gpubench-benchmark-json: {error}"
            session.exitstatus = int(session.exitstatus) or int(pytest.ExitCode.TESTS_FAILED)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._said:
            terminalreporter.write_line(self._said)

    def _write(self, target: Path, project: str) -> str:
        from pytest_gpubench.report.pytest_benchmark import pytest_benchmark_document
        from pytest_gpubench.report.read_results import load_results, read_whole
        from pytest_gpubench.report.records import write_record

        runs = load_results([self._run]).runs if self._run.is_dir() else ()
        document = pytest_benchmark_document(runs[0], read_whole, project) if runs else None
        if document is None:
            return f"--gpubench-benchmark-json: nothing was measured, {target} is not written"
        write_record(target, document)
        return f"pytest-benchmark JSON: {target}"
