"""Run a load plan in a worker process, from the measuring side's parent: watch it, watch the server, end it."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import site
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from pytest_gpubench.domain.failures import BenchmarkError, Failure
from pytest_gpubench.load.plan import ClientFacts, LoadPlan, LoadResult, Progress, RequestRecord

_POLL = 0.1
_LOST_SERVER = frozenset({"no-connection", "tokenize-failed"})


def run_load(
    plan: LoadPlan,
    *,
    api_key: str = "",
    on_progress: Callable[[Progress], None] | None = None,
    check_server: Callable[[], Failure | None] | None = None,
    grace: float = 6.0,
) -> LoadResult:
    """Drive the server as planned and return every request's record. A failed request never raises, it is recorded with a reason.

    Args:
        plan: what to do.
        api_key: sent as bearer token; it reaches the worker through its environment only.
        on_progress: called in this thread, a few times per second at most.
        check_server: called every 0.1 s; a failure means that the server is dead and ends the run at once.
        grace: seconds that ``check_server`` gets to notice a death after requests have failed as they do on a dead server (vLLM's
            API server outlives its engine by up to 5 s).

    Raises:
        BenchmarkError: the plan cannot be run, the server died (with ``check_server``'s failure), the deadline passed, prompts
            could not be made, or the worker itself died.
        KeyboardInterrupt: as it came, after the worker has been killed.
    """
    _check(plan)
    with tempfile.TemporaryDirectory(prefix="gpubench-load-") as folder:
        result, log = Path(folder) / "result.jsonl", Path(folder) / "stderr.txt"
        with log.open("wb") as stderr:
            worker = _start(api_key, stderr)
        messages: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        reader = threading.Thread(target=_read_messages, args=(worker, messages), name="load-progress", daemon=True)
        reader.start()
        try:
            _hand_over(worker, plan, result)
            failure = _supervise(worker, plan, lambda: _handle(messages, on_progress), check_server or (lambda: None))
        finally:
            _kill(worker, reader)
        failure = failure or _handle(messages, on_progress)
        if failure is None and worker.returncode != 0:
            failure = _crash(worker.returncode, log)
        if failure is None:
            facts, records = _read(result)
    if check_server is not None and (failure.cause in _LOST_SERVER if failure else any(map(_as_on_dead_server, records))):
        _ask_again(check_server, grace)
    if failure is not None:
        raise BenchmarkError(failure)
    return LoadResult(plan, facts, records)


def _check(plan: LoadPlan) -> None:
    workload = plan.workload
    problem = ""
    if workload.dataset != "random":
        problem = f"the dataset {workload.dataset!r} is not known; known: random"
    elif workload.api == "chat" and workload.chat_template != "server":
        problem = f"api chat means chat-template server, not {workload.chat_template!r}"
    elif workload.conc < 1 or workload.num_prompts < 1:
        problem = f"concurrency and number of prompts must be at least 1, not {workload.conc} and {workload.num_prompts}"
    elif not plan.base_url.startswith(("http://", "https://")):
        problem = f"the base URL {plan.base_url!r} is neither http nor https"
    if problem:
        raise BenchmarkError(Failure("workload-unsupported", "recipe", problem, remedy="Correct the recipe's client section."))


def _start(api_key: str, stderr: IO[bytes]) -> subprocess.Popen[bytes]:
    package_root = str(Path(__file__).parents[2])
    environment = {**os.environ, "OPENAI_API_KEY": api_key}
    if package_root not in (*site.getsitepackages(), site.getusersitepackages()):  # a checkout that is not installed
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), package_root)))
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "pytest_gpubench.load.worker"],
        stdin=subprocess.PIPE,  # stays open: its end is the end of the worker
        stdout=subprocess.PIPE,
        stderr=stderr,
        env=environment,
        start_new_session=True,  # Ctrl-C in the terminal reaches the parent, which ends the worker in order
    )


def _hand_over(worker: subprocess.Popen[bytes], plan: LoadPlan, result: Path) -> None:
    task = json.dumps({"plan": plan.to_json(), "result": str(result)}).encode() + b"\n"
    assert worker.stdin is not None  # noqa: S101  # it was asked for
    with contextlib.suppress(BrokenPipeError):  # it died at once: its exit code and stderr say why
        worker.stdin.write(task)
        worker.stdin.flush()


def _supervise(
    worker: subprocess.Popen[bytes],
    plan: LoadPlan,
    handle: Callable[[], Failure | None],
    check_server: Callable[[], Failure | None],
) -> Failure | None:
    """Wait for the worker's end; the first failure that is seen ends the wait early."""
    limit = time.monotonic() + plan.deadline if plan.deadline is not None else None
    while True:
        try:
            worker.wait(_POLL)
        except subprocess.TimeoutExpired:
            ended = False
        else:
            ended = True
        failure = check_server() or handle()
        if failure is not None or ended:
            return failure
        if limit is not None and time.monotonic() > limit:
            summary = f"the load run was not finished after {plan.deadline:g} s"
            return Failure("load-deadline", "client", summary, remedy="See whether the server is far slower than planned.")


def _read_messages(worker: subprocess.Popen[bytes], messages: queue.SimpleQueue[dict[str, Any]]) -> None:
    assert worker.stdout is not None  # noqa: S101  # it was asked for
    for line in worker.stdout:
        if line.startswith(b"{"):
            messages.put(json.loads(line))


def _handle(messages: queue.SimpleQueue[dict[str, Any]], on_progress: Callable[[Progress], None] | None) -> Failure | None:
    while not messages.empty():
        message = messages.get()
        if message["event"] == "failed":
            plain = message["failure"]
            return Failure(**{**plain, "evidence": tuple(plain["evidence"])})
        if on_progress is not None:
            on_progress(Progress(message["stage"], message["done"], message["total"]))
    return None


def _kill(worker: subprocess.Popen[bytes], reader: threading.Thread) -> None:
    if worker.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()
    reader.join()
    for pipe in (worker.stdin, worker.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def _crash(code: int, log: Path) -> Failure:
    lines = tuple(line for line in log.read_text("utf-8", "replace").splitlines() if line.strip())[-15:]
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return Failure("load-worker-died", "client", f"the load generator's process {how}", lines)


def _read(result: Path) -> tuple[ClientFacts, tuple[RequestRecord, ...]]:
    with result.open(encoding="utf-8") as file:
        facts = ClientFacts(**json.loads(file.readline()))
        return facts, tuple(RequestRecord.from_json(json.loads(line)) for line in file)


def _as_on_dead_server(record: RequestRecord) -> bool:
    broken = record.status is None or record.status >= 500
    return not record.ok and (broken or record.error.startswith(("the connection was closed", "the server reported an error")))


def _ask_again(check_server: Callable[[], Failure | None], grace: float) -> None:
    limit = time.monotonic() + grace
    while True:
        failure = check_server()
        if failure is not None:
            raise BenchmarkError(failure)
        if time.monotonic() > limit:
            return
        time.sleep(_POLL)
