"""The plan: what a selection would run, as JSON data, without starting anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pytest_gpubench.dialects.command_line import CommandLine
from pytest_gpubench.dialects.registry import dialect_of
from pytest_gpubench.doctor.findings import Finding
from pytest_gpubench.gate.policy import policies, policy_document
from pytest_gpubench.gate.ratios import ratio_points
from pytest_gpubench.model.cases import Case, RecipeBook
from pytest_gpubench.model.evaluation import ACCURACY
from pytest_gpubench.model.grouping import grouped
from pytest_gpubench.model.metrics import METRICS
from pytest_gpubench.model.specs import Launch
from pytest_gpubench.recipes.inferencex import unsupported_groups


def plan_document(
    book: RecipeBook,
    cases: Sequence[Case],
    command_lines: Mapping[str, CommandLine],
    findings: Mapping[str, Sequence[Mapping[str, Any]]],
    launches: Sequence[Launch] = (),
    against: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Cases in the order given, the servers they need with their launches, and the ratios between
    them.

    ``command_lines`` and ``against`` (the second engine: what starts it, and what differs) are
    keyed by server, ``findings`` by case id. ``{port}`` stands for the port; revisions are as
    written. ``gates`` are those in force: the defaults with the recipe's.
    """
    launches_of = grouped(launches, lambda launch: launch.server)
    return {
        "files": list(book.files),
        "cases": [_case(book, case, findings.get(case.id, ())) for case in cases],
        "servers": {
            key: _server(book, key, [case.id for case in own], command_lines[key])
            | {
                "launches": [
                    {"launch": launch.label, "reserve": launch.reserve}
                    for launch in launches_of.get(key, ())
                ],
                "against": (against or {}).get(key),
            }
            for key, own in grouped(cases, lambda case: case.server).items()
        },
        "ratios": [asdict(point) for point in ratio_points(book.ratios, book.cases, cases)],
        "unsupported": [
            {"recipe": it.recipe, "where": str(it.position), "reason": it.reason}
            for it in book.unsupported
        ],
        "unsupported_groups": unsupported_groups(book.unsupported),
    }


def _case(book: RecipeBook, case: Case, findings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    topology = case.topology
    return {
        "id": case.id,
        "recipe": case.recipe,
        "tags": list(case.tags),
        "runner": case.runner,
        "topology": {
            "tp": topology.tp,
            "pp": topology.pp,
            "ep": topology.ep,
            "dp_attn": topology.dp_attn,
        },
        "parallel": {
            "tensor_parallel_size": topology.tensor_parallel_size,
            "dp": topology.dp,
            "expert_parallel": topology.expert_parallel,
        },
        "gpus": case.gpus,
        "isl": case.workload.isl,
        "osl": case.workload.osl,
        "conc": case.workload.conc,
        "rounds": str(case.rounds),
        "max_model_len": case.max_model_len,
        "spec": case.identity.spec,
        "server": case.server,
        "runnable": case.runnable,
        "why_not": case.why_not,
        "gates": _gates(book, case),
        "findings": list(findings),
    } | ({"evaluation": asdict(case.evaluation)} if case.evaluation else {})


def _gates(book: RecipeBook, case: Case) -> dict[str, dict[str, object]]:
    if case.evaluation is None:
        spec = book.server(case.server)
        return policy_document(policies(case.gates, case.workload, spec.speculative, spec.model))
    at_least = case.evaluation.at_least
    limit = {} if at_least is None else {"at-least": at_least}
    return {ACCURACY: {"unit": METRICS[ACCURACY].unit, **limit}}


def _server(book: RecipeBook, key: str, cases: list[str], line: CommandLine) -> dict[str, Any]:
    spec = book.server(key)
    return {
        "argv": list(line.argv),
        "env": line.printable_env() | dict.fromkeys(line.unset),
        "gpus": spec.topology.gpus,
        "defaults": list(dialect_of(spec.framework).our_defaults(spec)),
        "cases": cases,
    }


def findings_by_server(plan: Mapping[str, Any]) -> dict[str, list[Finding]]:
    """The findings of a plan as objects, each once per server, for servers that have any."""
    found: dict[str, dict[tuple[str, str], Finding]] = {}
    for case in plan["cases"]:
        for data in case["findings"]:
            finding = Finding(**{**data, "cases": tuple(data["cases"])})
            found.setdefault(case["server"], {})[finding.rule, finding.message] = finding
    return {server: list(findings.values()) for server, findings in found.items()}
