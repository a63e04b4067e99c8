"""LLM serving benchmarks as pytest tests.

What is public: the names below, the fixtures, marks and options of the plugin, the commands of
``gpubench``, exit codes, and the formats of recipes.yaml, of records and of baselines. Everything
else may change in any release.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from pytest_gpubench._version import __version__

if TYPE_CHECKING:
    from pytest_gpubench.dialects.dialect import Dialect
    from pytest_gpubench.dialects.engine_facts import EngineFacts
    from pytest_gpubench.engines.engine import Engine
    from pytest_gpubench.measure.measurement import Drafting, Flag, Measurement, Totals
    from pytest_gpubench.model.cases import Case, Identity, RecipeBook
    from pytest_gpubench.model.failures import BenchmarkError, Failure, GpubenchError
    from pytest_gpubench.model.specs import Launch, ServerSpec, Speculative, Topology
    from pytest_gpubench.model.verdicts import Change, MetricVerdict, Status, Verdict
    from pytest_gpubench.model.workload import Workload

_HOMES = {
    "dialects.dialect": ("Dialect",),
    "dialects.engine_facts": ("EngineFacts",),
    "engines.engine": ("Engine",),
    "measure.measurement": ("Drafting", "Flag", "Measurement", "Totals"),
    "model.cases": ("Case", "Identity", "RecipeBook"),
    "model.failures": ("BenchmarkError", "Failure", "GpubenchError"),
    "model.specs": ("Launch", "ServerSpec", "Speculative", "Topology"),
    "model.verdicts": ("Change", "MetricVerdict", "Status", "Verdict"),
    "model.workload": ("Workload",),
}
"""Loaded when they are asked for: pytest imports this package in every run."""
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "BenchmarkError",
    "Case",
    "Change",
    "Dialect",
    "Drafting",
    "Engine",
    "EngineFacts",
    "Failure",
    "Flag",
    "GpubenchError",
    "Identity",
    "Launch",
    "Measurement",
    "MetricVerdict",
    "RecipeBook",
    "ServerSpec",
    "Speculative",
    "Status",
    "Topology",
    "Totals",
    "Verdict",
    "Workload",
    "__version__",
]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
