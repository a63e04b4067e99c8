"""Entry of the measuring process. Started by ``run_load``; nothing else runs in it.

It reads one line of JSON (plan and result file) from stdin and ends when stdin does: it never
outlives its parent. Further lines open the barrier where several workers start together. Progress
and failures go to stdout as JSON lines, records to the result file. The API key comes in the
environment.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import threading
import time
from pathlib import Path
from typing import Any, Literal

from pytest_gpubench.load.measuring import Measuring
from pytest_gpubench.load.protocol import ClientFacts, LoadPlan, Progress
from pytest_gpubench.load.response_buffer import ResponseBuffer
from pytest_gpubench.model.failures import BenchmarkError

API_KEY_VARIABLE = "OPENAI_API_KEY"
EXIT_ORPHANED = 3
_PROGRESS_INTERVAL = 0.5


class _Reporter:
    """Progress on stdout, at most twice a second."""

    def __init__(self) -> None:
        self._last: tuple[float, str] = (0.0, "")
        self._last_sign = 0.0

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if (
            progress.stage != self._last[1]
            or progress.done == progress.total
            or now - self._last[0] >= _PROGRESS_INTERVAL
        ):
            self._last = (now, progress.stage)
            emit(
                {
                    "event": "progress",
                    "stage": progress.stage,
                    "done": progress.done,
                    "total": progress.total,
                }
            )

    def alive(self) -> None:
        """A sign of life where there is no progress to tell."""
        now = time.monotonic()
        if now - self._last_sign >= _PROGRESS_INTERVAL:
            self._last_sign = now
            emit({"event": "alive"})


class _Barrier:
    """Asks the parent to go on and waits for its word."""

    def __init__(self, needed: bool) -> None:
        self._needed = needed
        self._word: asyncio.Future[int] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def wait(self, stage: Literal["warmup", "measured", "recount"]) -> int:
        if not self._needed:
            return 0
        self._loop = asyncio.get_running_loop()
        self._word = self._loop.create_future()
        emit({"event": "waiting", "stage": stage})
        return await self._word

    def heard(self, line: bytes) -> None:
        """Called in the thread that reads stdin."""
        word = json.loads(line)["go"]
        if self._loop is not None and self._word is not None:
            self._loop.call_soon_threadsafe(self._word.set_result, word)


def emit(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _listen(barrier: _Barrier) -> None:
    rest = b""
    while data := os.read(
        0, 4096
    ):  # unbuffered: a lock on sys.stdin would be in the way of a normal exit
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            barrier.heard(line)
    os._exit(EXIT_ORPHANED)


def main() -> int:
    """The exit code is 0 when the result file is whole, 1 after a failure that was reported on
    stdout."""
    import uvloop

    task = json.loads(sys.stdin.buffer.readline())
    plan = LoadPlan.from_json(task["plan"])
    barrier = _Barrier(plan.workload.workers > 1)
    threading.Thread(target=_listen, args=(barrier,), name="life-line", daemon=True).start()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:  # one descriptor per stream; the usual soft limit is 1024
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    result = Path(task["result"])
    buffer = ResponseBuffer(str(result.parent))
    reporter = _Reporter()
    key = os.environ.get(API_KEY_VARIABLE, "")
    measuring = Measuring(plan, key, reporter, barrier.wait, buffer, reporter.alive)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            facts = runner.run(measuring.work())
    except BenchmarkError as error:
        failure = error.failure
        names = ("cause", "failure_class", "summary", "evidence", "remedy")
        emit({"event": "failed", "failure": {name: getattr(failure, name) for name in names}})
        return 1
    with result.open("w", encoding="utf-8") as file:
        facts_json = {name: getattr(facts, name) for name in ClientFacts.__dataclass_fields__}
        file.write(json.dumps(facts_json, allow_nan=False) + "\n")
        for record in measuring.records():
            file.write(json.dumps(record.to_json(), separators=(",", ":"), allow_nan=False) + "\n")
    buffer.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
