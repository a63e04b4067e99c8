"""Worker processes, seen from the parent: started, given one load run after another, released
together, ended."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from pytest_gpubench.host.own_processes import environment_for_ours
from pytest_gpubench.load.protocol import ClientFacts, LoadPlan, Progress, RequestRecord
from pytest_gpubench.model.failures import Failure

_START_DELAY_NS = 50_000_000
"""Between the word and the common start of several workers: enough for all of them to hear it."""


HALTED_S = 5.0
"""Seconds that a worker's process may be halted."""
SILENCE_S = 60.0
"""Seconds without a word from a worker that sends requests: it reports twice a second."""
PREPARING_S = 600.0
"""The same while it prepares: reading a large dataset has no progress, and the server may take two
minutes to tokenize."""
_LONGEST_LOOK = 1.0
_MOST_STDERR = 64 * 2**10
_NOT_FOR_WORKERS = ("OPENAI_API_KEY", "PYTEST_CURRENT_TEST")
"""The key comes with the plan; the other differs in every test."""
_DOING = {"prompts": "made prompts", "warmup": "sent the warm-up", "measured": "measured"}


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a process takes over from the one that starts it."""

    environment: Mapping[str, str]
    folder: str
    cpus: frozenset[int]
    niceness: int

    @classmethod
    def now(cls) -> Surroundings:
        """Those of a worker that would be started now."""
        folder = ""
        with contextlib.suppress(OSError):  # somebody removed it
            folder = str(Path.cwd())
        return cls(
            environment_for_ours(without=_NOT_FOR_WORKERS),
            folder,
            frozenset(os.sched_getaffinity(0)),
            os.getpriority(os.PRIO_PROCESS, 0),
        )


class Worker:
    """One measuring process. It waits for a plan, and for the next one when it is done."""

    def __init__(self, surroundings: Surroundings) -> None:
        self.surroundings = surroundings
        self.waiting = ""
        """The stage before which it waits."""
        self.progress: Progress | None = None
        self.done = False
        """Whether the result of its plan is whole."""
        self.over = threading.Event()
        """Set when it works no more on its plan, whether or not it lives."""
        self._result = Path()
        self._messages: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._silent = self._halted = self._looked = 0.0
        self._said = ""
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as the process
        descriptor = self._stderr.fileno()
        fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_APPEND)
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "pytest_gpubench.load.worker"],
            stdin=subprocess.PIPE,  # stays open: its end is the end of the worker
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=surroundings.environment,
            # Ctrl-C in the terminal reaches the parent, which ends the worker in order
            start_new_session=True,
        )
        self._reader = threading.Thread(
            target=self._read_messages, name="load-progress", daemon=True
        )
        self._reader.start()

    def begin(self, plan: LoadPlan, api_key: str, folder: Path) -> None:
        """Give it a plan; the result lies in the folder once it is done."""
        self._result = folder / f"result-{plan.share}.jsonl"
        self.waiting, self.progress, self.done = "", None, False
        self.over.clear()
        self._silent = self._halted = 0.0
        self._looked = time.monotonic()
        os.ftruncate(self._stderr.fileno(), 0)
        # The key goes through the pipe: no other user sees it there, as in argv or in a file.
        self.tell({"plan": plan.to_json(), "result": str(self._result), "key": api_key})

    @property
    def ended(self) -> bool:
        """Whether it works no more on its plan."""
        return self.done or self.process.poll() is not None

    def tell(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None  # noqa: S101  # it was asked for
        # it may have died at once: its exit code and stderr say why
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()

    def handle(self) -> tuple[Failure | None, list[Progress]]:
        """What it has said since the last time."""
        progress: list[Progress] = []
        while not self._messages.empty():
            message = self._messages.get()
            self._silent = 0.0
            if message["event"] in ("alive", "done", "ready"):
                continue
            if message["event"] == "failed":
                plain = message["failure"]
                return Failure(**{**plain, "evidence": tuple(plain["evidence"])}), progress
            if message["event"] == "waiting":
                self.waiting = message["stage"]
            else:
                self.progress = Progress(message["stage"], message["done"], message["total"])
                progress.append(self.progress)
        return None, progress

    def stopped(self) -> Failure | None:
        """Why it is given up though its process lives: that does not run, or says nothing any more.

        Time counts by looks, so that a parent that was stopped itself does not take its own pause
        for the worker's.
        """
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, _LONGEST_LOOK), now
        if self.ended or self.waiting:
            self._silent = self._halted = 0.0
            return None
        self._silent += passed
        self._halted += passed
        if not self._is_halted():
            self._halted = 0.0
        stage = self.progress.stage if self.progress else ""
        limit = SILENCE_S if stage in ("warmup", "measured") else PREPARING_S
        if self._halted < HALTED_S and self._silent < limit:
            return None
        doing = _DOING.get(stage, "started")
        why = f"nothing was heard of its process (pid {self.process.pid}) for {limit:g} s"
        if self._halted >= HALTED_S:
            why = f"its process (pid {self.process.pid}) is halted (SIGSTOP, or a debugger)"
        return Failure(
            "load-worker-stopped",
            "client",
            f"the load worker stopped while it {doing}: {why}",
            remedy="Find what stops processes of this user on this host, and run the case again.",
        )

    def _is_halted(self) -> bool:
        try:
            status = psutil.Process(self.process.pid).status()
        except psutil.Error:
            return False
        return status in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)

    def kill(self) -> None:
        """End it if it has not ended; its last messages are then complete."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self._reader.join()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self._said = self._complaints()
        self._stderr.close()

    def crash(self) -> Failure | None:
        """Why it died, if it did."""
        code = self.process.poll()
        if self.done or code is None:
            return None
        lines = tuple(line for line in self._complaints().splitlines() if line.strip())[-15:]
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return Failure("load-worker-died", "client", f"the load generator's process {how}", lines)

    def _complaints(self) -> str:
        """The end of what it has written to its stderr during this plan."""
        if self._stderr.closed:
            return self._said
        size = os.fstat(self._stderr.fileno()).st_size
        said = os.pread(self._stderr.fileno(), _MOST_STDERR, max(0, size - _MOST_STDERR))
        return said.decode("utf-8", "replace")

    def read(self) -> tuple[ClientFacts, list[RequestRecord]]:
        """Its result, once it is done."""
        with self._result.open(encoding="utf-8") as file:
            facts = ClientFacts(**json.loads(file.readline()))
            return facts, [RequestRecord.from_json(json.loads(line)) for line in file]

    def _read_messages(self) -> None:
        assert self.process.stdout is not None  # noqa: S101  # it was asked for
        for line in self.process.stdout:
            if line.startswith(b"{"):
                message = json.loads(line)
                self._messages.put(message)
                if message["event"] in ("done", "failed"):
                    self.over.set()
                # Last: whoever sees it takes all that was said for said, and may begin anew.
                self.done = self.done or message["event"] == "done"
        self.over.set()


