"""The gate of a run: evidence and key of a launch, the verdict on it, and how it ends a test."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from pytest_gpubench.engines.engine import Engine
from pytest_gpubench.gate import wording
from pytest_gpubench.gate.accuracy_verdicts import AccuracyEvidence, Undrafted
from pytest_gpubench.gate.baseline_key import comparison_key, measurement_axis
from pytest_gpubench.gate.case_verdicts import Evidence, Judging
from pytest_gpubench.gate.effort import RoundPlan
from pytest_gpubench.gate.evidence import LaunchEvidence, evidence_of, init_evidence
from pytest_gpubench.gate.policy import narrowed, policies
from pytest_gpubench.gate.recording import recording
from pytest_gpubench.measure.measurement import Measurement
from pytest_gpubench.model.cases import Case, RecipeBook
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.printing import for_terminal
from pytest_gpubench.model.secrets import hide_in
from pytest_gpubench.model.specs import Launch, ServerSpec, init_subject
from pytest_gpubench.model.verdicts import Status, Verdict
from pytest_gpubench.report.records import MEASUREMENT_VERSION, plain
from pytest_gpubench.runs.endings import Failed, Skipped, Waived
from pytest_gpubench.runs.settings import Settings

_LOCAL = ("127.0.0.1", "localhost", "::1")


class Gate:
    """Judges what the launches of this process measured."""

    def __init__(
        self,
        settings: Settings,
        book: RecipeBook,
        judging: Judging,
        rounds_of: Callable[[Case], int | None] | None = None,
    ) -> None:
        self._settings = settings
        self._book = book
        self._rounds_of = rounds_of
        self.judging = judging

    def part(
        self, case: Case | None, spec: ServerSpec, record: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What a record needs to be compared later: ``key`` (what must match), ``axis`` (what may
        differ) and ``invalid`` (why the launch does not count, as far as its gate found out)."""
        found = plain(record)
        engine, tenancy = found.get("engine") or {}, found.get("co_tenancy") or {}
        key = comparison_key(
            case,
            spec,
            device=self._device(spec.hardware, found),
            commits=found.get("commits") or {},
            measurement_version=MEASUREMENT_VERSION,
            policy=self._book.policy,
            shared_host=not tenancy.get("exclusive", True),
            compile_cache=engine.get("compile_cache"),
        )
        # As the record will show it: baselines are written from records.
        axis = measurement_axis(spec, found)
        hidden: dict[str, Any] = hide_in(plain({"key": key, "axis": axis}), os.environ)
        return hidden | {"invalid": []}

    def round_plan(
        self, launch: Launch, case: Case, spec: ServerSpec, record: Mapping[str, Any]
    ) -> RoundPlan:
        """How often the case is measured on this launch.

        Args:
            record: with its ``gate`` part, before anything was measured.

        Raises:
            GpubenchError: if the baseline file cannot be used.
        """
        recording = self._settings.update_baselines
        found = policies(case.gates, case.workload, spec.speculative, spec.model)
        plan = self.judging.round_plan(
            case.id,
            launch,
            FrozenMap(record["gate"]["key"]),
            # What is recorded is for later runs, which may judge other metrics.
            found if recording else narrowed(found, self._settings.gate_only),
            self._settings.rounds or case.rounds,
            recording=recording,
        )
        budgeted = self._rounds_of(case) if self._rounds_of else None
        return plan if budgeted is None else replace(plan, planned=budgeted)

    def case_verdict(
        self,
        launch: Launch,
        case: Case,
        spec: ServerSpec,
        measurement: Measurement,
        record: Mapping[str, Any],
    ) -> Verdict:
        """The verdict on a case with this launch taken in.

        Args:
            launch: on which it was measured.
            case: that was measured.
            spec: of the server that ran.
            measurement: without problems.
            record: of this measurement, with its ``gate`` part.

        Raises:
            GpubenchError: if the baseline file cannot be used.
        """
        evidence = evidence_of(launch.label, measurement)
        evidence = replace(evidence, invalid=(*evidence.invalid, *record["gate"]["invalid"]))
        found = policies(case.gates, case.workload, spec.speculative, spec.model)
        found = narrowed(found, self._settings.gate_only)
        return self.judging.judge(case.id, launch, _evidence(evidence, record), found)

    def accuracy_verdict(
        self,
        launch: Launch,
        case: Case,
        measurement: Measurement,
        record: Mapping[str, Any],
        undrafted: Undrafted | None,
    ) -> Verdict:
        """The verdict on an evaluation with this launch taken in.

        Args:
            launch: on which the questions were asked.
            case: the evaluation.
            measurement: of its answers.
            record: of this evaluation, with its ``gate`` part.
            undrafted: the same server without its draft, where the run has asked it.

        Raises:
            GpubenchError: if the baseline file cannot be used.
        """
        answers = str(record["evaluation"]["answers"])
        evidence = replace(evidence_of(launch.label, measurement), answers=answers)
        at_least = case.evaluation.at_least if case.evaluation else None
        return self.judging.judge_answers(
            case.id,
            launch,
            AccuracyEvidence(evidence, at_least, undrafted),
            FrozenMap(record["gate"]["key"]),
            FrozenMap(record["gate"]["axis"]),
        )

    def init_verdict(self, launch: Launch, engine: Engine, record: Mapping[str, Any]) -> Verdict:
        """The verdict on the start of a server.

        Raises:
            GpubenchError: if the baseline file cannot be used.
        """
        ready = engine.phases.get("ready")
        if ready is None:  # we attached: nobody saw it start
            return Verdict(Status.UNGATED, "the server ran already")
        gates = self._book.cases_of(launch.server)[0].gates
        evidence = _evidence(init_evidence(launch.label, ready), record)
        found = narrowed(policies(gates), self._settings.gate_only, start=True)
        return self.judging.judge(init_subject(launch.server), launch, evidence, found)

    def report_fields(self, subject: str, verdict: Verdict, note: str = "") -> dict[str, Any]:
        """What a verdict leaves on its item (``outcomes.Outcome``)."""
        accepted = self._accepts(verdict)
        return {"subject": subject, "verdict": verdict, "note": note, "accepted": accepted}

    def enforce(self, subject: str, verdict: Verdict) -> None:
        """End the test as a verdict asks.

        A verdict that another planned launch may still change passes; so does a regression that is
        being accepted.

        Raises:
            Failed: for FAIL.
            Skipped: for INVALID and INCONCLUSIVE.
            Waived: for WAIVED.
        """
        if verdict.pending or self._accepts(verdict):
            return
        text = for_terminal(
            f"{verdict.status.value}: {verdict.reason}"
            + (f"; {verdict.remedy}" if verdict.remedy else "")
        )
        if verdict.status is Status.FAIL or (
            verdict.status.undecided and self._settings.inconclusive == "fail"
        ):
            section = f"\n\n{subject}: {for_terminal(verdict.section)}" if verdict.section else ""
            raise Failed(text + section)
        if verdict.status.undecided:
            raise Skipped(text)
        if verdict.status is Status.WAIVED:
            raise Waived(text)

    def _accepts(self, verdict: Verdict) -> bool:
        bad = verdict.status in (Status.FAIL, Status.WAIVED)
        if not bad or not self._settings.accept_regression:
            return False
        return recording(verdict, accept_regression=True).allowed

    def _device(self, hardware: str, record: Mapping[str, Any]) -> str:
        """Product name of the accelerators, or of the CPU with the number of cores that the run may
        use."""
        elsewhere = urlsplit(self._settings.base_url or "").hostname
        if elsewhere and elsewhere not in _LOCAL:
            return f"server at {elsewhere}"
        host = record["host"]
        names = sorted({gpu["name"] for gpu in host["gpus"]})
        if names and hardware != "cpu":
            return ", ".join(names)
        return f"{host['cpu']['model']}, {wording.count(_cores(host['cpu']), 'core')}"


def _evidence(evidence: LaunchEvidence, record: Mapping[str, Any]) -> Evidence:
    part = record["gate"]
    return Evidence(
        evidence, str(record["finished"]), FrozenMap(part["key"]), FrozenMap(part["axis"])
    )


def _cores(cpu: Mapping[str, Any]) -> int:
    ranges = (part.partition("-") for part in cpu["affinity"].split(","))
    allowed = sum(int(last or first) - int(first) + 1 for first, _, last in ranges)
    limit = cpu["cgroup_limit"]
    return max(1, min(allowed, int(limit))) if limit else allowed
