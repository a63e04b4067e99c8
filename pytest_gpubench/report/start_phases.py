"""What a server's start consists of, as its record says."""

from __future__ import annotations

from pytest_gpubench.report.results import InitResult

PHASES = (
    "process_start",
    "imports",
    "config",
    "weights",
    "compile",
    "kv_cache",
    "graph_capture",
    "other",
)
NAMES = {"process_start": "process", "kv_cache": "KV cache", "graph_capture": "graph capture"}


def total(init: InitResult) -> float:
    """Seconds from the process's start to ready."""
    return max(init.phases.get("ready", 0.0), sum(init.phases.get(phase, 0.0) for phase in PHASES))


def parts_of(init: InitResult) -> dict[str, float]:
    """The same by phase, in order; what no phase accounts for is ``other``."""
    parts = {phase: max(0.0, init.phases.get(phase, 0.0)) for phase in PHASES[:-1]}
    return parts | {"other": max(0.0, total(init) - sum(parts.values()))}
