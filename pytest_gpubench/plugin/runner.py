"""Runs a case: idle, load, idle, measurement, record, verdict."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, NoReturn, TypeAlias

from pytest_gpubench.dialects.registry import dialect_of
from pytest_gpubench.doctor.findings import findings_for
from pytest_gpubench.engines.engine import Engine
from pytest_gpubench.engines.idleness import SILENCE_TIMEOUT_S, SILENT
from pytest_gpubench.evals.evaluating import lm_eval_missing
from pytest_gpubench.gate.effort import RoundPlan
from pytest_gpubench.load.load_run import check_workload
from pytest_gpubench.load.workers import WorkerPool
from pytest_gpubench.measure.checks import VANISHED
from pytest_gpubench.measure.measurement import Measurement, combined
from pytest_gpubench.measure.validity import accounting
from pytest_gpubench.model.cases import Case, RecipeBook
from pytest_gpubench.model.failures import Failure, GpubenchError, failure_words
from pytest_gpubench.model.printing import for_terminal
from pytest_gpubench.model.specs import Launch, init_subject
from pytest_gpubench.model.verdicts import Status, Verdict
from pytest_gpubench.report.records import (
    SCHEMA_VERSION,
    RunFolder,
    fingerprint,
    plain,
    try_to_write,
)
from pytest_gpubench.runs.client_runs import ClientRuns, Turn
from pytest_gpubench.runs.doctoring import as_failure
from pytest_gpubench.runs.endings import Failed, Harness, Skipped, failure_of
from pytest_gpubench.runs.evaluator import ANSWERED, Evaluator
from pytest_gpubench.runs.live_line import Shows, ShowsLaunch, launch_unseen, nothing
from pytest_gpubench.runs.reuse import Reuse
from pytest_gpubench.runs.run_gate import Gate
from pytest_gpubench.runs.servers import ServerPool
from pytest_gpubench.runs.settings import Settings
from pytest_gpubench.runs.spans import Spans
from pytest_gpubench.runs.tool_runs import ToolRuns
from pytest_gpubench.runs.warming import Warming

ATTEMPTS = 3
"""Measurements of a case on one launch, where the engine compiled kernels during the ones before:
these count as its warm-up. What was measured has no part in that decision."""


Note: TypeAlias = Callable[[dict[str, Any]], None]
"""Takes what a test's report is to say (fields of `Outcome`); what is noted later replaces it."""


