"""What a run among many needs: its options, and pytest's hooks for them. Imported in every pytest run, so nothing heavy here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_gpubench.plugin.items import INIT_GATE, parameters_of

if TYPE_CHECKING:
    from pytest_gpubench.model.cases import Case
    from pytest_gpubench.model.specs import Launch
    from pytest_gpubench.plugin.session import Benchmark


_NOT_REUSED = {
    "base-url": "what a running server is, only the server can say",
    "update-baselines": "a baseline takes launches that this run has measured",
}
"""Options that contradict ``reuse``, with the reason."""


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """The options of this module, resolved."""

    matrix: Path | None = None
    reuse: bool = False


def add_options(group: pytest.OptionGroup) -> None:
    """Declare the options."""
    group.addoption(
        "--gpubench-matrix",
        metavar="FILE",
        help="collect only, and write the jobs of the selection (one per server) as JSON for a CI matrix",
    )
    group.addoption(
        "--gpubench-reuse",
        action="store_true",
        help="do not measure again what the results folder holds already: same server, workload, engine version, device, weights",
    )
    group.addoption(
        "--gpubench-changed-since",
        metavar="REV",
        help="only cases whose resolved recipe differs from that of a git revision; each is printed with what differs",
    )


def resolve(config: pytest.Config) -> FleetSettings:
    """The options' values."""
    from pytest_gpubench.plugin.options import given_path

    return FleetSettings(
        matrix=given_path(config, "matrix"),
        reuse=bool(config.getoption("gpubench_reuse")),
    )


def take_part(config: pytest.Config, benchmark: Benchmark) -> None:
    """Register the hooks that the options ask for.

    Raises:
        pytest.UsageError: for options that cannot be met.
    """
    settings = resolve(config)
    if settings.matrix is not None:
        config.option.collectonly = True
    revision = config.getoption("gpubench_changed_since")
    if revision is not None:
        from pytest_gpubench.plugin.changed_since import Changed

        config.pluginmanager.register(Changed(benchmark, revision), name="gpubench-changed")
    if settings.reuse:
        for name, why in _NOT_REUSED.items():
            if config.getoption(f"gpubench_{name.replace('-', '_')}"):
                raise pytest.UsageError(f"--gpubench-reuse and --gpubench-{name} exclude each other: {why}; leave one out")
        config.pluginmanager.register(_Reuse(benchmark), name="gpubench-reuse")


class _Reuse:
    """Skips the test of a server's start where no case of that launch needs the server."""

    def __init__(self, benchmark: Benchmark) -> None:
        self._benchmark = benchmark
        self._cases: dict[Launch, list[Case]] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            launch, case = parameters_of(item) or (None, None)
            if launch and case:
                self._cases.setdefault(launch, []).append(case)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        launch, case = parameters_of(item) or (None, None)
        reuse = self._benchmark.runner.reuse
        if launch is None or case is not None or reuse is None or INIT_GATE not in getattr(item, "fixturenames", ()):
            return
        cases = self._cases.get(launch, [])
        if cases and all(reuse.find(launch, one) for one in cases):
            pytest.skip("not started: every result on this launch is reused")
