"""What a run tells at its beginning and leaves at its end: the estimate, the HTML report, the
summary of a CI job."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_gpubench.plugin.items import USES_US, parameters_of

if TYPE_CHECKING:
    from pytest_gpubench.plugin.session import BenchmarkSession
    from pytest_gpubench.plugin.session_end import Writer
    from pytest_gpubench.report.estimate import Estimate
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
        from pytest_gpubench.report.read_results import load_results
        from pytest_gpubench.report.results import Loaded

        run = self._benchmark.folder.path
        loaded = load_results([run]) if run.is_dir() else Loaded((), ())
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
    from pytest_gpubench.report.estimate import Wanted, estimate

    labels: dict[tuple[str, str], dict[str, None]] = {}
    for item in session.items:
        launch, case = parameters_of(item) or (None, None)
        if launch is None or launch.reserve:
            continue
        mine = labels.setdefault((launch.server, launch.label), {})
        if case is not None and case.runnable:
            mine[case.workload.label] = None
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
