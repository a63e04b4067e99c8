"""What the fault suite stands on: a user's folder in which pytest runs, eyes on what it does, and a search for what remains."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))  # tests/ is not installed
STUB = REPOSITORY / "tests" / "stub_engine.py"
MARK = "GPUBENCH_FAULT_MARK"
"""Environment variable that every process of a fault inherits, however far it strays."""
NO_FAILURE = "none"
SETTLE_SECONDS = 12.0
"""How long processes may take to end after the run: the guard of a killed run gives its server five seconds."""
_POLL = 0.02
_NOT_LEFT = (f"gpubench-{os.getuid()}", "pytest-of-")
"""Folders of locks (which are looked at one by one) and of pytest itself."""
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


@dataclass(slots=True)
class Observed:
    """What came of one injected fault."""

    cause: str = NO_FAILURE
    whose: str = ""
    """The failure's class."""
    seconds: float = 0.0
    """From the event to the verdict."""
    exit_code: int | None = None
    """pytest's; None where no pytest ran."""
    note: str = ""
    problems: list[str] = field(default_factory=list)
    """What is wrong besides the verdict: something remained, a finished result was lost."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One line of the table: what is injected, and what must come of it."""

    name: str
    inject: Callable[[Path], Observed]
    """Gets an empty folder of its own."""
    cause: str = NO_FAILURE
    whose: str = ""
    exit_code: int | None = None
    within: float = 10.0
    """Seconds from event to verdict that are allowed, on a busy machine."""
    may_leave: str = ""
    """Start of the names of temporary files that nobody can remove, since their owner was killed."""


