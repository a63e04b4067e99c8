"""Sessions whose turns wait for other turns: sub-sessions, joins, pauses, failures."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from pytest_gpubench.load.driver import Driver, Job, StopRule, sessions_of
from pytest_gpubench.load.loopback.server import LoopbackServer
from pytest_gpubench.load.loopback.stream import Fault, Schedule
from pytest_gpubench.load.openai_wire import build_requests
from pytest_gpubench.load.prompts import Prompt
from pytest_gpubench.load.protocol import LoadPlan
from pytest_gpubench.load.transport import Exchange
from pytest_gpubench.model.workload import Workload

FAST = Schedule(ttft=0.01, token_time=0.001)
MS = 1_000_000
REFUSED = Fault("status", status=500)


def sent(
    jobs: Sequence[Job],
    *,
    live: int = 1,
    failing: frozenset[int] = frozenset(),
    how: Fault = REFUSED,
    stop: StopRule | None = None,
) -> dict[int, Exchange]:
    """What became of the jobs; those in ``failing``, counted as they are sent, are refused."""

    async def main() -> dict[int, Exchange]:
        def fault(index: int) -> Fault | None:
            return how if index in failing else None

        async with LoopbackServer(FAST, faults=fault) as server:
            workload = Workload(isl=10, osl=4, conc=1, num_prompts=1, num_warmups=0)
            plan = LoadPlan(server.url, "loopback", workload)
            prompts = [Prompt(number, "measured", "word", 10, 4) for number in range(len(jobs))]
            wires = [request.wire for request in await build_requests(plan, "", prompts)]
            driver = Driver(server.url, live, 60, 60)
            whole = [replace(job, wire=wire) for job, wire in zip(jobs, wires, strict=True)]
            try:
                exchanges = await asyncio.wait_for(driver.run(whole, stop=stop), 60)
            finally:
                driver.close()
            return {exchange.number: exchange for exchange in exchanges}

    return asyncio.run(main())


def end(exchange: Exchange) -> int:
    assert exchange.end_ns is not None
    return exchange.end_ns


# 0 spawns 1-2, which 4 waits for; 3 comes beside them.
FAMILY = (Job(b""), Job(b"", after=(0,)), Job(b"", after=(1,)), Job(b"", after=(0,)))
JOINED = Job(b"", after=(3, 2))
JOINED_BY_ONE = Job(b"", after=(0, 1))


def test_jobs_belong_to_the_session_of_what_they_come_after() -> None:
    roots, followers = sessions_of([*FAMILY, JOINED, Job(b"")])
    assert roots == [0, 0, 0, 0, 0, 5]
    assert followers == {0: [1, 3], 1: [2], 2: [4], 3: [4]}


def test_a_turn_waits_for_the_sub_session_that_it_joins_and_pauses_after_the_last() -> None:
    exchanges = sent([*FAMILY, replace(JOINED, pause_ns=50 * MS)])
    assert len(exchanges) == 5
    assert exchanges[1].due_ns == exchanges[3].due_ns
    last = max(end(exchanges[2]), end(exchanges[3]))
    # Never later than planned by the client's own doing; a loop's timer may be a millisecond early.
    assert last + 49 * MS <= exchanges[4].due_ns <= last + 50 * MS


def test_a_session_lives_until_its_sub_sessions_have_ended() -> None:
    slow_child = [Job(b""), Job(b"", after=(0,), pause_ns=100 * MS), Job(b"")]
    exchanges = sent(slow_child, live=1)
    assert exchanges[2].due_ns >= end(exchanges[1])
    both = sent(slow_child, live=2)
    assert both[2].due_ns < end(both[1])


@pytest.mark.parametrize("how", [REFUSED, Fault("disconnect"), Fault("error-event")], ids=str)
def test_a_failed_turn_ends_what_needs_its_answer_and_nothing_else(how: Fault) -> None:
    line = [Job(b""), *(Job(b"", after=(number,), needs_answer=True) for number in range(3))]
    whole = [*line, Job(b"")]
    assert set(sent(whole, failing=frozenset({1}), how=how)) == {0, 1, 4}
    unneeding = [replace(job, needs_answer=False) for job in whole]
    assert set(sent(unneeding, failing=frozenset({1}), how=how)) == {0, 1, 2, 3, 4}


def test_a_failed_sub_session_ends_the_turn_that_waits_for_it() -> None:
    jobs = [Job(b""), Job(b"", after=(0,), pause_ns=20 * MS), JOINED_BY_ONE]
    assert set(sent([replace(job, needs_answer=True) for job in jobs])) == {0, 1, 2}
    failing = sent([replace(job, needs_answer=True) for job in jobs], failing=frozenset({1}))
    assert set(failing) == {0, 1}


def test_a_pause_that_outlasts_the_run_sends_nothing() -> None:
    jobs = [Job(b""), Job(b"", after=(0,), pause_ns=300 * MS), Job(b"")]
    rule = StopRule(duration=0.1)
    assert set(sent(jobs, live=1, stop=rule)) == {0}
    assert rule.reason == "duration"
