"""Evaluations of a run: idle, lm-eval beside the server, idle, and what came of it as a
measurement."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pytest_gpubench.dialects.registry import dialect_of
from pytest_gpubench.engines.engine import Engine
from pytest_gpubench.engines.idleness import IDLE_TIMEOUT_S, SILENCE_TIMEOUT_S, HangWatch, wait_idle
from pytest_gpubench.engines.log_sink import LogSink
from pytest_gpubench.evals.answered import Answered, archive_lines, compare, read_answered
from pytest_gpubench.evals.evaluating import run_lm_eval
from pytest_gpubench.evals.lm_eval_run import EvalPlan
from pytest_gpubench.gate.accuracy_verdicts import Undrafted, interval
from pytest_gpubench.load.protocol import Progress
from pytest_gpubench.measure.measurement import Flag, Measurement, Totals
from pytest_gpubench.model.cases import Case, RecipeBook
from pytest_gpubench.model.evaluation import ACCURACY, EMBEDDED_TASK, Evaluation
from pytest_gpubench.model.failures import BenchmarkError, Failure
from pytest_gpubench.model.frozen import thaw
from pytest_gpubench.model.secrets import Secrets
from pytest_gpubench.model.specs import Launch
from pytest_gpubench.report.records import RunFolder, write_requests
from pytest_gpubench.runs.live_line import Shows
from pytest_gpubench.runs.servers import ServerPool

ANSWERED = "answered"
"""Code of the flag that says how many questions were answered right, for tables."""


_DEATH_SHOWS_S = 3.0


class Evaluator:
    """Asks the questions of a run's evaluations."""

    def __init__(
        self, book: RecipeBook, folder: RunFolder, servers: ServerPool, shows: Shows
    ) -> None:
        self._folder = folder
        self._undrafted: dict[tuple[object, ...], list[Case]] = {}
        for case in book.evaluations:
            if not case.identity.spec:
                self._undrafted.setdefault(_all_but_draft(case), []).append(case)
        self._servers = servers
        self._shows = shows

    def evaluate(
        self, launch: Launch, case: Case, engine: Engine
    ) -> tuple[Measurement, dict[str, Any]]:
        """Ask the questions of one evaluation.

        Returns:
            What its answers measure, and what else of them goes into the record.

        Raises:
            BenchmarkError: if the server, or lm-eval, failed.
        """
        evaluation = _of(case)
        counters = dialect_of(self._servers.arms.spec(launch).framework).counters
        wait_idle(engine.scrape, counters, IDLE_TIMEOUT_S)
        folder = self._folder.evaluation(launch, case)
        started = time.time()
        self._ask(folder, case, engine, HangWatch(engine.scrape, SILENCE_TIMEOUT_S, counters))
        seconds = time.time() - started
        answered = read_answered(folder, evaluation)
        if "unanswered" in answered.failures:
            _raise_death(engine)
        write_requests(self._folder.answers_file(launch, case), archive_lines(answered))
        shutil.rmtree(folder, ignore_errors=True)
        wait_idle(engine.scrape, counters, IDLE_TIMEOUT_S)
        return _measurement(answered, started), {
            "evaluation": _part(evaluation, answered) | {"seconds": round(seconds, 3)}
        }

    def _ask(self, folder: Path, case: Case, engine: Engine, watch: HangWatch) -> None:
        evaluation = _of(case)
        shutil.rmtree(folder, ignore_errors=True)  # of an attempt that failed
        plan = EvalPlan(
            base_url=engine.base_url,
            model=engine.served_name,
            task=str(task_file(evaluation, folder) or evaluation.task),
            folder=str(folder.absolute()),
            shots=evaluation.shots,
            limit=evaluation.limit,
            concurrency=case.workload.conc,
            max_tokens=evaluation.max_tokens,
            chat_template_kwargs=dict(thaw(case.workload.chat_template_kwargs)),
        )
        hidden = [engine.api_key, *Secrets.of(os.environ).values]
        log = LogSink(folder / "lm-eval.log", dialect_of(case.identity.framework).log, hidden)
        with ExitStack() as stack:
            showing = stack.enter_context(self._shows(case))

            def check(answers: int) -> Failure | None:
                watch.note(answers or None)
                showing.note(Progress("measured", answers, case.workload.num_prompts))
                return engine.alive() or watch.check()

            run_lm_eval(plan, log, api_key=engine.api_key, cwd=_cwd(plan), check=check)

    def undrafted(self, launch: Launch, case: Case, record: dict[str, Any]) -> Undrafted | None:
        """How the answers differ from those of the same server without its draft, where this run
        has asked that one before; the record says so, too."""
        other = self._without_draft(case)
        if other is None:
            return None
        there = self._folder.answers_file(Launch(other.server, launch.index, launch.arm), other)
        own = self._folder.answers_file(launch, case)
        beside = compare(own, there)
        if beside is None:
            return None
        found = Undrafted(other.id, beside.common, beside.differing, beside.lost, beside.won)
        record["evaluation"] |= {"without_draft": found}
        return found

    def _without_draft(self, case: Case) -> Case | None:
        """The same questions on the same model, engine and topology, without the draft; the case
        of the same variant, else the one without any."""
        if not case.identity.spec:
            return None
        found = [
            one
            for one in self._undrafted.get(_all_but_draft(case), ())
            if one.identity.variant in (case.identity.variant, "")
        ]
        return max(
            found, key=lambda one: one.identity.variant == case.identity.variant, default=None
        )


