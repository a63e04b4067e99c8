"""Recipes to pytest items: parametrization, marks, selection guard and order."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from pytest_gpubench.model.cases import Case, RecipeBook
    from pytest_gpubench.model.specs import Launch, ServerSpec

LAUNCH = "_gpubench_launch"
CASE = "_gpubench_case"
EVALUATION = "_gpubench_evaluation"
"""Fixture of a test of accuracy: its case is an evaluation."""
RATIO = "_gpubench_ratio"
INIT_GATE = "_gpubench_init_gate"
"""Fixture of a test that judges the start of a server."""
USES_US = pytest.StashKey[bool]()
"""In ``config.stash``: whether a collected test asked for one of our fixtures."""
RESULT = pytest.StashKey[dict[str, Any]]()
"""On an item: what it leaves on its report, fields of ``Outcome``."""
PARAMETERS = frozenset({LAUNCH, CASE, EVALUATION})
ASKING = PARAMETERS | {RATIO}
"""Fixtures of ours that a test is parametrized by."""
MARK_FIELDS: dict[str, type] = {
    "recipe": str,
    "model": str,
    "hardware": str,
    "precision": str,
    "framework": str,
    "spec": str,
    "tp": int,
    "ep": int,
    "dp_attn": bool,
    "isl": int,
    "osl": int,
    "conc": int,
    "server": str,
    "case": str,
}
"""Fields of the mark ``gpubench(...)``, with their types."""


class Chosen(NamedTuple):  # a dataclass takes 1 ms to define, in every pytest run
    """What is selected, in the order of the run."""

    cases: tuple[str, ...] = ()
    """Ids."""
    servers: tuple[str, ...] = ()
    """KEYs of servers that will be started."""

    @classmethod
    def of(cls, parameters: Iterable[tuple[Launch | None, Case | None]]) -> Chosen:
        """The selection that these parameters of items make up."""
        found = list(parameters)
        return cls(
            tuple(dict.fromkeys(case.id for _, case in found if case)),
            tuple(dict.fromkeys(launch.server for launch, _ in found if launch)),
        )


class Parameters:
    """The parameter sets of a recipe book, built once and used for every test function."""

    def __init__(self, book: RecipeBook, launches: Sequence[Launch]) -> None:
        self._book = book
        self._launches = launches
        self._sets: dict[tuple[str, ...], list[Any]] = {}

    def of(self, names: tuple[str, ...]) -> list[Any]:
        """Parameter sets for ``(launch, case)``, ``(launch, evaluation)``, ``(launch,)``,
        ``(case,)`` or ``(ratio,)``, in the order of the plan."""
        if names not in self._sets:
            self._sets[names] = list(self._build(names))
        return self._sets[names]

    def _build(self, names: tuple[str, ...]) -> list[Any]:
        if names == (RATIO,):
            if not self._book.ratios:
                return []
            from pytest_gpubench.gate.ratios import ratio_points

            points = ratio_points(self._book.ratios, self._book.cases)
            return [pytest.param(one, id=one.label) for one in points]
        marks = {
            server: server_mark(self._book.cases_of(server)[0]) for server, _ in self._book.servers
        }
        if names == (CASE,):
            return [
                pytest.param(case, id=case.id, marks=case_marks(case, marks[case.server]))
                for case in self._book.loads
            ]
        count: dict[str, int] = {}
        for launch in self._launches:
            count[launch.server] = count.get(launch.server, 0) + 1
        sets: list[Any] = []
        for launch in self._launches:
            suffix = f":launch{launch.index}" if count[launch.server] > 1 else ""
            suffix = f":{launch.arm}{launch.index}" if launch.arm else suffix
            served = self._book.cases_of(launch.server)
            if EVALUATION in names and launch.index > 1:
                continue  # greedy answers of one engine are the same each time, or nearly so
            if names == (LAUNCH,):
                sets.append(
                    pytest.param(launch, id=f"{launch.server}{suffix}", marks=server_marks(served))
                )
            else:
                mark = marks[launch.server]
                sets += [
                    pytest.param(
                        launch, case, id=f"{case.id}{suffix}", marks=case_marks(case, mark)
                    )
                    for case in served
                    if (case.evaluation is not None) == (EVALUATION in names)
                ]
        return sets


def case_marks(case: Case, server: pytest.MarkDecorator) -> list[pytest.MarkDecorator]:
    """Every tag as a mark, and one ``gpubench(...)`` mark with the case's fields, which adds to
    that of its server."""
    workload = case.workload
    whole = server.with_args(isl=workload.isl, osl=workload.osl, conc=workload.conc, case=case.id)
    return [*map(_mark, case.tags), whole]


def mark_values(cases: Iterable[Case]) -> dict[str, set[Any]]:
    """By field of the mark ``gpubench(...)`` the values that cases have."""
    values: dict[str, set[Any]] = {}
    for case in cases:
        for name, value in case_marks(case, server_mark(case))[-1].kwargs.items():
            values.setdefault(name, set()).add(value)
    return values


def server_marks(cases: Sequence[Case]) -> list[pytest.MarkDecorator]:
    """Marks of a test that needs a server but no case: what the server's id says and all its cases
    have in common."""
    first = cases[0]
    words = set(first.server.split("-"))
    common = [tag for tag in first.tags if tag in words and all(tag in case.tags for case in cases)]
    return [*map(_mark, common), server_mark(first)]


@functools.cache
def _mark(tag: str) -> pytest.MarkDecorator:
    mark: pytest.MarkDecorator = getattr(pytest.mark, tag)
    return mark


def server_mark(case: Case) -> pytest.MarkDecorator:
    """The fields of a case's mark that all cases of its server share."""
    identity, topology = case.identity, case.topology
    mark: pytest.MarkDecorator = pytest.mark.gpubench.with_args(
        recipe=case.recipe,
        model=identity.model,
        hardware=identity.hardware,
        precision=identity.precision,
        framework=identity.framework,
        spec=identity.spec,
        tp=topology.tp,
        ep=topology.ep,
        dp_attn=topology.dp_attn,
        server=case.server,
    )
    return mark


