"""Everything the doctor knows, one small function per rule, in one table."""

from __future__ import annotations

from pytest_gpubench.doctor.patient import Rule
from pytest_gpubench.doctor.rules import attention, capacity, drafting, memory, minimax, names, parallelism, quantization, requests

RULES: tuple[Rule, ...] = (
    *names.RULES,
    *parallelism.RULES,
    *attention.RULES,
    *minimax.RULES,
    *quantization.RULES,
    *drafting.RULES,
    *capacity.RULES,
    *memory.RULES,
    *requests.RULES,
)
RULE_IDS: tuple[str, ...] = tuple(rule.id for rule in RULES)