class WorkerPool:
    """Workers that live as long as their owner and take one load run after another: what a process
    imports costs ten times the CPU of a short case.

    A worker that failed, died or was stopped is ended, and another one started when one is needed;
    so is one that was started in other surroundings than there are now.
    """

    def __init__(self) -> None:
        self._idle: list[Worker] = []
        self._owner = os.getpid()

    def prepare(self, count: int) -> None:
        """Have so many workers; they start up while the caller goes on, and then sleep."""
        self._sort_out()
        while len(self._idle) < count:
            self._idle.append(Worker(Surroundings.now()))

    @contextmanager
    def team(self, plan: LoadPlan, api_key: str, folder: Path) -> Iterator[list[Worker]]:
        """One worker per share of the load, at work. Those that are not done in the end are
        killed."""
        self._sort_out()
        team: list[Worker] = []
        try:
            for share in range(plan.workload.workers):
                team.append(self._idle.pop() if self._idle else Worker(Surroundings.now()))
                team[-1].begin(replace(plan, share=share), api_key, folder)
            yield team
        finally:
            for worker in team:
                if worker.done:
                    self._idle.append(worker)
                else:
                    worker.kill()

    def close(self) -> None:
        """End all of them."""
        if os.getpid() == self._owner:
            while self._idle:
                self._idle.pop().kill()

    def _sort_out(self) -> None:
        if os.getpid() != self._owner:  # after a fork: they are the parent's
            self._idle, self._owner = [], os.getpid()
        now = Surroundings.now()
        for worker in list(self._idle):
            if worker.process.poll() is not None or worker.surroundings != now:
                self._idle.remove(worker)
                worker.kill()


def release(workers: list[Worker]) -> None:
    """Release workers that all wait at the same barrier; where one has ended before it, the others
    are told to go no further."""
    standing = [worker for worker in workers if worker.waiting]
    if not standing or any(not worker.ended and not worker.waiting for worker in workers):
        return
    alone = len(standing) < len(workers) or len({worker.waiting for worker in standing}) > 1
    start_ns = -1 if alone else time.monotonic_ns() + _START_DELAY_NS
    for worker in standing:
        worker.waiting = ""
        worker.tell({"go": start_ns})


def total_progress(workers: list[Worker], stage: Progress) -> Progress:
    """The progress of all workers in the stage of a message."""
    parts = [
        worker.progress
        for worker in workers
        if worker.progress is not None and worker.progress.stage == stage.stage
    ]
    return Progress(
        stage.stage,
        sum(progress.done for progress in parts),
        sum(progress.total for progress in parts),
    )


def merge(
    results: list[tuple[ClientFacts, list[RequestRecord]]],
) -> tuple[ClientFacts, tuple[RequestRecord, ...]]:
    """One result of many: records in order, the client's facts those of the worst worker."""
    records = sorted(
        (record for _, part in results for record in part),
        key=lambda record: (record.phase != "warmup", record.index),
    )
    all_facts = [facts for facts, _ in results]
    busiest = max(all_facts, key=lambda facts: facts.cpu_share)
    merged = replace(
        busiest,
        lag_mean=max(facts.lag_mean for facts in all_facts),
        lag_p99=max(facts.lag_p99 for facts in all_facts),
        lag_max=max(facts.lag_max for facts in all_facts),
        lag_samples=sum(facts.lag_samples for facts in all_facts),
        clock_drift=max((facts.clock_drift for facts in all_facts), key=abs),
        started_unix=min(facts.started_unix for facts in all_facts),
        stopped_by=next(
            (facts.stopped_by for facts in all_facts if facts.stopped_by != "count"), "count"
        ),
        planned=sum(facts.planned or 0 for facts in all_facts),
        recount=next((facts.recount for facts in all_facts if facts.recount), ""),
        notes=tuple(
            dict.fromkeys((code, words) for facts in all_facts for code, words in facts.notes)
        ),
    )
    return merged, tuple(records)
