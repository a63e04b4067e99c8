"""The doctor's rules, one small function each, in one table for vLLM's servers and one for every
engine's. Pure: no files, no GPU, no clock."""

from __future__ import annotations

from dataclasses import replace

from pytest_gpubench.doctor.context import Rule
from pytest_gpubench.doctor.rules import (
    attention,
    capacity,
    drafting,
    memory,
    names,
    parallelism,
    prompting,
    quantization,
)

RULES: tuple[Rule, ...] = (
    *names.RULES,
    *parallelism.RULES,
    *attention.RULES,
    *quantization.RULES,
    *drafting.RULES,
    *capacity.RULES,
    *memory.RULES,
    *prompting.RULES,
)
"""The rules for vLLM's servers."""
_SHARED = frozenset(
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
    if rule.id in _SHARED
)
"""Rules that hold for every engine, in the words of none: what another one says is not known."""
