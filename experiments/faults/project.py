"""A user's folder in which pytest runs, and eyes on what it does."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
from harness import STUB, Observed, own_environment

_POLL = 0.02
_T = TypeVar("_T")

RECIPES = """
templates:
  base:
    model: pytest-gpubench/tiny-llama
    model-prefix: tiny
    precision: bf16
    framework: vllm
    multinode: false
    runner: cpu
    scenarios:
      fixed-seq-len:
      - {isl: 32, osl: 8, search-space: [{tp: 1, conc-list: [1, 2]}]}
    serve: {max-model-len: 256, block-size: 128, enable-prefix-caching: false}
    client: {prompts-per-conc: 2, warmups-per-conc: 1}
tiny-bf16-cpu-vllm: {extends: base}
tiny-bf16-cpu-vllm-mtp:
  extends: base
  scenarios:
    fixed-seq-len:
    - {isl: 32, osl: 8, search-space: [{tp: 1, conc-list: [1, 2], spec-decoding: mtp}]}
  speculative: {method: eagle3, model: pytest-gpubench/tiny-llama-eagle3, num-speculative-tokens: 3}
"""
ONE_SERVER = ("-m", "tiny and not mtp")
SLOW = {"GPUBENCH_STUB_TOKEN_TIME": "0.15"}
"""A case then takes some four seconds: long enough to be hit in its middle."""


class Run:
    """pytest in a process of its own, watched through its records and its output."""

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        results: Path,
        name: str,
    ) -> None:
        self.results = results
        self.output = folder / f"{name}.txt"
        self.started = time.monotonic()
        with self.output.open("wb") as file:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env=dict(environment),
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def text(self) -> str:
        """What it has printed."""
        return self.output.read_text("utf-8", "replace")

    def records(self) -> list[dict[str, Any]]:
        """The records on disk, starts before cases."""
        found = []
        for path in sorted(
            self.results.rglob("launch-1.json"), key=lambda path: (path.parent.name != "init", path)
        ):
            with contextlib.suppress(OSError):
                found.append(json.loads(path.read_text()))
        return found

    def failure(self) -> dict[str, Any] | None:
        """The first failure on record."""
        return next((record["failure"] for record in self.records() if record["failure"]), None)

    def measured(self) -> dict[str, str]:
        """Finished results by case, as their metrics."""
        return {
            record["case"]: json.dumps(record["metrics"])
            for record in self.records()
            if record["kind"] == "case" and record["metrics"]
        }

    def log(self) -> str:
        """The engine's log so far."""
        return "".join(
            path.read_text("utf-8", "replace") for path in self.results.rglob("launch-*.log")
        )

    def until(self, what: str, condition: Callable[[], _T | None], seconds: float = 60.0) -> _T:
        """Wait for a condition; returns its first true value.

        Raises:
            AssertionError: if it does not come to pass, or the run has ended without it.
        """
        limit = time.monotonic() + seconds
        while True:
            ended = self.process.poll() is not None
            value = condition()
            if value:
                return value
            assert not ended, f"the run ended without: {what}\n{self.text()[-3000:]}"
            assert time.monotonic() < limit, (
                f"not within {seconds:g} s: {what}\n{self.text()[-3000:]}"
            )
            time.sleep(_POLL)

    def until_logged(self, pattern: str) -> float:
        """Wait for a line of the engine; returns the moment."""
        self.until(f"{pattern} in the engine's log", lambda: re.search(pattern, self.log()))
        return time.monotonic()

    def until_second_case(self) -> dict[str, str]:
        """Wait until one case is finished and the next is in its middle; returns the finished
        ones."""
        self.until("a finished case", self.measured)
        worker = self.until(
            "a load worker of the next case", lambda: self.processes("pytest_gpubench.load.worker")
        )
        self.until("requests in flight", lambda: connected(worker[0]))
        time.sleep(0.5)
        return self.measured()

    def processes(self, word: str) -> list[psutil.Process]:
        """Living processes below this run whose command line holds the word, the guard not
        counted."""
        found = []
        for process in (
            psutil.Process(self.process.pid).children(recursive=True)
            if self.process.poll() is None
            else []
        ):
            with contextlib.suppress(psutil.Error):
                words = " ".join(process.cmdline())
                if (
                    word in words
                    and "guard.py" not in words
                    and process.status() != psutil.STATUS_ZOMBIE
                ):
                    found.append(process)
        return found

    def engine(self, role: str) -> psutil.Process:
        """The stub's API server, core or worker.

        Raises:
            AssertionError: if it is not there.
        """
        for process in self.processes(str(STUB)):
            words = process.cmdline()
            if role == (
                "worker"
                if "worker" in words
                else "core"
                if any(word.startswith("core:") for word in words)
                else "api"
            ):
                return process
        raise AssertionError(f"no {role} process")

    def guard(self) -> psutil.Process:
        """The server's supervisor."""
        return psutil.Process(self.engine("api").ppid())

    def observe(
        self, event: float, finished: Mapping[str, str] | None = None, *, limit: float = 120.0
    ) -> Observed:
        """Wait for the verdict and for the end of the run."""
        self.until("a failure on record", self.failure, limit)
        seen = Observed(seconds=time.monotonic() - event)
        failure = self.failure() or {}
        seen.cause, seen.whose = failure["cause"], failure["failure_class"]
        return self.end(seen, finished, limit=limit)

    def end(
        self,
        seen: Observed | None = None,
        finished: Mapping[str, str] | None = None,
        *,
        limit: float = 120.0,
    ) -> Observed:
        """Wait for the end of the run; checks the exit code's words and that no finished result is
        lost."""
        seen = seen or Observed(seconds=0.0)
        try:
            seen.exit_code = self.process.wait(limit)
        except subprocess.TimeoutExpired:
            seen.problems.append(f"pytest still ran after {limit:g} s")
            self.process.kill()
            self.process.wait()
        now = self.measured()
        for case, metrics in (finished or {}).items():
            if now.get(case) != metrics:
                seen.problems.append(f"the finished result of {case} is lost")
        if "Traceback (most recent call last)" in self.text() or "INTERNALERROR" in self.text():
            seen.problems.append("a traceback was shown")
        return seen


