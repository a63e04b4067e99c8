"""What result folders hold, as frozen types."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

from pytest_gpubench.measure.measurement import Measurement
from pytest_gpubench.model.cases import Identity
from pytest_gpubench.model.failures import Failure
from pytest_gpubench.model.policies import SharingPolicy
from pytest_gpubench.model.printing import for_terminal
from pytest_gpubench.model.specs import Launch, Topology, init_subject
from pytest_gpubench.model.verdicts import Status, Verdict
from pytest_gpubench.report.records import requests_name


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something that a result folder holds and that does not count, with the reason."""

    path: Path
    reason: str
    """One sentence without the path."""

    def __str__(self) -> str:
        return for_terminal(f"{self.path}: {self.reason}")


@dataclass(frozen=True, slots=True)
class Versions:
    """What must agree for numbers to be compared; empty where a record does not say."""

    engine: str = ""
    plugin: str = ""
    driver: str = ""
    commit: str = ""
    """Of the repository with the recipes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result(ABC):
    """One record of one launch, without its bulky parts: ``read_results.read_whole(path)`` gives
    the whole file."""

    UNJUDGED: ClassVar[Status]
    """What it is without a verdict."""
    path: Path
    run: str
    """Name of the run folder."""
    server: str
    launch: Launch
    finished: datetime
    hostname: str
    versions: Versions
    verdict: Verdict | None
    failure: Failure | None
    times: Mapping[str, float]
    """Where the wall time went, in seconds by name; empty in old records."""

    @property
    @abstractmethod
    def subject(self) -> str:
        """The name under which it is judged: the case's id, or that of the start."""

    @property
    def status(self) -> Status:
        """A failure is FAIL."""
        if self.failure is not None:
            return Status.FAIL
        return self.verdict.status if self.verdict else self.UNJUDGED


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult(Result):
    """Of one case."""

    UNJUDGED = Status.INCONCLUSIVE
    case: str
    recipe: str
    identity: Identity
    """From the recipe's name, which must spell its fields."""
    policy: SharingPolicy
    fingerprint: str
    hardware: str
    device: str
    """Product names of the GPUs, or the CPU's model."""
    topology: Topology
    workload: Mapping[str, Any]
    """The fields of ``model.workload.Workload``: isl, osl, conc, ..."""
    metrics: Mapping[str, float]
    """Finite ones only; empty where nothing was measured."""
    measurement: Measurement | None
    """Without ``series``."""
    source: str
    image: str
    evaluation: Mapping[str, Any]
    """Of an evaluation: its task, how many questions were asked and answered right, the interval;
    empty where a load was measured."""
    reused_from: str
    """Run in which it was measured, where this run only judged it again; empty: measured here."""

    @property
    def subject(self) -> str:
        return self.case

    @property
    def gpus(self) -> int:
        return self.topology.gpus

    def requests_path(self, number: int = 1) -> Path:
        """Where the per-request records of a round are, if they were kept."""
        return self.path.with_name(requests_name(self.launch, number))

    @property
    def rounds(self) -> int:
        """Measurements of which the metrics are means."""
        return max(1, len(self.measurement.rounds)) if self.measurement else 1

    @property
    def answers_path(self) -> Path:
        """Where the answers of an evaluation are, if they were kept."""
        return self.path.with_name(f"{self.launch.label}.answers.jsonl.gz")


START_PHASES = (
    "process_start",
    "imports",
    "config",
    "weights",
    "compile",
    "kv_cache",
    "graph_capture",
    "other",
)
"""What a start consists of, in order; ``other`` is what no phase accounts for."""
PHASE_NAMES = {"process_start": "process", "kv_cache": "KV cache", "graph_capture": "graph capture"}


@dataclass(frozen=True, slots=True, kw_only=True)
class InitResult(Result):
    """Of the start of a server."""

    UNJUDGED = Status.UNGATED
    phases: Mapping[str, float]
    """Start-up phases in seconds, by name; empty where the server did not start."""
    argv: tuple[str, ...]
    env: Mapping[str, str]

    @property
    def subject(self) -> str:
        return init_subject(self.server)

    @property
    def seconds(self) -> float:
        """From the process's start to ready."""
        parts = sum(self.phases.get(phase, 0.0) for phase in START_PHASES)
        return max(self.phases.get("ready", 0.0), parts)

    @property
    def parts(self) -> dict[str, float]:
        """The same by phase, in order; what no phase accounts for is ``other``."""
        parts = {phase: max(0.0, self.phases.get(phase, 0.0)) for phase in START_PHASES[:-1]}
        return parts | {"other": max(0.0, self.seconds - sum(parts.values()))}


@dataclass(frozen=True, slots=True)
class TestFailure:
    """A test that failed and that no record stands for: a user's own, a fixture, a file."""

    test: str
    """pytest's node id."""
    reason: str
    """One line."""


@dataclass(frozen=True, slots=True)
class Spent:
    """How long a run took."""

    seconds: float
    processes: int = 1
    """That ran tests side by side."""
    collecting: float = 0.0
    """Seconds until the first test, in a run of one process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnd:
    """How pytest ended: the file ``run.json`` of a run's folder."""

    exit: int
    """pytest's exit code."""
    finished: datetime | None = None
    selection: tuple[str, ...] = ()
    """Files, ``-k``, ``-m``: a later run of the same selection is another attempt."""
    failures: tuple[TestFailure, ...] = ()
    ratios: tuple[TestFailure, ...] = ()
    """Gates across cases that failed, under the names by which they are judged."""
    not_run: tuple[str, ...] = ()
    """Selected cases that were neither measured nor skipped with a reason."""
    spent: Spent | None = None
    """None in old runs."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run folder, records in the order in which they ended."""

    name: str
    cases: tuple[CaseResult, ...]
    inits: tuple[InitResult, ...]
    end: RunEnd | None = None
    """None where the run was killed, or still goes on."""
    spent: Spent | None = None
    """None where nobody says it yet, or any more."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Everything that the given folders hold; runs by name."""

    runs: tuple[Run, ...]
    left_out: tuple[LeftOut, ...]

    def cases(self) -> Iterator[CaseResult]:
        """All case records of all runs."""
        return (case for run in self.runs for case in run.cases)

    def inits(self) -> Iterator[InitResult]:
        """All start records of all runs."""
        return (init for run in self.runs for init in run.inits)