class Run:
    """pytest in a process of its own, watched through its records and its output."""

    def __init__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str], results: Path, name: str) -> None:
        self.results = results
        self.output = folder / f"{name}.txt"
        self.started = time.monotonic()
        with self.output.open("wb") as file:
            self.process = subprocess.Popen(
                command, cwd=folder, env=dict(environment), stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )

    def text(self) -> str:
        """What it has printed."""
        return self.output.read_text("utf-8", "replace")

    def records(self) -> list[dict[str, Any]]:
        """The records on disk, starts before cases."""
        found = []
        for path in sorted(self.results.rglob("launch-1.json"), key=lambda path: (path.parent.name != "init", path)):
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
        return "".join(path.read_text("utf-8", "replace") for path in self.results.rglob("launch-*.log"))

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
            assert time.monotonic() < limit, f"not within {seconds:g} s: {what}\n{self.text()[-3000:]}"
            time.sleep(_POLL)

    def until_logged(self, pattern: str) -> float:
        """Wait for a line of the engine; returns the moment."""
        self.until(f"{pattern} in the engine's log", lambda: re.search(pattern, self.log()))
        return time.monotonic()

    def until_second_case(self) -> dict[str, str]:
        """Wait until one case is finished and the next is in its middle; returns the finished ones."""
        self.until("a finished case", self.measured)
        worker = self.until("a load worker of the next case", lambda: self.processes("pytest_gpubench.load.worker"))
        self.until("requests in flight", lambda: _connected(worker[0]))
        time.sleep(0.5)
        return self.measured()

    def processes(self, word: str) -> list[psutil.Process]:
        """Living processes below this run whose command line holds the word, the guard not counted."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []:
            with contextlib.suppress(psutil.Error):
                words = " ".join(process.cmdline())
                if word in words and "guard.py" not in words and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def engine(self, role: str) -> psutil.Process:
        """The stub's API server, core or worker.

        Raises:
            AssertionError: if it is not there.
        """
        for process in self.processes(str(STUB)):
            words = process.cmdline()
            if role == ("worker" if "worker" in words else "core" if any(word.startswith("core:") for word in words) else "api"):
                return process
        raise AssertionError(f"no {role} process")

    def guard(self) -> psutil.Process:
        """The server's supervisor."""
        return psutil.Process(self.engine("api").ppid())

    def observe(self, event: float, finished: Mapping[str, str] | None = None, *, limit: float = 120.0) -> Observed:
        """Wait for the verdict and for the end of the run."""
        self.until("a failure on record", self.failure, limit)
        seen = Observed(seconds=time.monotonic() - event)
        failure = self.failure() or {}
        seen.cause, seen.whose = failure["cause"], failure["failure_class"]
        return self.end(seen, finished, limit=limit)

    def end(self, seen: Observed | None = None, finished: Mapping[str, str] | None = None, *, limit: float = 120.0) -> Observed:
        """Wait for the end of the run; checks the exit code's words and that no finished result is lost."""
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
        (self.folder / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\nfilterwarnings = error\n")
        suite = "from pytest_gpubench.suite import test_engine_init, test_throughput\n"
        (self.folder / "benchmarks" / "test_serving.py").write_text(suite)

    def start(
        self, *arguments: str, name: str = "run", results: Path | None = None, fault: str = "", env: Mapping[str, str] | None = None
    ) -> Run:
        """Start pytest as a user does."""
        results = results or self.folder / "results"
        command = [sys.executable, "-m", "pytest", "benchmarks", "-p", "no:cacheprovider", "-ra", f"--gpubench-results={results}"]
        command += [f"--gpubench-vllm-command={' '.join(self.engine)}", f"--gpubench-cache-dir={self.folder.parent / 'hub'}"]
        environment = own_environment(self.folder) | {"GPUBENCH_STUB_FAULT": fault} | dict(env or {})
        return Run([*command, *arguments], self.folder, environment, results, name)


def own_environment(folder: Path) -> dict[str, str]:
    """The host's environment with the fault's mark, leases and temporary files, and without settings that would disturb."""
    drop = ("GPUBENCH_", "PYTEST_", "HF_", "HUGGING_FACE_", "TRANSFORMERS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(drop)}
    (folder / "tmp").mkdir(exist_ok=True)
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    return kept | {MARK: str(folder), "GPUBENCH_LEASE_DIR": str(folder / "leases"), "TMPDIR": str(folder / "tmp")}


def marked(folder: Path) -> list[psutil.Process]:
    """Every living process that descends from the fault in this folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == str(folder):
                found.append(process)
    return found


def remains(folder: Path) -> list[str]:
    """What is left of a fault once its processes have had time to end; they are then killed, so that the next starts clean."""
    limit = time.monotonic() + SETTLE_SECONDS
    while (left := marked(folder)) and time.monotonic() < limit:
        time.sleep(0.1)
    words = []
    for process in left:
        with contextlib.suppress(psutil.Error):
            words.append(f"process {process.pid} {' '.join(process.cmdline())[:80]}")
            process.kill()
    words += [f"lease {path.name}" for path in sorted((folder / "leases").glob("*.lease"))]
    words += [f"lock {path.name}" for path in sorted(folder.rglob("*.lock")) if _is_locked(path)]
    temporary = sorted(path.name for path in (folder / "tmp").glob("*"))
    words += [f"temporary {name}" for name in temporary if not name.startswith(_NOT_LEFT)]
    return words


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int, options: str = "") -> Iterator[Path]:
    """A file system of this size (tmpfs; needs root).

    Raises:
        PermissionError: where it may not be mounted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m{options}", "tmpfs", str(folder)]
    mounted = subprocess.run(words, capture_output=True, text=True, check=False)
    if mounted.returncode:
        raise PermissionError(f"cannot mount a small disk: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Use up every byte of a small disk."""
    with (folder / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 4096)


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A folder for the whole suite, removed at the end."""
    root = Path(tempfile.mkdtemp(prefix="gpubench-faults-"))
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


def kill(process: psutil.Process, number: signal.Signals = signal.SIGKILL) -> float:
    """Send a signal; returns the moment."""
    process.send_signal(number)
    return time.monotonic()


def _connected(worker: psutil.Process) -> bool:
    try:
        return any(connection.status == psutil.CONN_ESTABLISHED for connection in worker.net_connections("tcp"))
    except psutil.Error:
        return False


def _is_locked(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
