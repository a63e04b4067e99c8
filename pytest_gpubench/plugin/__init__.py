"""pytest's side of pytest-gpubench.

This module is imported in every pytest run of an environment that has the plugin installed. It must
cost nothing there: everything beyond options and fixture declarations is imported when recipes are
loaded.
"""

from __future__ import annotations

import pytest

from pytest_gpubench.plugin.fixtures import (
    _gpubench_accuracy,
    _gpubench_case,
    _gpubench_engine,
    _gpubench_engine_check,
    _gpubench_evaluation,
    _gpubench_gate,
    _gpubench_init_gate,
    _gpubench_launch,
    _gpubench_measure,
    _gpubench_ratio,
    _gpubench_ratio_gate,
    async_client,
    case,
    client,
    engine,
    gate,
    measure,
    parametrize,
)
from pytest_gpubench.plugin.items import ASKING, MARK_FIELDS
from pytest_gpubench.plugin.options import add_options, recipe_files

__all__ = [
    "_gpubench_accuracy",
    "_gpubench_case",
    "_gpubench_engine",
    "_gpubench_engine_check",
    "_gpubench_evaluation",
    "_gpubench_gate",
    "_gpubench_init_gate",
    "_gpubench_launch",
    "_gpubench_measure",
    "_gpubench_ratio",
    "_gpubench_ratio_gate",
    "async_client",
    "case",
    "client",
    "engine",
    "gate",
    "measure",
    "pytest_addoption",
    "pytest_cmdline_main",
    "pytest_configure",
    "pytest_generate_tests",
]


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int | None:
    if hasattr(config, "workerinput"):  # of xdist: its controller has done it
        return None
    if not any(
        value for name, value in vars(config.option).items() if name.startswith("gpubench_")
    ):
        return None
    from pytest_gpubench.plugin.options import begin_anew

    return begin_anew(config)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        f"gpubench({', '.join(MARK_FIELDS)}): "
        "exact selection of benchmark cases, for instance -m \"gpubench(hardware='h100', "
        'conc=64)"',
    )
    files, _ = recipe_files(config)
    if files:
        from pytest_gpubench.plugin.activate import activate
        from pytest_gpubench.plugin.resolve_settings import resolve_settings

        activate(config, resolve_settings(config))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if ASKING.intersection(metafunc.fixturenames):
        parametrize(metafunc)