def task_file(evaluation: Evaluation, folder: Path) -> Path | None:
    """The YAML file of a task that is not lm-eval's own; of the embedded one it is written into
    the folder."""
    if evaluation.is_file:
        return Path(evaluation.task)
    if evaluation.task != EMBEDDED_TASK:
        return None
    from pytest_gpubench.demo.models import write_task

    return write_task(folder / "task")


def _cwd(plan: EvalPlan) -> Path | None:
    """From where a task's data files are found: beside its YAML."""
    return Path(plan.task).parent if plan.task.endswith((".yaml", ".yml")) else None


def _raise_death(engine: Engine) -> None:
    """What leaves questions without an answer is mostly the engine's end, which shows a moment
    after its connections broke."""
    until = time.monotonic() + _DEATH_SHOWS_S
    while time.monotonic() < until:
        failure = engine.alive()
        if failure is not None:
            raise BenchmarkError(failure)
        time.sleep(0.1)


def _of(case: Case) -> Evaluation:
    if case.evaluation is None:
        raise ValueError(f"{case.id} is no evaluation")
    return case.evaluation


def _all_but_draft(case: Case) -> tuple[object, ...]:
    """Equal for the same questions on the same model, engine and topology."""
    identity = case.identity
    who = (identity.model, identity.precision, identity.hardware, identity.framework)
    return (*who, case.topology, case.runner, _of(case).label, *_of(case).asked().items())


def _part(evaluation: Evaluation, answered: Answered) -> dict[str, Any]:
    asked = len(answered.questions)
    return (
        dict(evaluation.asked())
        | {"name": evaluation.name, "at_least": evaluation.at_least}
        | answered.part()
        | {"interval": interval(answered.right, asked), "suspicion": answered.suspicion}
    )


def _measurement(answered: Answered, started: float) -> Measurement:
    questions, failures = answered.questions, answered.failures
    asked, output = len(questions), sum(one.output_tokens for one in questions)
    low, high = interval(answered.right, asked)
    words = (
        f"{answered.right} of {asked} questions right, {answered.right / asked:.1%} "
        f"(98% interval {low:.1%} to {high:.1%})"
    )
    return Measurement(
        metrics={ACCURACY: answered.right / asked},
        totals=Totals(
            requests=asked,
            failed=failures.get("refused", 0) + failures.get("unanswered", 0),
            prompt_tokens=sum(one.prompt_tokens for one in questions),
            output_tokens=output,
            output_tokens_with_warmup=output,
            engine_output_tokens=None,
        ),
        invalid=answered.invalid(),
        flags=(Flag(ANSWERED, words),),
        started_unix=started,
        client={"lm-eval": answered.lm_eval},
    )
