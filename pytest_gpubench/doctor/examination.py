"""The examination: one server looked at by every rule. Pure: no files, no GPU, no clock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from pytest_gpubench.doctor.facts import known_config
from pytest_gpubench.doctor.findings import Finding, in_order
from pytest_gpubench.doctor.memory import MemoryEstimate, estimate_memory
from pytest_gpubench.doctor.patient import Node, Patient, Rule, Symptom
from pytest_gpubench.doctor.rules import RULES
from pytest_gpubench.doctor.settings import settings_of
from pytest_gpubench.doctor.shape import ModelShape, shape_of
from pytest_gpubench.model.cases import Case
from pytest_gpubench.model.hardware import Hardware
from pytest_gpubench.model.specs import ServerSpec

Config = Mapping[str, Any]


def examine(
    spec: ServerSpec,
    cases: Iterable[Case] = (),
    *,
    hardware: Hardware,
    target: Config | None = None,
    draft: Config | None = None,
    node: Node | None = None,
    chat_template: bool | None = None,
) -> tuple[Finding, ...]:
    """Everything the doctor has to say about one server, worst first.

    Args:
        spec: the server as it would be launched (vLLM; for other frameworks nothing is found).
        cases: the cases that it will answer.
        hardware: the hardware that it is meant for.
        target: the model's config.json as plain data; None: the built-in facts about the repository, if there are any.
        draft: the draft's config.json, likewise.
        node: facts about the machine at hand; None when planning for another one.
        chat_template: whether the model's tokenizer has a chat template; None: not known.
    """
    if spec.framework != "vllm":
        return ()
    patient = admit(spec, cases, hardware=hardware, target=target, draft=draft, node=node, chat_template=chat_template)
    return in_order(_finding(rule, symptom) for rule in RULES for symptom in rule.check(patient))


def admit(
    spec: ServerSpec,
    cases: Iterable[Case] = (),
    *,
    hardware: Hardware,
    target: Config | None = None,
    draft: Config | None = None,
    node: Node | None = None,
    chat_template: bool | None = None,
) -> Patient:
    """Gather what is known about a server; see `examine`. Its ``memory`` is the estimate that plans and records carry."""
    settings = settings_of(spec, hardware)
    here = node or Node()
    overrides = settings.flags.get("hf-overrides")
    target_shape = _shape(spec.model, target, overrides if isinstance(overrides, Mapping) else {})
    speculative = spec.speculative
    draft_shape = _shape(speculative.model, draft, {}) if speculative is not None and speculative.model is not None else None
    patient = Patient(
        spec=spec,
        cases=tuple(cases),
        settings=settings,
        target=target_shape,
        draft=draft_shape,
        hardware=hardware,
        node=here,
        chat_template=chat_template,
        memory=None,
    )
    memory = estimate_memory(
        target_shape,
        draft_shape,
        settings=settings,
        topology=spec.topology,
        hardware=hardware,
        total_gib=here.vram_gib,
        draft_tp=patient.draft_tp if speculative is not None and speculative.model is not None else 0,
    )
    return replace(patient, memory=memory)


def memory_of(
    spec: ServerSpec, *, hardware: Hardware, target: Config | None = None, draft: Config | None = None, node: Node | None = None
) -> MemoryEstimate | None:
    """The memory estimate of one server, or None where its model is not known well enough."""
    return admit(spec, hardware=hardware, target=target, draft=draft, node=node).memory


def _shape(repository: str, config: Config | None, overrides: Config) -> ModelShape | None:
    found = config if config is not None else known_config(repository)
    if found is None:
        return None
    merged = {**found, **overrides}
    inner_found, inner = found.get("text_config"), overrides.get("text_config")
    if isinstance(inner_found, Mapping) and isinstance(inner, Mapping):
        merged["text_config"] = {**inner_found, **inner}
    return shape_of(merged)


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
