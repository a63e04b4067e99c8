"""Rules that hold for every engine, in the words of none."""

from __future__ import annotations

from dataclasses import replace

from pytest_gpubench.doctor.context import Rule
from pytest_gpubench.doctor.rules import parallelism, prompting

_IDS = frozenset(
    {
        "heads-by-tp",
        "kv-heads-by-tp",
        "experts-below-tp",
        "ep-without-experts",
        "gpus-above-node",
        "stages-above-layers",
        "chat-template",
        "facts-contradict",
        "unknown-model",
    }
)
SHARED_RULES: tuple[Rule, ...] = tuple(
    replace(rule, engine_says="")
    for rule in (*parallelism.RULES, *prompting.RULES)
    if rule.id in _IDS
)
"""What another engine would say is not known."""
