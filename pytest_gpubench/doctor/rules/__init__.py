"""Everything the doctor knows, one small function per rule, in one table; and the examination of a
server by all of them.

Pure: no files, no GPU, no clock.
"""

from __future__ import annotations

from collections.abc import Iterable

from pytest_gpubench.doctor.context import Config, Node, Rule, Symptom, context_of
from pytest_gpubench.doctor.findings import Finding, in_order
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
from pytest_gpubench.model.cases import Case
from pytest_gpubench.model.hardware import Hardware
from pytest_gpubench.model.specs import ServerSpec

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
RULE_IDS: tuple[str, ...] = tuple(rule.id for rule in RULES)


def examine(
    spec: ServerSpec,
    cases: Iterable[Case] = (),
    *,
    hardware: Hardware,
    target: Config | None = None,
    draft: Config | None = None,
    node: Node | None = None,
    chat_template: bool | None = None,
    weights: int | None = None,
) -> tuple[Finding, ...]:
    """Everything the doctor has to say about one server, worst first.

    Args:
        spec: the server as it would be launched (vLLM; for other frameworks nothing is found).
        cases: the cases that it will answer.
        hardware: the hardware that it is meant for.
        target: the model's config.json as plain data; None: the built-in facts about the
        repository, if there are any.
        draft: the draft's config.json, likewise.
        node: facts about the machine at hand; None when planning for another one.
        chat_template: whether the model's tokenizer has a chat template; None: not known.
        weights: bytes of the model's weight files; None: not at hand.
    """
    if spec.framework != "vllm":
        return ()
    context = context_of(
        spec,
        cases,
        hardware=hardware,
        target=target,
        draft=draft,
        node=node,
        chat_template=chat_template,
        weights=weights,
    )
    return in_order(_finding(rule, symptom) for rule in RULES for symptom in rule.check(context))


def _finding(rule: Rule, symptom: Symptom) -> Finding:
    return Finding(
        rule=rule.id,
        severity=symptom.severity or rule.severity,
        message=symptom.message,
        engine_says=rule.engine_says.format(**symptom.says) if rule.engine_says else "",
        remedy=symptom.remedy,
        evidence_class=symptom.evidence_class or rule.evidence_class,
        cases=symptom.cases,
        outcome_unknown=rule.outcome_unknown,
    )
