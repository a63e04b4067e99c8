"""xdist: all items of a server go to one worker, so that it is started once whatever ``-n`` says.

pytest's side is `Selection`, which knows our items by the parameter ids that the recipes gave them;
xdist's side is `ServerScheduling`, a scheduler of its own kind: xdist's load scheduling would
spread a server over all workers, and its group scheduling does nothing under pytest 9.2.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from pytest_gpubench.model.specs import init_subject
from pytest_gpubench.plugin.items import CASE, EVALUATION, LAUNCH, RATIO, Chosen, Parameters

if TYPE_CHECKING:
    from pytest_gpubench.model.cases import Case, RecipeBook
    from pytest_gpubench.model.specs import Launch

_AHEAD = 2
"""Items that a worker has at a time: the one that runs, and the next, without which xdist does not
start the first."""


RAISED = "gpubench_raised"
"""In a worker's output: what a hook raised at its end."""
UNASKED = "gpubench_unasked"
"""In a worker's output: what the recipes ask for and no test judges."""


class WorkerEnd:
    """On a worker: what a hook raises at its end reaches the controller, which xdist would leave
    green."""

    def __init__(self, output: dict[str, Any]) -> None:
        self._output = output

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self) -> Generator[None, None, None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001  # of anybody's hook
            self._output[RAISED] = " ".join(f"{type(error).__name__}: {error}".split())


@dataclass(frozen=True, slots=True)
class Unit:
    """Items that one worker runs, in order: those of a server, or one other item."""

    server: str
    """KEY; empty for an item that needs no server."""
    items: tuple[int, ...]
    """Positions in the collection."""


class Selection:
    """What a list of node ids means, by the parameter sets of the recipes and not by the text of
    their ids."""

    def __init__(self, book: RecipeBook, parameters: Parameters) -> None:
        self._gpus = {key: spec.topology.gpus for key, spec in book.servers}
        self._ratios = {made.id for made in parameters.of((RATIO,))}
        self._known: dict[str, tuple[Launch | None, Case | None]] = {}
        for names in ((CASE,), (LAUNCH,), (LAUNCH, CASE), (LAUNCH, EVALUATION)):
            for made in parameters.of(names):
                values = dict(zip(names, made.values, strict=True))
                self._known[made.id] = (
                    values.get(LAUNCH),
                    values.get(CASE) or values.get(EVALUATION),
                )

    def parameters_of(self, nodeid: str) -> tuple[Launch | None, Case | None] | None:
        """Launch and case of an item; None for one that is not ours.

        A test may have parameters of its own, whose ids pytest joins to ours with dashes: the
            longest known id counts.
        """
        bracket = nodeid.find("[", nodeid.find("::") + 1)
        if bracket < 0 or not nodeid.endswith("]"):
            return None
        inside = nodeid[bracket + 1 : -1]
        if inside in self._known:
            return self._known[inside]
        words = inside.split("-")
        for length in range(len(words) - 1, 0, -1):
            for first in range(len(words) - length + 1):
                found = self._known.get("-".join(words[first : first + length]))
                if found is not None:
                    return found
        return None

    def server_of(self, nodeid: str) -> str:
        """KEY of the server that an item needs; empty if none."""
        found = self.parameters_of(nodeid)
        if found is None:
            return ""
        launch, case = found
        needed = launch or case
        return needed.server if needed else ""

    def chosen(self, nodeids: Sequence[str]) -> Chosen:
        """Cases and servers among these items."""
        found = [one for one in map(self.parameters_of, nodeids) if one is not None]
        return Chosen.of(found)

    def subjects(self, nodeids: Sequence[str]) -> list[str]:
        """Cases among these items, and starts of servers: what may have a baseline."""
        found = [one for one in map(self.parameters_of, nodeids) if one is not None]
        return list(
            dict.fromkeys(
                case.id if case else init_subject(launch.server) for launch, case in found if launch
            )
        )

    def units(self, nodeids: Sequence[str]) -> list[Unit]:
        """The items in portions: other items each by itself, then servers, those with most GPUs
        first. Ratios are in none."""
        servers: dict[str, list[int]] = {}
        others: list[Unit] = []
        for index, nodeid in enumerate(nodeids):
            if nodeid.partition("[")[2].removesuffix("]") in self._ratios:
                continue
            server = self.server_of(nodeid)
            if server:
                servers.setdefault(server, []).append(index)
            else:
                others.append(Unit("", (index,)))
        largest_first = sorted(servers, key=lambda server: -self._gpus[server])
        return [*others, *(Unit(server, tuple(servers[server])) for server in largest_first)]


@dataclass(slots=True)
class _Desk:
    """What one worker has: sent to it and not finished, and waiting for its turn."""

    sent: deque[int] = field(default_factory=deque)
    unit: deque[int] = field(default_factory=deque)


def refuse_what_would_mislead(
    dist: str, workers: int, exclusive: bool, attached: bool
) -> str | None:
    """Why a run over several workers cannot have benchmarks in it, with what to do; None if it
    can."""
    if workers < 2:
        return None
    if dist != "load":
        return (
            f"--dist {dist} would start a server once per worker that meets it; leave --dist out: "
            "under -n the default (load) keeps each server on one worker"
        )
    if exclusive and not attached:
        return (
            f"{workers} workers would run servers side by side, which changes their numbers; "
            "leave -n out, or allow it with --gpubench-exclusive=no"
        )
    return None


def processes(config: pytest.Config) -> int:
    """How many processes run the tests of this run side by side."""
    if not getattr(config.option, "tx", None) or config.getoption("dist", "no") == "no":
        return 1
    from xdist.workermanage import parse_tx_spec_config

    return max(1, len(parse_tx_spec_config(config)))


class ServerScheduling:
    """xdist's scheduler protocol. A worker gets the items of its unit two at a time, so that ``-x``
    does not run all the rest.

    When a worker dies, the item that ran fails, and the other items of its server go to the next
    worker, which starts it again.
    """

    def __init__(
        self, config: pytest.Config, workers: int, units: Callable[[Sequence[str]], Sequence[Unit]]
    ) -> None:
        self.config = config
        self._workers = workers
        self._units = units
        self._desks: dict[Any, _Desk] = {}
        self._collections: dict[Any, list[str]] = {}
        self._collection: list[str] | None = None
        self._queue: deque[deque[int]] = deque()

    @property
    def nodes(self) -> list[Any]:
        """All workers that take part."""
        return list(self._desks)

    @property
    def collection_is_completed(self) -> bool:
        """Whether every worker of the start has collected."""
        return len(self._collections) >= self._workers

    @property
    def tests_finished(self) -> bool:
        """Whether nothing is left to hand out; a worker may still run its last item."""
        return (
            self.collection_is_completed
            and not self._queue
            and all(not desk.unit and len(desk.sent) < _AHEAD for desk in self._desks.values())
        )

    @property
    def has_pending(self) -> bool:
        """Whether an item waits or runs."""
        return bool(self._queue) or any(desk.unit or desk.sent for desk in self._desks.values())

    def add_node(self, node: Any) -> None:
        """A worker is up."""
        self._desks[node] = _Desk()

    def add_node_collection(self, node: Any, collection: Sequence[str]) -> None:
        """A worker has collected. One that replaces a dead worker must have found the same; else it
        gets nothing."""
        if (
            self.collection_is_completed
            and self._collection is not None
            and list(collection) != self._collection
        ):
            node.shutdown()
            return
        self._collections[node] = list(collection)

    def schedule(self) -> None:
        """Hand out what there is; the first time, cut the collection into units."""
        if self._collection is None:
            if not self._all_collected_the_same():
                return
            self._collection = next(iter(self._collections.values()))
            self._queue.extend(deque(unit.items) for unit in self._units(self._collection))
        for node in self.nodes:
            if node in self._collections:
                self._feed(node)

    def mark_test_complete(self, node: Any, item_index: int, duration: float = 0) -> None:  # noqa: ARG002  # protocol
        """An item has ended, however."""
        self._desks[node].sent.remove(item_index)
        self._feed(node)

    def mark_test_pending(self, item: str) -> None:
        """Run an item (again), as plugins ask that retry what crashed."""
        if self._collection is not None:
            self._queue.appendleft(deque([self._collection.index(item)]))
            for node in self.nodes:
                self._feed(node)

    def remove_pending_tests_from_node(self, node: Any, indices: Sequence[int]) -> None:
        """Part of the protocol for schedulers that steal."""
        raise NotImplementedError

    def remove_node(self, node: Any) -> str | None:
        """A worker is gone; returns the item that it ran when it died, if it ran one."""
        desk = self._desks.pop(node)
        crashed = desk.sent.popleft() if desk.sent else None
        # What was sent ahead may be the head of the next unit: each goes back to its own.
        self._queue.extendleft(reversed(self._by_server([*desk.sent, *desk.unit])))
        for other in self.nodes:
            self._feed(other)
        return None if crashed is None or self._collection is None else self._collection[crashed]

    def _by_server(self, items: Sequence[int]) -> list[deque[int]]:
        if self._collection is None:
            return []
        wanted = set(items)
        cut = [
            deque(index for index in unit.items if index in wanted)
            for unit in self._units(self._collection)
        ]
        return [unit for unit in cut if unit]

    def _feed(self, node: Any) -> None:
        desk = self._desks[node]
        while not node.shutting_down and len(desk.sent) < _AHEAD:
            if not desk.unit:
                if not self._queue:
                    node.shutdown()
                    return
                desk.unit = self._queue.popleft()
            index = desk.unit.popleft()
            desk.sent.append(index)
            node.send_runtest_some([index])

    def _all_collected_the_same(self) -> bool:
        (first, expected), *others = self._collections.items()
        differing = [node for node, collection in others if collection != expected]
        for node in differing:
            text = (
                f"{node.gateway.id} collected other tests than {first.gateway.id}; all must "
                "find the same, in the same order"
            )
            report = pytest.CollectReport(
                nodeid=node.gateway.id, outcome="failed", longrepr=text, result=[]
            )
            self.config.hook.pytest_collectreport(report=report)
        return not differing