def parameters_of(item: pytest.Item) -> tuple[Launch | None, Case | None] | None:
    """Launch and case of one of our items; None for an item that asks for neither."""
    callspec = getattr(item, "callspec", None)
    if callspec is None or PARAMETERS.isdisjoint(callspec.params):
        return None
    # Without any case, pytest fills in a value of its own and skips the test. Both our types name
    # their server.
    launch = callspec.params.get(LAUNCH)
    case = callspec.params.get(CASE) or callspec.params.get(EVALUATION)
    return (
        launch if hasattr(launch, "server") else None,
        case if hasattr(case, "server") else None,
    )


def note_on(item: pytest.Item) -> Callable[[dict[str, Any]], None]:
    """Takes what is to be on the item's report; what is noted later replaces it."""

    def note(fields: dict[str, Any]) -> None:
        item.stash[RESULT] = fields

    return note


def run_order(
    items: Sequence[pytest.Item], specs: dict[str, ServerSpec], positions: dict[pytest.Item, int]
) -> list[pytest.Item]:
    """Other tests first, then servers by GPU count, largest first, each server's items together and
    its evaluations after its loads; tests without a server last."""
    found_of = {item: parameters_of(item) for item in items}
    first_seen: dict[str, int] = {}
    for item, found in found_of.items():
        if found and found[0]:
            first_seen.setdefault(found[0].server, positions[item])

    def rank(item: pytest.Item) -> tuple[int, int, int, int, bool, int]:
        found = found_of[item]
        if found is None:
            return 0, 0, 0, 0, False, positions[item]
        launch, case = found
        if launch is None:
            return 2, 0, 0, 0, False, positions[item]
        gpus = specs[launch.server].topology.gpus
        evaluates = case is not None and case.evaluation is not None
        return 1, -gpus, first_seen[launch.server], launch.turn, evaluates, positions[item]

    return sorted(items, key=rank)


_REPEATING = {
    "reruns": "--reruns or the ini option reruns",
    "force_reruns": "--force-reruns",
    "max_suite_reruns": "--max-suite-reruns",
    "retries": "--retries or the ini option retries",
    "force_flaky": "--force-flaky",
}
"""Options (and ini options) of plugins that run a failed test again: pytest-rerunfailures,
pytest-retry, flaky. Of others it is noticed when it happens (``hooks.Hooks``)."""
UNTIL_GREEN = (
    "a benchmark case is not repeated until it passes: a slow engine would pass by luck; "
    "leave it out for them, and give --gpubench-launches=1..3 for more evidence"
)


def refuse_repeats(config: pytest.Config, items: Sequence[pytest.Item]) -> str | None:
    """Why the run cannot go on if benchmark cases would be repeated until they pass, or if one test
    of them was collected twice; None if neither."""
    ours = [item for item in items if parameters_of(item)]
    if not ours:
        return None
    for name, words in _REPEATING.items():
        if config.getoption(name, None) or _positive(_ini(config, name)):
            return f"{words}: {UNTIL_GREEN}"
    marked = [item.nodeid for item in ours if item.get_closest_marker("flaky")]
    return f"{marked[0]} is marked flaky: {UNTIL_GREEN}" if marked else _collected_twice(ours)


def _ini(config: pytest.Config, name: str) -> object:
    try:
        return config.getini(name)
    except (KeyError, ValueError):  # no plugin declares it
        return None


def _positive(value: object) -> bool:
    return str(value or 0).strip() not in ("0", "False", "[]")


def _collected_twice(items: Sequence[pytest.Item]) -> str | None:
    """Names both places where one function was collected with the same parameters."""
    seen: dict[object, pytest.Item] = {}
    for item in items:
        callspec = getattr(item, "callspec", None)
        key = (getattr(item, "function", item), callspec.id if callspec else "")
        first = seen.setdefault(key, item)
        if first.nodeid != item.nodeid:
            return (
                f"{first.nodeid} and {item.nodeid} are the same test, collected twice: every case "
                "would be measured twice; import the suite in one file, or select one of them"
            )
    return None
