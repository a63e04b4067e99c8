"""The measuring process: prompts, requests, the loop, the records. Started by ``run_load``; nothing else runs in it.

It reads one line of JSON (plan and result file) from stdin and ends when stdin does: it never outlives its parent. Progress and
failures go to stdout as JSON lines, records to the result file. The API key comes in the environment.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.metadata
import json
import os
import platform
import resource
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pytest_gpubench.domain.failures import BenchmarkError, Failure
from pytest_gpubench.load.closed_loop import ClosedLoop
from pytest_gpubench.load.parse import record_of
from pytest_gpubench.load.plan import ClientFacts, LoadPlan, Progress, RequestRecord
from pytest_gpubench.load.prompts import make_prompts
from pytest_gpubench.load.requests import TokenCounter, WireRequest, build_requests
from pytest_gpubench.load.transport import Exchange

API_KEY_VARIABLE = "OPENAI_API_KEY"
EXIT_ORPHANED = 3
_PROGRESS_INTERVAL = 0.5


class _Reporter:
    """Progress on stdout, at most twice a second."""

    def __init__(self) -> None:
        self._last: tuple[float, str] = (0.0, "")

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.stage != self._last[1] or progress.done == progress.total or now - self._last[0] >= _PROGRESS_INTERVAL:
            self._last = (now, progress.stage)
            emit({"event": "progress", "stage": progress.stage, "done": progress.done, "total": progress.total})


def emit(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


async def work(plan: LoadPlan, api_key: str, report: Callable[[Progress], None]) -> tuple[ClientFacts, list[RequestRecord]]:
    """Do the whole run.

    Raises:
        BenchmarkError: if prompts cannot be made or the server takes no connection; failed requests are in the records.
    """
    counter = TokenCounter(plan, api_key)
    try:
        prompts = await make_prompts(plan, counter, lambda done, total: report(Progress("prompts", done, total)))
    finally:
        await counter.close()
    warmups, measured = [await build_requests(plan, api_key, phase) for phase in prompts]
    loop = ClosedLoop(plan.root, plan.workload.conc, plan.connect_timeout, plan.read_timeout)
    facts = ClientFacts(importlib.metadata.version("openai"), platform.python_version(), _loop_name())
    gc.collect()
    gc.freeze()
    gc.disable()  # a collection in the window would stamp its own pause onto tokens
    try:
        warmup_exchanges = await _phase(loop, "warmup", warmups, report)
        if not all(_looks_good(exchange) for exchange in warmup_exchanges):
            return facts, _records(warmups, warmup_exchanges)
        started_unix, cpu = time.time(), time.process_time()
        exchanges = await _phase(loop, "measured", measured, report)
        cpu = time.process_time() - cpu
    except OSError as error:
        summary = f"the server at {plan.root} takes no connection: {error or type(error).__name__}"
        raise BenchmarkError(Failure("no-connection", "client", summary)) from error
    finally:
        gc.enable()
        loop.close()
    records = _records(measured, exchanges)
    window = (max(record.end_ns or 0 for record in records) - min(record.due_ns for record in records)) / 1e9 if records else 0.0
    facts = ClientFacts(facts.openai, facts.python, facts.event_loop, cpu, window, started_unix)
    return facts, _records(warmups, warmup_exchanges) + records


async def _phase(
    loop: ClosedLoop, stage: Any, requests: Sequence[WireRequest], report: Callable[[Progress], None]
) -> list[Exchange]:
    report(Progress(stage, 0, len(requests)))
    loop.on_progress = lambda done, total: report(Progress(stage, done, total))
    exchanges = await loop.run([request.wire for request in requests])
    report(Progress(stage, len(requests), len(requests)))
    return exchanges


def _looks_good(exchange: Exchange) -> bool:
    """Cheap: what is left of a failed warm-up is found when it is parsed, after the measurement."""
    tail = b"".join(read for _, read in exchange.reads[-3:])
    return not exchange.error and b"[DONE]" in tail


def _records(requests: Sequence[WireRequest], exchanges: Sequence[Exchange]) -> list[RequestRecord]:
    return [record_of(request, exchange) for request, exchange in zip(requests, exchanges, strict=True)]


def _loop_name() -> str:
    module = type(asyncio.get_running_loop()).__module__.split(".")[0]
    return f"uvloop {importlib.metadata.version('uvloop')}" if module == "uvloop" else module


def _end_with_parent() -> None:
    while os.read(0, 4096):  # unbuffered: a lock on sys.stdin would be in the way of a normal exit
        pass
    os._exit(EXIT_ORPHANED)


def main() -> int:
    """Process entry; the exit code is 0 when the result file is whole, 1 after a failure that was reported on stdout."""
    import uvloop

    task = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, name="life-line", daemon=True).start()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:  # one descriptor per stream; the usual soft limit is 1024
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    plan = LoadPlan.from_json(task["plan"])
    api_key = os.environ.get(API_KEY_VARIABLE, "")
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            facts, records = runner.run(work(plan, api_key, _Reporter()))
    except BenchmarkError as error:
        failure = error.failure
        names = ("cause", "failure_class", "summary", "evidence", "remedy")
        emit({"event": "failed", "failure": {name: getattr(failure, name) for name in names}})
        return 1
    with Path(task["result"]).open("w", encoding="utf-8") as file:
        facts_json = {name: getattr(facts, name) for name in ClientFacts.__dataclass_fields__}
        file.write(json.dumps(facts_json, allow_nan=False) + "\n")
        for record in records:
            file.write(json.dumps(record.to_json(), separators=(",", ":"), allow_nan=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