@dataclass(slots=True)
class Project:
    """A user's folder with recipes and benchmarks."""

    folder: Path
    recipes: str = RECIPES
    engine: Sequence[str] = (sys.executable, str(STUB), "serve")

    def __post_init__(self) -> None:
        (self.folder / "benchmarks").mkdir(parents=True, exist_ok=True)
        (self.folder / "recipes.yaml").write_text(self.recipes)
        (self.folder / "pytest.ini").write_text(
            "[pytest]\naddopts = --strict-markers\nfilterwarnings = error\n"
        )
        suite = "from pytest_gpubench.suite import test_accuracy, test_engine_init, test_ratio, test_throughput\n"
        (self.folder / "benchmarks" / "test_serving.py").write_text(suite)

    def start(
        self,
        *arguments: str,
        name: str = "run",
        results: Path | None = None,
        fault: str = "",
        env: Mapping[str, str] | None = None,
    ) -> Run:
        """Start pytest as a user does."""
        results = results or self.folder / "results"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "benchmarks",
            "-p",
            "no:cacheprovider",
            "-ra",
            f"--gpubench-results={results}",
        ]
        command += [
            f"--gpubench-vllm-command={' '.join(self.engine)}",
            f"--gpubench-cache-dir={self.folder.parent / 'hub'}",
        ]
        environment = (
            own_environment(self.folder) | {"GPUBENCH_STUB_FAULT": fault} | dict(env or {})
        )
        return Run([*command, *arguments], self.folder, environment, results, name)


def connected(worker: psutil.Process) -> bool:
    """Whether a load worker holds a connection to the server."""
    try:
        return any(
            connection.status == psutil.CONN_ESTABLISHED
            for connection in worker.net_connections("tcp")
        )
    except psutil.Error:
        return False
