"""The rules of the doctor."""

from __future__ import annotations

from itertools import groupby

from docs_reference.markdown import code, prose, table
from pytest_gpubench.doctor.context import Rule
from pytest_gpubench.doctor.rules import every_rule

_HEAD = """# Rules of the doctor

[The doctor](../doctor.md) says what they are for; `gpubench doctor --rules` prints them. Severity is the usual one: a rule may soften it
where the outcome is milder. Seen on a GPU: an H100 or H200 with vLLM 0.26.0. Seen on the CPU engine: vLLM 0.32.0 refused that very
configuration. Read in source: of vLLM 0.32.0.
"""
_SUBJECTS = {
    "minimax": "MiniMax-M3",
    "drafting": "Drafts",
    "capacity": "Lengths, batches, CUDA graphs",
    "prompting": "Requests, and what is not known",
    "sglang_rules": "SGLang",
}
"""Modules whose rules stand under another heading than their own name."""


def rules_page() -> str:
    """The page: a table per subject, which is the module that a rule stands in."""
    parts = [_HEAD]
    for subject, rules in groupby(every_rule(), key=_subject):
        rows = [
            (code(rule.id), rule.severity, rule.evidence_class, prose(rule.title)) for rule in rules
        ]
        parts += [
            f"## {subject}\n",
            table(("rule", "severity", "evidence", "what must hold"), rows) + "\n",
        ]
    return "\n".join(parts)


def _subject(rule: Rule) -> str:
    module = rule.check.__module__.rpartition(".")[2]
    return _SUBJECTS.get(module, module.capitalize())
