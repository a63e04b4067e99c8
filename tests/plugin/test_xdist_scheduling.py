"""The scheduler against workers that do as xdist's do: they run an item only when they know the
next one, or that there is none."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gpubench.model.cases import Case, Identity, RecipeBook, SourcePosition
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.specs import Launch, ServerSpec, Topology
from pytest_gpubench.model.workload import Workload
from pytest_gpubench.plugin.items import Parameters
from pytest_gpubench.plugin.xdist import (
    Selection,
    ServerScheduling,
    Unit,
    refuse_what_would_mislead,
)


@dataclass(eq=False)
class Worker:
    """One xdist worker."""

    name: str
    queue: deque[int] = field(default_factory=deque)
    ran: list[int] = field(default_factory=list)
    shutting_down: bool = False

    @property
    def gateway(self) -> SimpleNamespace:
        return SimpleNamespace(id=self.name)

    def send_runtest_some(self, indices: Sequence[int]) -> None:
        assert not self.shutting_down
        self.queue.extend(indices)

    def shutdown(self) -> None:
        self.shutting_down = True

    def next_item(self) -> int | None:
        """The item that it would run now, if any."""
        return self.queue[0] if len(self.queue) > 1 or (self.queue and self.shutting_down) else None


def _units(nodeids: Sequence[str]) -> list[Unit]:
    servers: dict[str, list[int]] = {}
    for index, nodeid in enumerate(nodeids):
        servers.setdefault(nodeid.partition(":")[0], []).append(index)
    return [Unit(server, tuple(items)) for server, items in servers.items()]


def _started(count: int, nodeids: Sequence[str]) -> tuple[ServerScheduling, list[Worker]]:
    workers = [Worker(f"gw{number}") for number in range(count)]
    scheduling = ServerScheduling(SimpleNamespace(), count, _units)  # type: ignore[arg-type]
    for worker in workers:
        scheduling.add_node(worker)
    for worker in workers:
        scheduling.add_node_collection(worker, nodeids)
    scheduling.schedule()
    return scheduling, workers


def _run_one(scheduling: ServerScheduling, worker: Worker) -> bool:
    item = worker.next_item()
    if item is None:
        return False
    worker.queue.popleft()
    worker.ran.append(item)
    scheduling.mark_test_complete(worker, item)
    return True


@given(
    sizes=st.lists(st.integers(1, 5), max_size=8),
    count=st.integers(1, 4),
    order=st.randoms(use_true_random=False),
)
def test_every_item_runs_once_and_a_server_on_one_worker_only(
    sizes: list[int], count: int, order: Any
) -> None:
    nodeids = [f"s{server}:{item}" for server, size in enumerate(sizes) for item in range(size)]
    scheduling, workers = _started(count, nodeids)
    while scheduling.has_pending:
        able = [worker for worker in workers if worker.next_item() is not None]
        assert able, "no worker can go on: a deadlock"
        _run_one(scheduling, order.choice(able))
        assert all(len(worker.queue) <= 2 for worker in workers), (
            "-x would run more than the next item"
        )
    assert scheduling.tests_finished
    assert sorted(index for worker in workers for index in worker.ran) == list(range(len(nodeids)))
    for worker in workers:
        assert worker.shutting_down
        assert worker.ran == sorted(worker.ran)
    at = {
        nodeids[index].partition(":")[0]: worker.name for worker in workers for index in worker.ran
    }
    assert all(
        at[nodeids[index].partition(":")[0]] == worker.name
        for worker in workers
        for index in worker.ran
    )


@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=6),
    order=st.randoms(use_true_random=False),
    crashes=st.integers(1, 4),
)
def test_a_crash_costs_the_item_that_ran_and_nothing_else(
    sizes: list[int], order: Any, crashes: int
) -> None:
    nodeids = [f"s{server}:{item}" for server, size in enumerate(sizes) for item in range(size)]
    scheduling, workers = _started(2, nodeids)
    everybody = list(workers)
    lost: list[str] = []
    while scheduling.has_pending:
        able = [worker for worker in workers if worker.next_item() is not None]
        assert able, "no worker can go on: a deadlock"
        worker = order.choice(able)
        if crashes and order.random() < 0.3:
            crashes -= 1
            workers.remove(worker)
            lost.append(scheduling.remove_node(worker) or "nothing")
            fresh = Worker(f"gw{len(everybody)}")
            workers.append(fresh)
            everybody.append(fresh)
            scheduling.add_node(fresh)
            scheduling.add_node_collection(fresh, nodeids)
            scheduling.schedule()
        else:
            _run_one(scheduling, worker)
    ran = [nodeids[index] for worker in everybody for index in worker.ran]
    assert sorted([*ran, *lost]) == sorted(nodeids)


def test_the_last_worker_that_ends_leaves_nothing_behind() -> None:
    scheduling, (worker,) = _started(1, ["s0:0", "s0:1"])
    while _run_one(scheduling, worker):
        pass
    assert scheduling.remove_node(worker) is None
    assert scheduling.nodes == []


def test_an_item_can_be_run_again() -> None:
    scheduling, (worker,) = _started(1, ["s0:0", "s0:1", "s1:0"])
    _run_one(scheduling, worker)
    scheduling.mark_test_pending("s0:0")
    while _run_one(scheduling, worker):
        pass
    assert sorted(worker.ran) == [0, 0, 1, 2]


def test_a_replacement_that_collects_something_else_gets_nothing() -> None:
    scheduling, workers = _started(1, ["s0:0", "s0:1", "s0:2"])
    stranger = Worker("gw9")
    scheduling.add_node(stranger)
    scheduling.add_node_collection(stranger, ["other"])
    scheduling.schedule()
    assert stranger.shutting_down
    assert not stranger.queue
    assert workers[0].queue


def test_workers_that_collect_differently_fail_the_run() -> None:
    reports: list[Any] = []
    hook = SimpleNamespace(pytest_collectreport=lambda report: reports.append(report))
    scheduling = ServerScheduling(SimpleNamespace(hook=hook), 2, _units)  # type: ignore[arg-type]
    for worker, ids in ((Worker("gw0"), ["a", "b"]), (Worker("gw1"), ["b", "a"])):
        scheduling.add_node(worker)
        scheduling.add_node_collection(worker, ids)
    scheduling.schedule()
    (report,) = reports
    assert report.failed
    assert "gw1 collected other tests than gw0" in report.longrepr
    assert scheduling.tests_finished


@pytest.fixture
def selection(monkeypatch: pytest.MonkeyPatch) -> Selection:
    # The marks of a recipe book are registered in a run of the plugin, which this is not.
    monkeypatch.setattr("pytest_gpubench.plugin.items.case_marks", lambda *_: [])
    monkeypatch.setattr("pytest_gpubench.plugin.items.server_marks", lambda *_: [])
    return Selection(*_book())


def _book() -> tuple[RecipeBook, Parameters]:
    cases, servers = [], []
    for name, tp, concs in (("tiny", 1, (1, 16)), ("big", 8, (1,))):
        identity = Identity(name, "bf16", "h100", "vllm")
        key = f"{name}-bf16-h100-vllm-tp{tp}"
        servers.append(
            (key, ServerSpec("vllm", f"org/{name}", "h100", Topology(tp=tp), FrozenMap()))
        )
        for conc in concs:
            workload = Workload(1024, 1024, conc, 10, 2)
            cases.append(
                Case(
                    f"{key}:{workload.label}",
                    f"{name}-bf16-h100-vllm",
                    identity,
                    f"org/{name}",
                    "h100",
                    Topology(tp=tp),
                    workload,
                    2304,
                    key,
                    (name, f"c{conc}"),
                    SourcePosition("recipes.yaml", 1, 1),
                )
            )
    book = RecipeBook(tuple(cases), tuple(servers))
    return book, Parameters(book, [Launch(key, index) for key, _ in servers for index in (1, 2)])


@pytest.mark.parametrize(
    ("nodeid", "server"),
    [
        (
            "b/test_s.py::test_throughput[tiny-bf16-h100-vllm-tp1:1k1k-c16:launch2]",
            "tiny-bf16-h100-vllm-tp1",
        ),
        ("b/test_s.py::test_engine_init[big-bf16-h100-vllm-tp8:launch1]", "big-bf16-h100-vllm-tp8"),
        (
            "b/test_s.py::test_more[x-tiny-bf16-h100-vllm-tp1:1k1k-c1:launch1-y-z]",
            "tiny-bf16-h100-vllm-tp1",
        ),
        (
            "b/test_s.py::TestIt::test_case_only[tiny-bf16-h100-vllm-tp1:1k1k-c1]",
            "tiny-bf16-h100-vllm-tp1",
        ),
        ("b/test_s.py::test_plain", ""),
        ("b/test_s.py::test_other[tiny-bf16-h100-vllm-tp1:1k1k-c4:launch1]", ""),
        ("b/test_s.py::test_other[tiny]", ""),
        ("b/test_s.py::test_other[]", ""),
        ("b[1]/test_s.py::test_other[big-bf16-h100-vllm-tp8:launch1]", "big-bf16-h100-vllm-tp8"),
        ("README.md", ""),
    ],
    ids=str.upper,  # as they are, our own suite's recipes would take these tests for theirs
)
def test_items_are_known_by_the_ids_that_the_recipes_gave_them(
    selection: Selection, nodeid: str, server: str
) -> None:
    assert selection.server_of(nodeid) == server


def test_units_are_servers_with_all_their_launches_largest_first_and_others_alone(
    selection: Selection,
) -> None:
    nodeids = [
        "a.py::test_plain",
        "t.py::test_engine_init[tiny-bf16-h100-vllm-tp1:launch1]",
        "t.py::test_throughput[tiny-bf16-h100-vllm-tp1:1k1k-c1:launch1]",
        "t.py::test_throughput[big-bf16-h100-vllm-tp8:1k1k-c1:launch1]",
        "t.py::test_throughput[tiny-bf16-h100-vllm-tp1:1k1k-c1:launch2]",
        "a.py::test_plain[1]",
    ]
    assert selection.units(nodeids) == [
        Unit("", (0,)),
        Unit("", (5,)),
        Unit("big-bf16-h100-vllm-tp8", (3,)),
        Unit("tiny-bf16-h100-vllm-tp1", (1, 2, 4)),
    ]
    chosen = selection.chosen(nodeids)
    assert (len(chosen.cases), len(chosen.servers)) == (2, 2)


def test_what_would_start_a_server_twice_or_mislead_is_refused() -> None:
    assert refuse_what_would_mislead("loadgroup", 1, exclusive=True, attached=False) is None
    assert refuse_what_would_mislead("load", 2, exclusive=False, attached=False) is None
    assert refuse_what_would_mislead("load", 2, exclusive=True, attached=True) is None
    assert "--gpubench-exclusive=no" in (
        refuse_what_would_mislead("load", 2, exclusive=True, attached=False) or ""
    )
    for dist in ("each", "loadgroup", "loadfile", "loadscope", "worksteal"):
        assert f"--dist {dist} would start a server once per worker" in (
            refuse_what_would_mislead(dist, 2, exclusive=False, attached=False) or ""
        )
