"""Runs lm-eval beside a server: a process of its own, offline, watched, never left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from pytest_gpubench.engines.log_sink import LogSink
from pytest_gpubench.engines.process import ServerProcess
from pytest_gpubench.evals import lm_eval_run
from pytest_gpubench.evals.lm_eval_run import ANSWERS, PLAN, EvalPlan
from pytest_gpubench.model.failures import BenchmarkError, Failure

_POLL_S = 0.2
_LIMIT_S = 6 * 3600.0
"""Of one evaluation; what hangs is noticed long before."""
_EVIDENCE = 3
_NOT_PASSED = ("http_proxy", "https_proxy", "all_proxy", "openai_base_url", "openai_log")
"""Variables, in either case, that would lead the requests elsewhere, or print them."""
_FETCHED = "bring its data set with `gpubench fetch`, with the same -k or -m"


def lm_eval_missing() -> Failure | None:
    """None where lm-eval is installed."""
    if find_spec("lm_eval") is not None:
        return None
    return Failure(
        "lm-eval-missing",
        "client",
        "accuracy is evaluated by lm-eval, which is not installed here",
        remedy="pip install 'pytest-gpubench[eval]', or leave it out with -m 'not accuracy'.",
    )


def run_lm_eval(
    plan: EvalPlan,
    log: LogSink,
    *,
    api_key: str,
    cwd: Path | None = None,
    check: Callable[[int], Failure | None] = lambda _answers: None,
    limit: float = _LIMIT_S,
) -> None:
    """Ask all questions of a plan; what came of them is in the plan's folder.

    Args:
        api_key: of the server; handed over in the environment.
        cwd: from where a task's files are found.
        check: whether the server is well, given the number of answers so far.
        limit: seconds for all of it.

    Raises:
        BenchmarkError: if the server is not well, or lm-eval failed; its process has ended then.
    """
    folder, argv = Path(plan.folder), _argv(plan)
    environment = _environment(api_key)
    answers = _Count(folder / ANSWERS)
    deadline = time.monotonic() + limit
    process = ServerProcess.start(argv, environment, log, cwd=cwd or folder)
    try:
        while process.poll() is None:
            failure = check(answers.now())
            if failure is None and time.monotonic() > deadline:
                failure = Failure(
                    "evaluation-too-long",
                    "engine",
                    f"{plan.task} was not answered within {limit:g} s: {answers.now()} answers",
                    remedy="Ask fewer questions (limit: in evals), or allow shorter answers.",
                )
            if failure is not None:
                raise BenchmarkError(failure)
            time.sleep(_POLL_S)
        process.wait_drained(2.0)
    finally:
        process.stop()
    if process.poll() != 0:
        raise BenchmarkError(_failed(plan, process.poll(), log))


def fetch_questions(task: str) -> None:
    """Let lm-eval bring the data set of a task into the cache of Hugging Face.

    Raises:
        BenchmarkError: if lm-eval is missing or fails.
    """
    missing = lm_eval_missing()
    if missing is not None:
        raise BenchmarkError(missing)
    with tempfile.TemporaryDirectory(prefix="gpubench-") as folder:
        cwd = Path(task).parent if task.endswith((".yaml", ".yml")) else None
        done = subprocess.run(
            _argv(EvalPlan("", "", task, folder, only_fetch=True)),
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            cwd=cwd,
        )
    if done.returncode:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        words = f"lm-eval could not bring {task}: {said[-1][:500] if said else 'it said nothing'}"
        remedy = "Look whether the name is right, and whether the hub can be reached."
        raise BenchmarkError(Failure("lm-eval-failed", "infrastructure", words, remedy=remedy))


def _argv(plan: EvalPlan) -> tuple[str, ...]:
    """What runs a plan, which is written into its folder."""
    path = Path(plan.folder, PLAN)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(plan)) + "\n", encoding="utf-8")
    return (sys.executable, "-P", lm_eval_run.__file__, str(path))


class _Count:
    """Lines of a file that grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = self._lines = 0

    def now(self) -> int:
        try:
            with self._path.open("rb") as file:
                file.seek(self._read)
                new = file.read()
        except OSError:
            return self._lines
        self._read += len(new)
        self._lines += new.count(b"\n")
        return self._lines


def _environment(api_key: str) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if name.lower() not in _NOT_PASSED and not name.startswith("PYTEST_")
    }
    # The client insists on a key, which a server without one does not look at.
    return kept | {
        "OPENAI_API_KEY": api_key or "none",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
    }


def _failed(plan: EvalPlan, code: int | None, log: LogSink) -> Failure:
    said = [line.strip() for line in log.lines() if line.strip()]
    last = said[-1] if said else "it said nothing"
    missing = "offline" in last.lower() or "couldn't" in last.lower() or "LocalEntry" in last
    return Failure(
        "lm-eval-failed",
        "recipe" if missing or "KeyError" in last else "client",
        f"lm-eval ended with exit code {code} on {plan.task}: {last[:500]}",
        tuple(said[-_EVIDENCE:-1]),
        f"Look at {log.path}; where a data set is missing, {_FETCHED}.",
    )
