"""The plan: what a selection would run, as JSON data, without starting anything; and how long it
will take, from what the results folder knows of the same cases and servers, never a guess without
evidence."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
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
from pytest_gpubench.report.numbers import finite, seconds


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


_MOST_RUNS = 20
_MOST_FILES = 400
_MOST_BYTES = 8 * 2**20


@dataclass(frozen=True, slots=True)
class Wanted:
    """One planned launch of a server."""

    server: str
    workloads: tuple[str, ...]
    """Labels of the cases measured on it."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds, and on how much of the plan they rest."""

    seconds: float | None
    known: int = 0
    total: int = 0

    def __str__(self) -> str:
        if self.seconds is None:
            return "unknown: too few earlier results of these cases"
        part = "" if self.known == self.total else f" of {self.known} of {self.total} cases"
        return f"about {seconds(_rounded(self.seconds))}, from earlier results{part}"


def _rounded(value: float) -> float:
    step = next((step for below, step in ((100, 5), (7200, 60)) if value < below), 300)
    return max(step, round(value / step) * step)


def estimate(wanted: Sequence[Wanted], results: Path) -> Estimate:
    """Time for the planned launches, by the newest earlier records in a results folder."""
    total = sum(len(launch.workloads) for launch in wanted)
    memory = _Memory(results)
    if not total or not memory.runs:
        return Estimate(None, 0, total)
    spent, known, starts_known, with_times = 0.0, 0, 0, 0
    for launch in wanted:
        start = memory.seconds(launch.server, "init")
        found = {label: memory.seconds(launch.server, label) for label in launch.workloads}
        times = [time for time in found.values() if time is not None]
        known += len(times)
        starts_known += start is not None
        if not times:
            continue
        with_times += 1
        mean = statistics.fmean(times)
        spent += (start or 0.0) + sum(mean if time is None else time for time in found.values())
    if known * 2 < total or starts_known * 2 < len(wanted):
        return Estimate(None, known, total)
    # Servers of which nothing is known take what the others take.
    return Estimate(spent * len(wanted) / max(with_times, 1), known, total)


class _Memory:
    """The newest record of each case and start, read when asked for, each once."""

    def __init__(self, results: Path) -> None:
        self.runs = _newest_runs(results)
        self._read = 0
        self._known: dict[tuple[str, str], float | None] = {}

    def seconds(self, server: str, label: str) -> float | None:
        """From start to finish of the last measurement of a case; ``init``: of the last start."""
        key = server, label
        if key not in self._known:
            paths = (run / server / label / "launch-1.json" for run in self.runs)
            record = next(filter(None, map(self._record, paths)), {})
            self._known[key] = _ready(record) if label == "init" else _span(record)
        return self._known[key]

    def _record(self, path: Path) -> Mapping[str, Any]:
        if self._read >= _MOST_FILES:
            return {}
        try:
            if path.stat().st_size > _MOST_BYTES:
                return {}
            self._read += 1
            record = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        return record if isinstance(record, dict) and not record.get("failure") else {}


def _newest_runs(results: Path) -> list[Path]:
    try:
        runs = [path for path in results.iterdir() if path.is_dir()]
    except OSError:
        return []
    return sorted(runs, reverse=True)[:_MOST_RUNS]


def _span(record: Mapping[str, Any]) -> float | None:
    try:
        began, ended = (datetime.fromisoformat(record[name]) for name in ("started", "finished"))
        span = (ended - began).total_seconds()
    except (KeyError, TypeError, ValueError):
        return None
    return span if 0 < span < 1e6 else None


def _ready(record: Mapping[str, Any]) -> float | None:
    phases = record.get("phases")
    ready = finite(phases.get("ready")) if isinstance(phases, dict) else None
    return ready if ready is not None and 0 < ready < 1e6 else None
