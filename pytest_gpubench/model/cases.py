"""Cases: the points of the search space, one test each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pytest_gpubench.model.evaluation import Evaluation
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.grouping import grouped
from pytest_gpubench.model.hardware import HARDWARE, Hardware
from pytest_gpubench.model.policies import SharingPolicy
from pytest_gpubench.model.printing import for_terminal
from pytest_gpubench.model.rounds import AS_USUAL, Rounds
from pytest_gpubench.model.specs import ServerSpec, Topology
from pytest_gpubench.model.workload import Workload


@dataclass(frozen=True, slots=True)
class SourcePosition:
    """Where something stands in a recipe file; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Identity:
    """What a recipe is, from its fields and never from its name."""

    model: str
    """The model prefix, for instance ``minimaxm3``."""
    precision: str
    hardware: str
    framework: str
    spec: str = ""
    """``mtp`` where a draft is used, empty otherwise: absence is absence."""
    variant: str = ""

    @property
    def tokens(self) -> tuple[str, ...]:
        """The words of the id's identity part, in order, empty ones left out."""
        words = (self.model, self.precision, self.hardware, self.framework, self.spec)
        return tuple(word for word in (*words, *self.variant.split("-")) if word)

    @property
    def label(self) -> str:
        return "-".join(self.tokens)


@dataclass(frozen=True, slots=True, repr=False)
class Case:
    """One point: recipe, topology and workload, with the server that will answer it."""

    id: str
    """``SERVER:WORKLOAD``, for instance ``minimaxm3-fp8-h100-vllm-mtp-tp8:1k1k-c64``; or
    ``SERVER:TASK`` of an evaluation."""
    recipe: str
    identity: Identity
    model: str
    runner: str
    topology: Topology
    workload: Workload
    max_model_len: int | None
    """Of this case (isl + osl + 256 unless the recipe says otherwise), before capacities are
    shared."""
    server: str
    """KEY of the server in the plan."""
    tags: tuple[str, ...]
    """Every word of the id that ``-k`` and ``-m`` can select, each once."""
    position: SourcePosition
    runnable: bool = True
    why_not: str = ""
    gates: FrozenMap = field(default_factory=FrozenMap)
    source: str = ""
    """Address of the official recipe that it follows."""
    official: FrozenMap = field(default_factory=FrozenMap)
    """The same as written: at, variant, strategy, hardware, features."""
    differs: FrozenMap = field(default_factory=FrozenMap)
    """Flag or variable to the reason why it is not as there."""
    policy: SharingPolicy = "parallelism"
    """Under which its server was chosen; baselines never mix policies."""
    facts: FrozenMap = field(default_factory=FrozenMap)
    """What its recipe states of the model's files, as written: config, draft-config,
    weight-bytes."""
    rounds: Rounds = AS_USUAL
    """How often it is measured on a launch."""
    evaluation: Evaluation | None = None
    """Questions that are asked instead of a load; of the workload only lengths and concurrency
    count then."""

    def __hash__(self) -> int:
        # Ids are unique within a book; pytest hashes parameters many times.
        return hash(self.id)

    def __repr__(self) -> str:
        # pytest (--setup-show) prints parameters, Allure tells a test's history by what it prints:
        # no path of a checkout, no position in a file.
        return self.id

    @property
    def gpus(self) -> int:
        return self.topology.gpus

    @property
    def label(self) -> str:
        """What is done on the server, as ids and folders have it: ``1k1k-c64``, ``gsm8k``."""
        return self.evaluation.label if self.evaluation else self.workload.label


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong in a recipe file, as one sentence with its place and a remedy."""

    position: SourcePosition
    path: str
    """Key path, for instance ``minimaxm3-fp8-h100-vllm.serve.block-size``."""
    message: str

    def __str__(self) -> str:
        where = f"{self.position}: {self.path}" if self.path else f"{self.position}"
        return for_terminal(f"{where}: {self.message}")


@dataclass(frozen=True, slots=True)
class Unsupported:
    """An entry of a foreign file that we list instead of running, with the reason."""

    position: SourcePosition
    recipe: str
    reason: str


@dataclass(frozen=True, slots=True)
class RecipeBook:
    """Everything that recipe files declare, expanded; the one object from which plan, tests,
    records and reports are made."""

    cases: tuple[Case, ...] = ()
    servers: tuple[tuple[str, ServerSpec], ...] = ()
    """Server specs by KEY, in the order of their first case."""
    problems: tuple[Problem, ...] = ()
    unsupported: tuple[Unsupported, ...] = ()
    policy: SharingPolicy = "parallelism"
    files: tuple[str, ...] = ()
    ratios: tuple[FrozenMap, ...] = ()
    """Gates across cases (``ratios``), as written: name, metric, of, over, at, at-least,
    at-most."""
    ratio_places: tuple[SourcePosition, ...] = ()
    """Where each of them stands."""
    declared: tuple[Hardware, ...] = ()
    """GPUs that the files describe because the hardware table lacks them."""
    _by_key: dict[str, ServerSpec] = field(init=False, repr=False, compare=False)
    _by_id: dict[str, Case] = field(init=False, repr=False, compare=False)
    _cases_of: dict[str, tuple[Case, ...]] = field(init=False, repr=False, compare=False)
    _hardware: dict[str, Hardware] = field(init=False, repr=False, compare=False)
    loads: tuple[Case, ...] = field(init=False, repr=False, compare=False)
    """The cases that measure speed."""
    evaluations: tuple[Case, ...] = field(init=False, repr=False, compare=False)
    """The cases that measure accuracy."""

    def __post_init__(self) -> None:
        cases_of = grouped(self.cases, lambda case: case.server)
        made = {
            "_by_key": dict(self.servers),
            "_by_id": {case.id: case for case in self.cases},
            "_cases_of": {key: (*of,) for key, of in cases_of.items()},
            "_hardware": {**HARDWARE, **{one.key: one for one in self.declared}},
            "loads": tuple(case for case in self.cases if case.evaluation is None),
            "evaluations": tuple(case for case in self.cases if case.evaluation is not None),
        }
        for name, value in made.items():  # once: whoever looks up must not search thousands
            object.__setattr__(self, name, value)

    def server(self, key: str) -> ServerSpec:
        """The spec of a server by its KEY.

        Raises:
            KeyError: if no case of the book uses that key.
        """
        return self._by_key[key]

    def case(self, identifier: str) -> Case:
        """A case by its id.

        Raises:
            KeyError: if there is none.
        """
        return self._by_id[identifier]

    def cases_of(self, key: str) -> tuple[Case, ...]:
        """All cases of a server, in the order of the book."""
        return self._cases_of.get(key, ())

    def never_runs(self, key: str) -> str:
        """Why no case of a server is run, empty where some are."""
        cases = self.cases_of(key)
        return "" if not cases or any(case.runnable for case in cases) else cases[0].why_not

    def hardware(self, key: str) -> Hardware:
        """What a hardware key of one of its servers means.

        Raises:
            KeyError: for any other key.
        """
        return self._hardware[key]


def lowest_of_servers(cases: Iterable[Case]) -> frozenset[str]:
    """Ids of the case of lowest concurrency of each server; of several the one of fewest tokens."""
    lowest: dict[str, Case] = {}
    for case in cases:
        if case.evaluation is not None:
            continue
        if case.server not in lowest or _size(case) < _size(lowest[case.server]):
            lowest[case.server] = case
    return frozenset(case.id for case in lowest.values())


def _size(case: Case) -> tuple[int, int]:
    return case.workload.conc, case.workload.isl + case.workload.osl
