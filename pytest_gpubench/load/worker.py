"""Entry of the measuring process. Started by ``WorkerPool``; nothing else runs in it.

It reads lines of JSON from stdin and ends when stdin does: it never outlives its parent. A line is
a task (plan, result file, API key), done one after another, or the word that opens the barrier
where several workers start together. Progress and failures go to stdout as JSON lines, records to
the result file.

What a load run needs fresh (event loop, connections, buffers) is made for each; what is imported
stays.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import os
import queue
import resource
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import uvloop

from pytest_gpubench.load.measuring import Measuring
from pytest_gpubench.load.openai_wire import import_ahead
from pytest_gpubench.load.prompts import Vocabularies
from pytest_gpubench.load.protocol import LoadPlan, Progress
from pytest_gpubench.load.response_buffer import ResponseBuffer
from pytest_gpubench.model.failures import BenchmarkError

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
            emit({"event": "progress", **asdict(progress)})

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

    def heard(self, word: int) -> None:
        """Called in the thread that reads stdin."""
        if self._loop is not None and self._word is not None:
            self._loop.call_soon_threadsafe(self._word.set_result, word)


def emit(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


class _LifeLine:
    """What comes through stdin, read by a thread of its own; the end of stdin is the worker's."""

    def __init__(self) -> None:
        self.tasks: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.barrier = _Barrier(needed=False)
        """Of the task that is being done."""
        threading.Thread(target=self._listen, name="life-line", daemon=True).start()

    def _listen(self) -> None:
        rest = b""
        # unbuffered: a lock on sys.stdin would be in the way of a normal exit
        while data := os.read(0, 4096):
            *lines, rest = (rest + data).split(b"\n")
            for message in map(json.loads, lines):
                if "plan" in message:
                    self.tasks.put(message)
                else:
                    self.barrier.heard(message["go"])
        os._exit(EXIT_ORPHANED)


def _do(task: dict[str, Any], life_line: _LifeLine, vocabularies: Vocabularies) -> None:
    """One load run: the result file is whole when ``done`` is said, a failure is said instead."""
    plan, result = LoadPlan.from_json(task["plan"]), Path(task["result"])
    life_line.barrier = barrier = _Barrier(plan.workload.workers > 1)
    buffer, reporter = ResponseBuffer(str(result.parent)), _Reporter()
    measuring = Measuring(
        plan, task["key"], reporter, barrier.wait, buffer, reporter.alive, vocabularies
    )
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            facts = runner.run(measuring.work())
        with result.open("w", encoding="utf-8") as file:
            file.write(json.dumps(asdict(facts), allow_nan=False) + "\n")
            for record in measuring.records():
                line = json.dumps(record.to_json(), separators=(",", ":"), allow_nan=False)
                file.write(line + "\n")
    except BenchmarkError as error:
        emit({"event": "failed", "failure": asdict(error.failure)})
    else:
        emit({"event": "done"})
    finally:
        buffer.close()


def _give_memory_back() -> None:
    """What a run held: a worker that waits for the next one is as small as a new one."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def main() -> None:
    """Do what comes through stdin, until it ends."""
    life_line = _LifeLine()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:  # one descriptor per stream; the usual soft limit is 1024
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(import_ahead())
    vocabularies = Vocabularies()
    # What is imported stays: collections need not go through it before each run.
    gc.collect()
    gc.freeze()
    emit({"event": "ready"})
    while True:
        _do(life_line.tasks.get(), life_line, vocabularies)
        _give_memory_back()


if __name__ == "__main__":
    main()
