"""The benchmark's test functions: ``benchmarks/test_serving.py`` imports them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_gpubench.engines.engine import Engine, EngineCheck
    from pytest_gpubench.measure.measurement import Measurement
    from pytest_gpubench.model.verdicts import Verdict

__all__ = ["test_accuracy", "test_engine_init", "test_ratio", "test_throughput"]


def test_engine_init(
    _gpubench_engine: Engine,
    _gpubench_engine_check: EngineCheck,
    _gpubench_init_gate: Callable[[], Verdict],
) -> None:
    """The engine that runs is the one that the recipe asked for: name, parallelism, block size,
    speculative config, backends; then the gate on the duration of its start."""
    assert _gpubench_engine.served_name in _gpubench_engine.facts.served_names
    assert _gpubench_engine_check.deviations == ()
    assert _gpubench_engine_check.checked
    _gpubench_init_gate()


def test_throughput(
    _gpubench_measure: Callable[[], Measurement], _gpubench_gate: Callable[[Measurement], Verdict]
) -> None:
    """No failed request, every output as long as asked, the draft really drafted, prefix cache
    unused; then the gates."""
    _gpubench_gate(_gpubench_measure())


def test_accuracy(_gpubench_accuracy: Callable[[], Verdict]) -> None:
    """The questions of the recipes' ``evals``, asked of the same server after its loads, and the
    gate on how many are answered right."""
    _gpubench_accuracy()


def test_ratio(_gpubench_ratio_gate: Callable[[], Verdict]) -> None:
    """One metric of two cases of this run, as the recipes' ``ratios`` demand it: last, without a
    server."""
    _gpubench_ratio_gate()
