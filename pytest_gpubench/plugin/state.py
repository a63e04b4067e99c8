"""Where a run's state lives: ``config.stash``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_gpubench.plugin.session import Benchmark

BENCHMARK = pytest.StashKey["Benchmark"]()
ASKED = pytest.StashKey[bool]()
"""Whether a collected test asked for one of our fixtures."""


def find_benchmark(config: pytest.Config) -> Benchmark | None:
    """The run's state, or None where no recipes are loaded."""
    return config.stash.get(BENCHMARK, None)


def benchmark_of(config: pytest.Config) -> Benchmark:
    """The run's state, for fixtures that exist only with it."""
    return config.stash[BENCHMARK]
