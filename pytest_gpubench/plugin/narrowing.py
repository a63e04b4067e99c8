"""What takes cases out of a selection, after ``-k`` and ``-m``: ``--gpubench-changed-since`` and
``--gpubench-trim``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_gpubench.model.cases import lowest_of_servers
from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.plugin.items import USES_US, parameters_of

if TYPE_CHECKING:
    from pytest_gpubench.plugin.session import BenchmarkSession
    from pytest_gpubench.recipes.changes import Change


class Changed:
    """Deselects what is as it was at a git revision, and says why each other case is run."""

    def __init__(self, benchmark: BenchmarkSession, revision: str) -> None:
        from pytest_gpubench.host.git import files_at
        from pytest_gpubench.recipes.changes import changes
        from pytest_gpubench.recipes.loading import load_recipes

        settings, book = benchmark.settings, benchmark.book
        try:
            with tempfile.TemporaryDirectory(prefix="gpubench-revision-") as folder:
                before = load_recipes(
                    files_at(settings.recipe_files, revision, Path(folder)),
                    policy=settings.server_per,
                )
        except GpubenchError as error:
            raise pytest.UsageError(f"--gpubench-changed-since: {error}") from None
        self._benchmark = benchmark
        self._revision = revision
        self._broken = len(before.problems)
        self._changes: dict[str, Change] = {
            one.case: one for one in changes(before, book) if one.kind != "removed"
        }
        self._servers = {case.server for case in book.cases if case.id in self._changes}
        self._told = False

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        same = [item for item in items if self._is_as_it_was(item)]
        if same:
            unchanged = set(same)
            items[:] = [item for item in items if item not in unchanged]
            config.hook.pytest_deselected(items=same)

    def _is_as_it_was(self, item: pytest.Item) -> bool:
        launch, case = parameters_of(item) or (None, None)
        if case is not None:
            return case.id not in self._changes
        return launch is not None and launch.server not in self._servers

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        found = [
            case for item in session.items if (case := (parameters_of(item) or (None, None))[1])
        ]
        self._tell(session.config, {case.id for case in found})

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: list[str]) -> None:
        from pytest_gpubench.plugin.xdist import Selection

        selection = Selection(self._benchmark.book, self._benchmark.parameters)
        found = [one for nodeid in ids if (one := selection.parameters_of(nodeid))]
        if found or not ids:
            node.config.stash[USES_US] = True
        self._tell(node.config, {case.id for _, case in found if case})

    def _tell(self, config: pytest.Config, selected: set[str]) -> None:
        from pytest_gpubench.recipes.changes import broken_before, lines

        reporter = config.pluginmanager.get_plugin("terminalreporter")
        if self._told or reporter is None or USES_US not in config.stash:
            return
        self._told = True
        reporter.ensure_newline()
        if self._broken:
            reporter.write_line(f"since {self._revision}: {broken_before(self._broken)}")
        chosen = [change for case, change in self._changes.items() if case in selected]
        for line in lines(chosen) or ["no selected case changed"]:
            reporter.write_line(f"since {self._revision}: {line}")


class Trim:
    """Leaves of every server that is selected only the case of lowest concurrency."""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        cases = {item: (parameters_of(item) or (None, None))[1] for item in items}
        kept = lowest_of_servers(case for case in cases.values() if case is not None)
        dropped = {item for item, case in cases.items() if case and case.id not in kept}
        if dropped:
            items[:] = [item for item in items if item not in dropped]
            config.hook.pytest_deselected(items=list(dropped))
