"""Everything the doctor knows about vLLM's servers, one small function per rule, in one table.

Pure: no files, no GPU, no clock.
"""

from __future__ import annotations

from pytest_gpubench.doctor.context import Rule
from pytest_gpubench.doctor.rules import (
    all_reduce,
    attention,
    capacity,
    drafting,
    memory,
    minimax,
    names,
    parallelism,
    prompting,
    quantization,
)

RULES: tuple[Rule, ...] = (
    *names.RULES,
    *parallelism.RULES,
    *all_reduce.RULES,
    *attention.RULES,
    *minimax.RULES,
    *quantization.RULES,
    *drafting.RULES,
    *capacity.RULES,
    *memory.RULES,
    *prompting.RULES,
)
