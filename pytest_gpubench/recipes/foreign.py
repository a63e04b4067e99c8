"""Files that have only InferenceX keys: what of them we cannot run is listed, the rest goes on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pytest_gpubench.recipes.identity import hardware_of
from pytest_gpubench.recipes.schema import FRAMEWORKS
from pytest_gpubench.recipes.yamltree import Node

OUR_KEYS = frozenset(
    ("extends", "serve", "speculative", "env", "when", "client", "gates", "requires", "source", "server-per", "command", "revision")
)
RESERVED = ("templates", "runners", "ratios")


def is_foreign(root: Node) -> bool:
    """Whether a file has none of our own keys."""
    if any(key in root.entries for key in RESERVED):
        return False
    return not any(OUR_KEYS & entry.node.entries.keys() for entry in root.entries.values())


def unsupported_reasons(entry: Node, runners: Mapping[str, str]) -> list[str]:
    """Why an InferenceX entry cannot be run here at all; empty if its fixed-seq-len part can."""
    reasons = []
    framework = _leaf(entry, "framework")
    if isinstance(framework, str) and framework not in FRAMEWORKS:
        reasons.append(f"framework {framework} (only {', '.join(FRAMEWORKS)} is supported)")
    if _leaf(entry, "multinode") is True:
        reasons.append("multi-node (one server over several nodes is not supported)")
    scenarios = entry.get("scenarios")
    fixed = scenarios.get("fixed-seq-len") if scenarios else None
    if scenarios and not fixed and scenarios.get("agentic-coding"):
        reasons.append("agentic-coding scenario")
    runner = _leaf(entry, "runner")
    if isinstance(runner, str) and hardware_of(runner, runners) is None:
        reasons.append(
            f"runner label '{runner}' maps to no hardware (a file with `runners: {{'{runner}': {{hardware: ...}}}}` maps it)"
        )
    if fixed and "draft_model" in {_leaf(row, "spec-decoding") for row in _rows(fixed)}:
        reasons.append("spec-decoding: draft_model (its draft is named in a shell script only)")
    return reasons


def has_agentic_part(entry: Node) -> bool:
    """Whether an entry measures agentic traces beside fixed lengths."""
    scenarios = entry.get("scenarios")
    return bool(scenarios and scenarios.get("agentic-coding"))


def _rows(fixed: Node) -> Iterable[Node]:
    for item in fixed.items:
        space = item.get("search-space")
        yield from space.items if space else ()


def _leaf(node: Node, key: str) -> Any:
    found = node.get(key)
    return None if found is None or isinstance(found.value, dict | list) else found.value
