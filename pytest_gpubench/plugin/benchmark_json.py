"""pytest-benchmark's side: its JSON written by us, its options named, its fixture left alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_gpubench.model.failures import GpubenchError

if TYPE_CHECKING:
    from pytest_gpubench.plugin.session_end import Writer

_ITS_OPTIONS = ("benchmark_json", "benchmark_compare", "benchmark_save", "benchmark_autosave")


def join_in(config: pytest.Config, target: Path | None, run: Path) -> Writer:
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