class CaseRunner:
    """Measures cases on engines and writes their records."""

    def __init__(
        self,
        settings: Settings,
        book: RecipeBook,
        folder: RunFolder,
        servers: ServerPool,
        gate: Gate,
        load_workers: WorkerPool,
        harness: Harness,
        shows: Shows = nothing,
        shows_launch: ShowsLaunch = launch_unseen,
        cases_of: Callable[[Launch], Iterable[Case]] = lambda _launch: (),
    ) -> None:
        self.gate = gate
        self._settings = settings
        self._book = book
        self._folder = folder
        self._servers = servers
        self._harness = harness
        self._cases_of = cases_of
        self._warming = Warming(folder, load_workers, shows_launch)
        self._spans = Spans()
        """Of the case that is measured."""
        self._records: dict[tuple[Launch, str], dict[str, Any]] = {}
        self._measured_before: dict[tuple[Launch, str], Measurement | Failure] = {}
        self._evaluator = Evaluator(book, folder, servers, shows)
        self._client = ClientRuns(settings, folder, servers, shows, load_workers, SILENCE_TIMEOUT_S)
        self._tools = ToolRuns(settings, folder, servers, shows)
        self.reuse = Reuse(settings, servers, folder, self._device) if settings.reuse else None

    def measure(
        self, note: Note, launch: Launch, case: Case, get_engine: Callable[[], Engine]
    ) -> Measurement:
        """The one measurement of the case on this launch; the record is on disk before this returns
        or fails.

        Whoever asks again, gets the same: a case is measured once per launch.
        """
        if not case.runnable:
            raise Skipped(f"not runnable: {case.why_not}")
        before = self._measured_before.get((launch, case.id))
        if isinstance(before, Failure):
            note({"verdict": Verdict(Status.FAIL, before.summary)})
            text = f"{case.id}: {failure_words(before)}; it is not measured again"
            raise Failed(for_terminal(text))
        if before is not None:
            note(_told(before, {}))
            return before
        self._refuse_doomed(note, launch, case)
        reused = self.reuse.find(launch, case) if self.reuse else None
        if self.reuse and reused:
            return self._take_over(note, launch, case, self.reuse.take_over(launch, case, reused))
        engine = get_engine()
        record = self._new_record(launch, case, engine)
        self._spans = Spans()
        outcome = self._attempt(launch, case, engine, record)
        record["times"] = self._spans.seconds
        record |= self._tools.part(launch, case)
        if isinstance(outcome, Failure):
            # What hangs or does not answer costs every other case as long.
            if outcome.cause in (SILENT, "no-metrics") or (
                not engine.attached and engine.alive() is not None
            ):
                self._servers.mark_failed(launch, outcome)
            self._fail(note, launch, case, record, outcome)
        measurement, part = outcome
        record |= part
        record |= {
            "metrics": measurement.metrics,
            "measurement": measurement.to_json(),
            "co_tenancy": self._servers.co_tenancy(),
        }
        # now with the client's part
        record["gate"] = self.gate.part(case, self._servers.arms.spec(launch), record)
        if measurement.problems:
            summary, *others = measurement.problems
            self._fail(
                note,
                launch,
                case,
                record,
                Failure("measurement-refused", "engine", summary, tuple(others)),
            )
        self._write(launch, case, record)
        return self._keep(note, launch, case, measurement)

    def _keep(
        self, note: Note, launch: Launch, case: Case, measurement: Measurement
    ) -> Measurement:
        self._measured_before[launch, case.id] = measurement
        note(_told(measurement, {}))
        return measurement

    def note_failure(self, launch: Launch, case: Case, failure: Failure) -> None:
        """A record of a case whose test failed before it was measured, unless there is one, or the
        record of its server's start says why."""
        if (launch, case.id) in self._records or not self._servers.did_start(launch):
            return
        record = self._new_record(launch, case, None) | {"failure": failure}
        self._try_to_write(launch, case, record)
        del self._records[launch, case.id]  # it may yet be measured by another test

    def judge(self, note: Note, launch: Launch, case: Case, measurement: Measurement) -> Verdict:
        """The verdict on the case's launches so far.

        Raises:
            Ending: where it is not PASS or UNGATED."""
        if measurement is not self._measured_before.get((launch, case.id)):
            raise Failed(f"{case.id}: gate() judges what measure() returned in this run")
        record = self._records[launch, case.id]
        if record["verdict"] is not None:  # another test has asked before
            known: Verdict = record["verdict"]
            note(_told(measurement, self.gate.report_fields(case.id, known)))
            self.gate.enforce(case.id, known)
            return known
        try:
            verdict = self._verdict(launch, case, measurement, record)
        except GpubenchError as error:
            raise Failed(f"{case.id}: {error}") from None
        record["verdict"] = verdict
        self._write(launch, case, record)
        said = [f"reused from run {record['reused_from']}"] if record.get("reused_from") else []
        said += [flag.message for flag in measurement.flags if flag.code in (VANISHED, ANSWERED)]
        note(_told(measurement, self.gate.report_fields(case.id, verdict, "; ".join(said))))
        self.gate.enforce(case.id, verdict)
        return verdict

    def _verdict(
        self, launch: Launch, case: Case, measurement: Measurement, record: dict[str, Any]
    ) -> Verdict:
        if case.evaluation is not None:
            undrafted = self._evaluator.undrafted(launch, case, record)
            return self.gate.accuracy_verdict(launch, case, measurement, record, undrafted)
        spec = self._servers.arms.spec(launch)
        caching = dialect_of(spec.framework).prefix_caching(spec)
        record["gate"]["invalid"] = list(accounting(measurement.totals, prefix_caching=caching))
        return self.gate.case_verdict(launch, case, spec, measurement, record)

    def _take_over(
        self, note: Note, launch: Launch, case: Case, record: dict[str, Any]
    ) -> Measurement:
        """An earlier record as one of this run: what it measured is judged again."""
        record["gate"] = self.gate.part(case, self._servers.arms.spec(launch), record)
        measurement = Measurement.from_json(record["measurement"])
        self._records[launch, case.id] = record
        self._write(launch, case, record)
        return self._keep(note, launch, case, measurement)

    def judge_init(self, note: Note, launch: Launch, engine: Engine) -> Verdict:
        """The verdict on the starts of the server so far; raises as ``judge``."""
        subject, path = init_subject(launch.server), self._folder.init_record(launch)
        record = json.loads(path.read_text(encoding="utf-8"))
        record["gate"] = self.gate.part(None, self._servers.arms.spec(launch), record)
        try:
            verdict = self.gate.init_verdict(launch, engine, record)
        except GpubenchError as error:
            raise Failed(f"{subject}: {error}") from None
        unwritten = try_to_write(path, record | {"verdict": verdict})
        if unwritten is not None:
            raise Failed(f"{subject}: {unwritten}")
        note(self.gate.report_fields(subject, verdict))
        self.gate.enforce(subject, verdict)
        return verdict

    def _refuse_doomed(self, note: Note, launch: Launch, case: Case) -> None:
        failure = self._servers.arms.no_counterpart(case.server, case)
        failure = failure or check_workload(case.workload) or self._tools.missing(case)
        if case.evaluation is not None:
            failure = failure or lm_eval_missing()
        if failure is None and not self._settings.base_url:
            found = self._servers.arms.doctor(launch).findings(case.server)
            failure = as_failure([finding for finding in found if case.id in finding.cases])
        if failure is not None:
            self._fail(note, launch, case, self._new_record(launch, case, None), failure)

    def _attempt(
        self, launch: Launch, case: Case, engine: Engine, record: dict[str, Any]
    ) -> tuple[Measurement, dict[str, Any]] | Failure:
        """The measurement, and what else of it goes into the record."""
        try:
            if case.evaluation is not None:
                with self._spans.of("questions"):
                    return self._evaluator.evaluate(launch, case, engine)
            spec = self._servers.arms.spec(launch)
            with self._spans.of("launch"):
                cases = self._cases_of(launch)
                self._warming.warm(launch, spec, engine, cases, self._servers.gpus)
            plan = self.gate.round_plan(launch, case, spec, record)
            return self._run(launch, case, engine, plan), {}
        except GpubenchError as error:
            return failure_of(error)
        except self._harness.limit as error:
            return self._harness.failure(error, "this case was measured")
        except BaseException as error:
            record["failure"] = self._harness.failure(error, "this case was measured")
            record |= {"times": self._spans.seconds} | self._tools.part(launch, case)
            self._try_to_write(launch, case, record)  # whatever the disk says, the error goes on
            raise

    def _run(self, launch: Launch, case: Case, engine: Engine, plan: RoundPlan) -> Measurement:
        rounds = [self._round(launch, case, engine, 1)]
        while plan.wants_another(rounds):
            rounds.append(self._round(launch, case, engine, len(rounds) + 1))
        return combined(rounds)

    def _round(self, launch: Launch, case: Case, engine: Engine, number: int) -> Measurement:
        runs = self._client if case.workload.tool is None else self._tools
        spec = self._servers.arms.spec(launch)
        attempt = 1
        while True:
            turn = Turn(launch, case, spec, engine, number, attempt)
            measurement, compiled = runs.measured(turn, self._spans)
            # A failure stays one, whatever the engine compiled meanwhile.
            if not compiled or measurement.problems or attempt == ATTEMPTS:
                return measurement
            attempt += 1

    def _new_record(self, launch: Launch, case: Case, engine: Engine | None) -> dict[str, Any]:
        spec = self._servers.arms.spec(launch)
        record: dict[str, Any] = {
            "schema": SCHEMA_VERSION,
            "kind": "case",
            "case": case.id,
            "recipe": case.recipe,
            "identity": case.identity,
            "tags": case.tags,
            "source": case.source,
            "image": spec.image,
            "server": case.server,
            "server_per": self._book.policy,
            "launch": launch,
            "started": datetime.now(UTC).isoformat(),
            "fingerprint": fingerprint(
                spec,
                case,
                self._servers.engine_version(spec, engine),
                self._device(spec.hardware),
                self._servers.commits(launch),
            ),
            "hardware": spec.hardware,
            "topology": plain(case.topology) | {"gpus": case.gpus},
            "workload": case.workload,
            "max_model_len": case.max_model_len,
            "findings": findings_for(
                self._servers.arms.doctor(launch).findings(case.server), case.id
            ),
            **self._servers.provenance(),
            **self._servers.engine_part(launch, engine),
            "metrics": None,
            "verdict": None,
            "failure": None,
            "times": {},
        }
        record["gate"] = self.gate.part(case, spec, record)
        self._records[launch, case.id] = record
        return record

    def _device(self, hardware: str) -> str:
        host = self._servers.provenance()["host"]
        names = sorted({gpu["name"] for gpu in host["gpus"]})
        return ", ".join(names) if names and hardware != "cpu" else str(host["cpu"]["model"])

    def _write(self, launch: Launch, case: Case, record: dict[str, Any]) -> None:
        unwritten = self._try_to_write(launch, case, record)
        if unwritten is not None:
            raise Failed(f"{case.id}: {unwritten}")

    def _try_to_write(self, launch: Launch, case: Case, record: dict[str, Any]) -> Failure | None:
        if not record.get("reused_from"):
            record["finished"] = datetime.now(UTC).isoformat()
        return try_to_write(self._folder.case_record(launch, case), record)

    def _fail(
        self,
        note: Note,
        launch: Launch,
        case: Case,
        record: dict[str, Any],
        failure: Failure,
    ) -> NoReturn:
        record["failure"] = failure
        self._measured_before[launch, case.id] = failure
        unwritten = self._try_to_write(launch, case, record)
        note({"verdict": Verdict(Status.FAIL, failure.summary)})
        text = f"{case.id}: {failure}"
        raise Failed(f"{text}\n{unwritten}" if unwritten and unwritten != failure else text)


def _told(measurement: Measurement, more: dict[str, Any]) -> dict[str, Any]:
    return {
        "metrics": dict(measurement.metrics),
        "tentative": sorted(measurement.hidden),
        **more,
    }
