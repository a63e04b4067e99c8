"""The doctor's findings for the servers of a run: specs, config.json files at hand and this host's
facts, brought together."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pytest_gpubench.dialects.engine_facts import EngineFacts
from pytest_gpubench.dialects.registry import dialect_of
from pytest_gpubench.doctor.configs import read_model_configs
from pytest_gpubench.doctor.context import Known, Node, memory_of
from pytest_gpubench.doctor.findings import Finding, unknown_rules, without
from pytest_gpubench.doctor.rules import every_rule, examine
from pytest_gpubench.engines.interpreter import kept_vocabulary, probe_command, starts_itself
from pytest_gpubench.host.gpus.inventory import Gpu, GpuProcess, Inventory
from pytest_gpubench.host.hub.local import Snapshot, default_cache_dir, find_snapshot
from pytest_gpubench.host.leases.owners import in_words
from pytest_gpubench.model.cases import RecipeBook
from pytest_gpubench.model.failures import Failure, GpubenchError
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.specs import ServerSpec
from pytest_gpubench.runs.model_files import Wanted, models_of
from pytest_gpubench.runs.settings import Settings

_GIB = 2**30
FREE_MEMORY = "free-memory"
"""The rule about memory that others hold: it is asked when nobody else may use the GPUs any
more."""


class Doctor:
    """Findings by server, without those that ``--gpubench-ignore-findings`` silences."""

    def __init__(
        self, settings: Settings, book: RecipeBook, inventory: Callable[[], Inventory]
    ) -> None:
        unknown = unknown_rules(settings.ignore_findings, [rule.id for rule in every_rule()])
        if unknown:
            raise GpubenchError(f"--gpubench-ignore-findings: {' '.join(unknown)}")
        self._settings = settings
        self._book = book
        self._inventory = inventory

    def findings(
        self, key: str, *, here: bool = False, leased: Sequence[Gpu] = ()
    ) -> tuple[Finding, ...]:
        """Findings of a server and its cases; with ``here`` the GPUs of this host count, else the
        hardware table's.

        Args:
            leased: GPUs that the server holds: only of these it counts how much of their memory is
                free.
        """
        spec = self._book.server(key)
        cases = self._book.cases_of(key)
        node = self._node(spec, leased) if here else self._asked(spec)
        found = examine(spec, cases, **self._known(key, node))
        if self._book.never_runs(key):  # an error is what ends a run
            found = tuple(
                replace(one, severity="warning") if one.severity == "error" else one
                for one in found
            )
        return without(found, self._settings.ignore_findings)

    def death(self, key: str) -> Failure | None:
        """The failure that a server would die of on this host, whoever else uses it, if the doctor
        foresees one."""
        return as_failure(
            [finding for finding in self.findings(key, here=True) if not finding.cases]
        )

    def memory_in_use(self, key: str, leased: Sequence[Gpu]) -> Failure | None:
        """The failure that a server would die of since somebody else holds memory of the GPUs that
        it has leased."""
        if not leased:
            return None
        found = [
            finding
            for finding in self.findings(key, here=True, leased=leased)
            if finding.rule == FREE_MEMORY
        ]
        if not found:
            return None
        users = [
            f"GPU {gpu.index}: {_users(gpu)}" for gpu in leased if gpu.memory_used or gpu.processes
        ]
        return Failure(
            "gpu-memory-in-use",
            "infrastructure",
            f"memory of the leased GPUs is in use: {found[0].message}",
            (*users, *(line for finding in found for line in _lines(finding)[1:])),
            remedy=(
                f"End what holds it. {found[0].remedy} To try it all the same: "
                f"--gpubench-ignore-findings {FREE_MEMORY}"
            ),
        )

    def memory(self, key: str, facts: EngineFacts) -> dict[str, Any] | None:
        """The memory estimate of a server beside what its engine says, with relative errors; None
        where there is no estimate."""
        spec = self._book.server(key)
        estimate = memory_of(spec, **self._known(key, self._node(spec)))
        if estimate is None:
            return None
        errors = estimate.errors(
            model_loading_gib=facts.weights_gib,
            available_kv_gib=facts.kv_cache_memory_gib,
            kv_tokens=facts.kv_cache_tokens,
        )
        return {"estimate": estimate, "relative_errors": errors}

    def _known(self, key: str, node: Node | None) -> Known:
        spec = self._book.server(key)
        configs = read_model_configs(*map(self._folder, models_of(spec)))
        return {
            "hardware": self._book.hardware(spec.hardware),
            "target": configs.target,
            "draft": configs.draft,
            "chat_template": configs.chat_template,
            "weights": configs.weights,
            "node": node,
            # all cases of a server are of one recipe
            "facts": next((case.facts for case in self._book.cases_of(key)), FrozenMap()),
        }

    def _folder(self, wanted: Wanted) -> Path | None:
        cache = self._settings.cache_dir or default_cache_dir()
        # config.json alone says most of what can be foretold
        found = find_snapshot(wanted.repository, wanted.revision, cache, weights=False)
        return found.path if isinstance(found, Snapshot) else None

    def _node(self, spec: ServerSpec, leased: Sequence[Gpu] = ()) -> Node | None:
        gpus = self._inventory().of_hardware(self._book.hardware(spec.hardware))
        if not gpus and spec.hardware != "cpu":
            return None
        free = min((gpu.memory_total - gpu.memory_used for gpu in leased), default=None)
        multicast = False if os.environ.get("TORCH_SYMM_MEM_DISABLE_MULTICAST") == "1" else None
        command, dialect = self._settings.command(spec), dialect_of(spec.framework)
        engine = probe_command(command, dialect)
        return Node(
            gpus=len(gpus) or None,
            vram_gib=gpus[0].memory_total / _GIB if gpus else None,
            free_vram_gib=None if free is None else free / _GIB,
            multicast=multicast,
            engine=engine.version if engine else None,
            vocabulary=kept_vocabulary(command, dialect),
            wrapped=not starts_itself(command, dialect),
        )

    def _asked(self, spec: ServerSpec) -> Node | None:
        """The engine alone, where its user had it asked by ``gpubench vocabulary``."""
        command, dialect = self._settings.command(spec), dialect_of(spec.framework)
        found = kept_vocabulary(command, dialect)
        if found is None:
            return None
        wrapped = not starts_itself(command, dialect)
        return Node(engine=found.version, vocabulary=found, wrapped=wrapped)


def _users(gpu: Gpu) -> str:
    who = ", ".join(f"{in_words(process.pid)}{_held(process)}" for process in gpu.processes)
    return (
        f"{gpu.memory_used / _GIB:.1f} GiB in use by "
        f"{who or 'processes that the driver does not show here'}"
    )


def _held(process: GpuProcess) -> str:
    return "" if process.memory_used is None else f" with {process.memory_used / _GIB:.1f} GiB"


def as_failure(findings: list[Finding]) -> Failure | None:
    """The errors among findings as one failure of class recipe; None where there is none."""
    errors = [finding for finding in findings if finding.severity == "error"]
    if not errors:
        return None
    evidence = [line for finding in errors for line in _lines(finding)]
    silence = " ".join(f"--gpubench-ignore-findings {finding.rule}" for finding in errors)
    remedy = f"{errors[0].remedy} To try it all the same: {silence}"
    return Failure(
        "doctor",
        "recipe",
        "the doctor foresees that this cannot work, nothing was started",
        tuple(evidence),
        remedy,
    )


def _lines(finding: Finding) -> list[str]:
    lines = [f"{finding.rule}: {finding.message}"]
    if finding.engine_says:
        lines.append(f"the engine would say: {finding.engine_says}")
    return lines
