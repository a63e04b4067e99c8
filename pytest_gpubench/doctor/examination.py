"""The examination of a server by the rules for its engine. Pure: no files, no GPU, no clock."""

from __future__ import annotations

import functools
import pkgutil
from collections.abc import Iterable
from dataclasses import replace
from functools import partial

from pytest_gpubench.dialects.registry import dialect_of, every_dialect
from pytest_gpubench.doctor.context import (
    NO_FACTS,
    Config,
    Node,
    Rule,
    ServerContext,
    Symptom,
    context_of,
)
from pytest_gpubench.doctor.findings import Finding, in_order
from pytest_gpubench.doctor.rules import SHARED_RULES
from pytest_gpubench.doctor.rules.prompting import UNKNOWN_MODEL
from pytest_gpubench.model.cases import Case
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.hardware import Hardware
from pytest_gpubench.model.specs import ServerSpec


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
    spec: ServerSpec,
    cases: Iterable[Case] = (),
    *,
    hardware: Hardware,
    target: Config | None = None,
    draft: Config | None = None,
    node: Node | None = None,
    chat_template: bool | None = None,
    weights: int | None = None,
    facts: FrozenMap = NO_FACTS,
) -> tuple[Finding, ...]:
    """Everything the doctor has to say about one server, worst first.

    Args:
        spec: the server as it would be launched.
        cases: the cases that it will answer.
        hardware: the hardware that it is meant for.
        target: the model's config.json as plain data; None: the built-in facts about the
        repository, if there are any.
        draft: the draft's config.json, likewise.
        node: facts about the machine at hand; None when planning for another one.
        chat_template: whether the model's tokenizer has a chat template; None: not known.
        weights: bytes of the model's weight files; None: not at hand.
        facts: what the recipe states of config, draft-config and weight-bytes, for those that are
        None; a finding that rests on it says so.
    """
    know = partial(
        context_of,
        spec,
        tuple(cases),
        hardware=hardware,
        target=target,
        draft=draft,
        node=node,
        chat_template=chat_template,
        weights=weights,
    )
    context = know(facts=facts)
    found = _findings(context)
    if context.stated:
        found = _sourced(found, _findings(know()))
    return in_order(found)


def _findings(context: ServerContext) -> list[Finding]:
    rules = rules_of(context.spec.framework)
    return [_finding(rule, symptom) for rule in rules for symptom in rule.check(context)]


def _sourced(found: list[Finding], without: list[Finding]) -> list[Finding]:
    """The findings, with a word on those that would not be there without the recipe's facts."""
    return [
        one
        if one in without or one.rule == UNKNOWN_MODEL
        else replace(one, message=f"{one.message} (From the recipe's facts.)")
        for one in found
    ]


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
