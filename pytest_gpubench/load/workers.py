"""The worker processes of one load run: started, fed, released together, ended; seen from the
parent."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import site
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

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
_DOING = {"prompts": "made prompts", "warmup": "sent the warm-up", "measured": "measured"}


class Worker:
    """One measuring process."""

    def __init__(self, plan: LoadPlan, api_key: str, folder: Path) -> None:
        self.plan = plan
        self._result, self._log = (
            folder / f"result-{plan.share}.jsonl",
            folder / f"stderr-{plan.share}.txt",
        )
        self._messages: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.waiting = ""
        """The stage before which it waits."""
        self.progress: Progress | None = None
        self._silent = self._halted = 0.0
        self._looked = time.monotonic()
        package_root = str(Path(__file__).parents[2])
        environment = {**os.environ, "OPENAI_API_KEY": api_key}
        if package_root not in (
            *site.getsitepackages(),
            site.getusersitepackages(),
        ):  # a checkout that is not installed
            environment["PYTHONPATH"] = os.pathsep.join(
                filter(None, (os.environ.get("PYTHONPATH"), package_root))
            )
        with self._log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "pytest_gpubench.load.worker"],
                stdin=subprocess.PIPE,  # stays open: its end is the end of the worker
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment,
                # Ctrl-C in the terminal reaches the parent, which ends the worker in order
                start_new_session=True,
            )
        self._reader = threading.Thread(
            target=self._read_messages, name="load-progress", daemon=True
        )
        self._reader.start()
        self.tell({"plan": plan.to_json(), "result": str(self._result)})

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def tell(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None  # noqa: S101  # it was asked for
        with contextlib.suppress(
            BrokenPipeError
        ):  # it died at once: its exit code and stderr say why
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()

    def handle(self) -> tuple[Failure | None, list[Progress]]:
        """What it has said since the last time."""
        progress: list[Progress] = []
        while not self._messages.empty():
            message = self._messages.get()
            self._silent = 0.0
            if message["event"] == "alive":
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

    def crash(self) -> Failure | None:
        """Why it died, if it did."""
        code = self.process.returncode
        if code == 0:
            return None
        lines = tuple(
            line for line in self._log.read_text("utf-8", "replace").splitlines() if line.strip()
        )[-15:]
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return Failure("load-worker-died", "client", f"the load generator's process {how}", lines)

    def read(self) -> tuple[ClientFacts, list[RequestRecord]]:
        """Its result, once it has ended well."""
        with self._result.open(encoding="utf-8") as file:
            facts = ClientFacts(**json.loads(file.readline()))
            return facts, [RequestRecord.from_json(json.loads(line)) for line in file]

    def _read_messages(self) -> None:
        assert self.process.stdout is not None  # noqa: S101  # it was asked for
        for line in self.process.stdout:
            if line.startswith(b"{"):
                self._messages.put(json.loads(line))


def start_workers(plan: LoadPlan, api_key: str, folder: Path) -> list[Worker]:
    """One worker per share of the load."""
    return [
        Worker(replace(plan, share=share), api_key, folder)
        for share in range(plan.workload.workers)
    ]


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
