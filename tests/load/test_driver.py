from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from pytest_gpubench.load import transport
from pytest_gpubench.load.driver import Driver, Job
from pytest_gpubench.load.loopback.server import LoopbackServer
from pytest_gpubench.load.loopback.stream import Schedule
from pytest_gpubench.load.openai_wire import build_requests
from pytest_gpubench.load.prompts import Prompt
from pytest_gpubench.load.protocol import LoadPlan
from pytest_gpubench.load.transport import Exchange
from pytest_gpubench.model.workload import Workload

FAST = Schedule(ttft=0.01, token_time=0.001)


async def wires(server: LoopbackServer, number: int) -> list[Job]:
    plan = LoadPlan(
        server.url, "loopback", Workload(isl=10, osl=4, conc=1, num_prompts=1, num_warmups=0)
    )
    built = await build_requests(
        plan, "key", [Prompt(index, "measured", f"word {index}", 10, 4) for index in range(number)]
    )
    return [Job(request.wire) for request in built]


def errors(exchanges: Sequence[Exchange]) -> list[str]:
    return [exchange.error for exchange in exchanges if exchange.error]


def test_connections_are_used_again_by_the_next_phase() -> None:
    async def main() -> None:
        async with LoopbackServer(FAST) as server:
            loop = Driver(server.url, 3, 60, 60)
            assert errors(await loop.run(await wires(server, 6))) == []
            first = set(server.connections)
            assert errors(await loop.run(await wires(server, 6))) == []
            assert len(first) == 3
            assert server.connections == first
            loop.close()

    asyncio.run(main())


def test_connections_that_the_server_closed_between_phases_fail_no_request() -> None:
    async def main() -> None:
        async with LoopbackServer(FAST) as server:
            loop = Driver(server.url, 3, 60, 60)
            await loop.run(await wires(server, 3))
            for connection in list(server.connections):
                connection.drop()
            await asyncio.sleep(0.05)
            assert errors(await loop.run(await wires(server, 6))) == []
            loop.close()

    asyncio.run(main())


def test_idle_connections_are_replaced_before_the_server_drops_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transport, "_IDLE_LIMIT_NS", 1_000_000)

    async def main() -> None:
        async with LoopbackServer(FAST) as server:
            loop = Driver(server.url, 2, 60, 60)
            await loop.run(await wires(server, 2))
            first = set(server.connections)
            await asyncio.sleep(0.02)
            assert errors(await loop.run(await wires(server, 2))) == []
            assert not first & server.connections
            loop.close()

    asyncio.run(main())


def test_server_that_vanishes_leaves_one_reason_per_request() -> None:
    async def main() -> None:
        server = LoopbackServer(Schedule(ttft=600))
        await server.start()
        requests = await wires(server, 10)
        loop = Driver(server.url, 4, 60, 60)
        running = asyncio.create_task(loop.run(requests))
        async with asyncio.timeout(120):
            while len(server.truth) < 4:
                await asyncio.sleep(0.01)
        await server.stop()
        exchanges = await running
        reasons = errors(exchanges)
        assert [exchange.number for exchange in exchanges] == list(range(10))
        assert len(reasons) == 10
        assert (
            sum(
                reason.startswith("the connection was closed before any answer")
                for reason in reasons
            )
            == 4
        )
        assert sum(reason.startswith("no connection: ") for reason in reasons) == 6
        loop.close()

    asyncio.run(main())


def test_fewer_requests_than_slots() -> None:
    async def main() -> None:
        async with LoopbackServer(FAST) as server:
            loop = Driver(server.url, 8, 60, 60)
            assert errors(await loop.run(await wires(server, 2))) == []
            assert await loop.run([]) == []
            loop.close()

    asyncio.run(main())


def test_an_exchange_knows_the_bytes_of_its_reads() -> None:
    async def main() -> None:
        async with LoopbackServer(FAST) as server:
            loop = Driver(server.url, 2, 60, 60)
            ended = await loop.run(await wires(server, 5))
            assert [item.size for item in ended] == [
                sum(len(data) for _, data in item.reads) for item in ended
            ]
            assert all(item.size > 500 for item in ended)
            loop.close()

    asyncio.run(main())
