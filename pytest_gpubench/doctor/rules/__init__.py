"""The doctor's rules, one small function each, in one table for vLLM's servers and one for every
engine's, and the examination of a server by those for its engine. Pure: no files, no GPU, no
clock."""

from __future__ import annotations

import functools
import pkgutil
from collections.abc import Iterable
from dataclasses import replace
from typing import Unpack

from pytest_gpubench.dialects.registry import dialect_of, every_dialect
from pytest_gpubench.doctor.context import Known, Rule, ServerContext, Symptom, context_of
from pytest_gpubench.doctor.findings import Finding, in_order
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
from pytest_gpubench.model.cases import Case
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.specs import ServerSpec

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
SHARED_RULES: tuple[Rule, ...] = tuple(
    replace(rule, engine_says="")
    for rule in (
        *(parallelism.heads_by_tp, parallelism.kv_heads_by_tp, parallelism.experts_below_tp),
        *(parallelism.ep_without_experts, parallelism.gpus_above_node),
        *(parallelism.stages_above_layers, prompting.chat_template),
        *(prompting.facts_contradict, prompting.unknown_model),
    )
)
"""Rules that hold for every engine, in the words of none: what another one says is not known."""


@functools.cache
def rules_of(framework: str) -> tuple[Rule, ...]:
    """The rules for an engine: its own, or those that hold for every engine."""
    place = dialect_of(framework).doctor_rules
    rules: tuple[Rule, ...] = pkgutil.resolve_name(place) if place else SHARED_RULES
    return rules


def every_rule() -> tuple[Rule, ...]:
    """The rules for all engines at hand, each once."""
    rules = (rule for dialect in every_dialect() for rule in rules_of(dialect.name))
    return tuple({rule.id: rule for rule in rules}.values())


def examine(
    spec: ServerSpec, cases: Iterable[Case] = (), **known: Unpack[Known]
) -> tuple[Finding, ...]:
    """Everything the doctor has to say about one server as it would be launched and the cases that
    it will answer, worst first. A finding that rests on the recipe's facts says so."""
    context = context_of(spec, cases, **known)
    found = _findings(context)
    if context.stated:
        alone: Known = {**known, "facts": FrozenMap()}
        found = _sourced(found, _findings(context_of(spec, context.cases, **alone)))
    return in_order(found)


def _findings(context: ServerContext) -> list[Finding]:
    rules = rules_of(context.spec.framework)
    return [_finding(rule, symptom) for rule in rules for symptom in rule.check(context)]


def _sourced(found: list[Finding], without: list[Finding]) -> list[Finding]:
    """The findings, with a word on those that would not be there without the recipe's facts."""
    return [
        one
        if one in without or one.rule == prompting.unknown_model.id
        else replace(one, message=f"{one.message} (From the recipe's facts.)")
        for one in found
    ]


def _finding(rule: Rule, symptom: Symptom) -> Finding:
    return Finding(
        rule=rule.id,
        severity=symptom.severity or rule.severity,
        message=symptom.message,
        engine_says=symptom.said(rule.engine_says),
        remedy=symptom.remedy,
        evidence_class=symptom.evidence_class or rule.evidence_class,
        cases=symptom.cases,
        outcome_unknown=rule.outcome_unknown,
    )
