"""Workers that live on: one load run after another, each as if its process were new."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from pytest_gpubench.load.load_run import run_load
from pytest_gpubench.load.loopback.http_server import Connection, Request, Response
from pytest_gpubench.load.loopback.server import LoopbackServer
from pytest_gpubench.load.loopback.stream import Schedule
from pytest_gpubench.load.protocol import LoadPlan, LoadResult, Progress
from pytest_gpubench.load.workers import WorkerPool
from pytest_gpubench.model.failures import BenchmarkError
from pytest_gpubench.model.workload import Workload

FAST = Schedule(ttft=0.01, token_time=0.002)
WORKLOAD = Workload(isl=48, osl=8, conc=2, num_prompts=4, num_warmups=2)


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    pool = WorkerPool()
    yield pool
    processes = [psutil.Process(pid) for pid in pids(pool)]
    pool.close()
    assert not any(process.is_running() for process in processes)


def pids(pool: WorkerPool) -> list[int]:
    return [worker.process.pid for worker in pool._idle]


def run(pool: WorkerPool, server: LoopbackServer, **changes: Any) -> LoadResult:
    return run_load(LoadPlan(server.url, "loopback", replace(WORKLOAD, **changes)), pool=pool)


def test_one_process_takes_one_run_after_another(pool: WorkerPool) -> None:
    pool.prepare(1)
    first = pids(pool)
    with LoopbackServer(FAST).in_thread() as server:
        results = [run(pool, server, conc=conc, num_prompts=2 * conc) for conc in (1, 2, 4)]
        assert pids(pool) == first
        assert [len(result.records) for result in results] == [4, 6, 10]
        assert not any(record.error for result in results for record in result.records)
        alone = run_load(LoadPlan(server.url, "loopback", replace(WORKLOAD, conc=1, num_prompts=2)))
    assert [record.asked_isl for record in alone.records] == [
        record.asked_isl for record in results[0].records
    ]


def test_each_run_opens_its_own_connections(pool: WorkerPool) -> None:
    used: list[set[Connection]] = []
    with LoopbackServer(FAST).in_thread() as server:
        complete = server.routes["POST", "/v1/chat/completions"]

        def noted(request: Request) -> Response | None:
            used[-1].add(request.connection)
            found = complete(request)
            assert found is None or isinstance(found, Response)
            return found

        server.routes["POST", "/v1/chat/completions"] = noted
        for _ in range(2):
            used.append(set())
            run(pool, server)
    assert len(used[0]) == len(used[1]) == 2
    assert not used[0] & used[1]


def test_a_server_is_asked_once_what_its_words_are(pool: WorkerPool) -> None:
    with LoopbackServer(FAST).in_thread() as server:
        asked: list[int] = [0]
        tokenize = server.routes["POST", "/tokenize"]

        def counted(request: Request) -> Response | None:
            asked[-1] += 1
            found = tokenize(request)
            assert found is None or isinstance(found, Response)
            return found

        server.routes["POST", "/tokenize"] = counted
        for _ in range(2):
            run(pool, server)
            asked.append(0)
        again = run_load(LoadPlan(server.url, "loopback", WORKLOAD, salt="other"), pool=pool)
    assert asked[1] < asked[0]
    assert all(record.prompt_tokens == record.asked_isl for record in again.records)


def test_several_workers_and_one_again(pool: WorkerPool) -> None:
    with LoopbackServer(FAST).in_thread() as server:
        assert run(pool, server, workers=2, conc=4, num_prompts=8).client.workers == 2
        two = pids(pool)
        assert len(two) == 2
        assert run(pool, server).client.workers == 1
        assert sorted(pids(pool)) == sorted(two)


def test_the_key_of_each_run_is_in_no_environment(pool: WorkerPool) -> None:
    seen: list[str] = []

    def look(_progress: Progress) -> None:
        for child in psutil.Process().children():
            with suppress(psutil.Error):
                seen.append(repr(child.cmdline()) + repr(child.environ()))

    for key in ("first-secret", "second-secret"):
        with LoopbackServer(FAST, api_key=key).in_thread() as server:
            plan = LoadPlan(server.url, "loopback", WORKLOAD)
            result = run_load(plan, api_key=key, on_progress=look, pool=pool)
        assert not any(record.error for record in result.records)
    assert seen
    assert not any("-secret" in text for text in seen)


def test_a_worker_that_dies_is_named_and_replaced(pool: WorkerPool) -> None:
    def murder(progress: Progress) -> None:
        if progress.stage == "measured":
            for child in psutil.Process().children():
                child.kill()

    pool.prepare(1)
    first = pids(pool)
    with LoopbackServer(Schedule(ttft=0.2)).in_thread() as server:
        plan = LoadPlan(server.url, "loopback", WORKLOAD)
        with pytest.raises(BenchmarkError, match="killed by signal 9") as found:
            run_load(plan, on_progress=murder, pool=pool)
        assert found.value.failure.cause == "load-worker-died"
        assert pids(pool) == []
        assert len(run(pool, server).records) == 6
    assert pids(pool) != first


def test_a_worker_that_dies_while_it_waits_is_replaced(pool: WorkerPool) -> None:
    pool.prepare(1)
    (first,) = pids(pool)
    psutil.Process(first).kill()
    pool._idle[0].process.wait()
    with LoopbackServer(FAST).in_thread() as server:
        assert len(run(pool, server).records) == 6
    assert pids(pool) != [first]


def test_a_failed_run_leaves_no_worker_that_saw_it(pool: WorkerPool) -> None:
    with LoopbackServer(FAST).in_thread() as server:
        run(pool, server)
        before = pids(pool)
        with pytest.raises(BenchmarkError, match="leaves no room"):
            run(pool, server, isl=1)
        assert pids(pool) == []
        assert len(run(pool, server).records) == 6
    assert pids(pool) != before


def test_other_surroundings_want_another_worker(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pool.prepare(1)
    first = pids(pool)
    pool.prepare(1)
    assert pids(pool) == first
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    pool.prepare(1)
    second = pids(pool)
    assert second != first
    monkeypatch.chdir(tmp_path)
    pool.prepare(1)
    assert pids(pool) != second
    assert not any(psutil.pid_exists(pid) for pid in (*first, *second))


def test_a_worker_that_waits_sleeps(pool: WorkerPool) -> None:
    pool.prepare(1)
    (worker,) = pool._idle
    process = psutil.Process(worker.process.pid)
    until = time.monotonic() + 60
    while worker._messages.empty():  # it says that it is ready
        assert time.monotonic() < until
        time.sleep(0.05)
    before = process.cpu_times()
    time.sleep(1.0)
    after = process.cpu_times()
    assert after.user + after.system - before.user - before.system <= 0.02


def test_after_a_fork_the_workers_are_the_parents(pool: WorkerPool) -> None:
    pool.prepare(1)
    idle = list(pool._idle)
    pool._owner += 1  # as a child of this process would see it
    pool.close()
    assert idle[0].process.poll() is None
    pool.prepare(1)
    assert pids(pool) != [idle[0].process.pid]
    idle[0].kill()
