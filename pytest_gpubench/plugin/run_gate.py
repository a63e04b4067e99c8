"""The gate of a run: evidence and key of a launch, the verdict on it, and what a verdict means for
pytest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest

from pytest_gpubench.engines.engine import Engine
from pytest_gpubench.gate import wording
from pytest_gpubench.gate.baseline_key import comparison_key, measurement_axis
from pytest_gpubench.gate.bounds import usable
from pytest_gpubench.gate.case_verdicts import Evidence, Judging
from pytest_gpubench.gate.evidence import LaunchEvidence, evidence_of, init_evidence
from pytest_gpubench.gate.policy import policies
from pytest_gpubench.gate.recording import recording
from pytest_gpubench.measure.measurement import Measurement
from pytest_gpubench.model.cases import Case, RecipeBook
from pytest_gpubench.model.frozen import FrozenMap, thaw
from pytest_gpubench.model.printing import for_terminal
from pytest_gpubench.model.specs import Launch, ServerSpec, init_subject
from pytest_gpubench.model.verdicts import Status, Verdict
from pytest_gpubench.plugin.settings import Settings
from pytest_gpubench.report.records import MEASUREMENT_VERSION, plain

UNDECIDED = (Status.INCONCLUSIVE, Status.INVALID)
_LOCAL = ("127.0.0.1", "localhost", "::1")


class Gate:
    """Judges what the launches of this process measured."""

    def __init__(self, settings: Settings, book: RecipeBook, judging: Judging) -> None:
        self._settings = settings
        self._book = book
        self.judging = judging

    def part(
        self, case: Case | None, spec: ServerSpec, record: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What a record needs to be compared later: ``key`` (what must match) and ``axis`` (what
        may differ)."""
        found = json.loads(json.dumps(plain(record)))
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
        return {"key": key, "axis": measurement_axis(spec, found)}

    def case_verdict(
        self,
        launch: Launch,
        case: Case,
        spec: ServerSpec,
        measurement: Measurement,
        record: Mapping[str, Any],
        wrong: tuple[str, ...] = (),
    ) -> Verdict:
        """The verdict on a case with this launch taken in.

        Args:
            launch: on which it was measured.
            case: that was measured.
            spec: of the server that ran.
            measurement: without problems.
            record: of this measurement, with its ``gate`` part.
            wrong: further reasons why the launch does not count.

        Raises:
            GpubenchError: if the baseline file cannot be used.
        """
        evidence = evidence_of(launch.label, measurement)
        evidence = replace(evidence, invalid=(*evidence.invalid, *wrong))
        found = policies(case.gates, case.workload, spec.speculative)
        return self.judging.judge(case.id, launch, _evidence(evidence, record), found)

    def init_verdict(self, launch: Launch, engine: Engine, record: Mapping[str, Any]) -> Verdict:
        """The verdict on the start of a server.

        Raises:
            GpubenchError: if the baseline file cannot be used.
        """
        ready = engine.phases.get("ready")
        if ready is None:  # we attached: nobody saw it start
            return Verdict(Status.UNGATED, "the server ran already")
        gates = next(case.gates for case in self._book.cases if case.server == launch.server)
        evidence = _evidence(init_evidence(launch.label, ready), record)
        return self.judging.judge(init_subject(launch.server), launch, evidence, policies(gates))

    def told(self, subject: str, verdict: Verdict, note: str = "") -> dict[str, Any]:
        """What a verdict leaves on its item, as built-in types."""
        last = self.judging.launches(subject)[-1:]
        return {
            "subject": subject,
            "verdict": verdict.status.value,
            "note": _note(verdict) or note,
            "pending": pending(verdict),
            "accepted": self._accepts(verdict),
            "properties": _properties(verdict),
            "judged": _judged(last[0], verdict) if last else {},
        }

    def enforce(self, subject: str, verdict: Verdict) -> None:
        """Turn a verdict into pytest's outcome, without a traceback: FAIL fails, INVALID and
        INCONCLUSIVE are skips with a reason.

        A verdict that another planned launch may still change passes; so does a regression that is
        being accepted.
        """
        if pending(verdict) or self._accepts(verdict):
            return
        text = for_terminal(
            f"{verdict.status.value}: {verdict.reason}"
            + (f"; {verdict.remedy}" if verdict.remedy else "")
        )
        if verdict.status is Status.FAIL or (
            verdict.status in UNDECIDED and self._settings.inconclusive == "fail"
        ):
            section = f"\n\n{subject}: {for_terminal(verdict.section)}" if verdict.section else ""
            pytest.fail(text + section, pytrace=False)
        if verdict.status in UNDECIDED:
            pytest.skip(text)

    def _accepts(self, verdict: Verdict) -> bool:
        if verdict.status is not Status.FAIL or not self._settings.accept_regression:
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


def pending(verdict: Verdict) -> bool:
    """Whether a verdict is open and the plan has another launch for it: its item is
    ``measured``."""
    return verdict.wants_launch and verdict.status in UNDECIDED


def _evidence(evidence: LaunchEvidence, record: Mapping[str, Any]) -> Evidence:
    part = record["gate"]
    return Evidence(
        evidence, str(record["finished"]), FrozenMap(part["key"]), FrozenMap(part["axis"])
    )


def _judged(evidence: Evidence, verdict: Verdict) -> dict[str, Any]:
    """A launch and the verdict on all so far, from which the controller writes a baseline."""
    launch = evidence.launch
    return {
        "launch": launch.label,
        "date": evidence.date,
        "key": thaw(evidence.key),
        "axis": thaw(evidence.axis),
        "metrics": {
            name: float(value) for name, value in launch.metrics.items() if usable(launch, name)
        },
        "requests": launch.requests,
        "invalid": list(launch.invalid),
        "verdict": json.loads(json.dumps(plain(verdict))),
    }


def _note(verdict: Verdict) -> str:
    improved = [one.reason for one in verdict.metrics if one.improved]
    if verdict.status in (Status.PASS, Status.UNGATED):
        return "; ".join(improved)
    why = verdict.reason + (f"; {verdict.remedy}" if verdict.remedy else "")
    return "; ".join([why, *improved]) if verdict.status is Status.INCONCLUSIVE else why


def _properties(verdict: Verdict) -> list[tuple[str, str]]:
    """For JUnit: the verdict, its reason, and per metric its own verdict and change."""
    found = [("gpubench_verdict", verdict.status.value), ("gpubench_reason", verdict.reason)]
    for one in verdict.metrics:
        name = f"gpubench_{one.metric}" + ("_limit" if one.against == "limit" else "")
        found.append((name, one.status.value))
        if one.change is not None:
            found.append((f"{name}_change", wording.interval(one.change)))
    return found


def _cores(cpu: Mapping[str, Any]) -> int:
    ranges = (part.partition("-") for part in cpu["affinity"].split(","))
    allowed = sum(int(last or first) - int(first) + 1 for first, _, last in ranges)
    limit = cpu["cgroup_limit"]
    return max(1, min(allowed, int(limit))) if limit else allowed
