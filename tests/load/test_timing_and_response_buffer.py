from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import pytest

from pytest_gpubench.load.response_buffer import ResponseBuffer
from pytest_gpubench.load.timing import LagProbe, TimerFd
from pytest_gpubench.load.transport import Exchange


def test_alarm_fires_once_at_its_time_and_the_last_order_counts() -> None:
    fired: list[tuple[int, int]] = []

    async def main() -> None:
        timer = TimerFd(lambda when: fired.append((when, time.monotonic_ns())))
        start = time.monotonic_ns()
        timer.at(start + 10_000_000_000)
        timer.at(start + 20_000_000)
        await asyncio.sleep(0.15)
        timer.at(start)  # past: at once
        await asyncio.sleep(0.05)
        timer.at(time.monotonic_ns() + 20_000_000)
        timer.close()
        await asyncio.sleep(0.05)
        assert [when for when, _ in fired] == [start + 20_000_000, start]

    asyncio.run(main())
    assert all(actual >= when for when, actual in fired)


def test_probe_sees_a_blocked_loop_and_the_cpu_it_takes() -> None:
    async def main() -> None:
        probe = LagProbe()
        probe.start()
        quiet = time.monotonic_ns()
        await until(lambda: probe.summary(quiet, time.monotonic_ns()).samples > 10)
        blocked = time.monotonic_ns()
        for _ in range(6):
            spent = time.thread_time() + 0.05
            while time.thread_time() < spent:
                pass
            await asyncio.sleep(0.001)
        end = time.monotonic_ns()
        await asyncio.sleep(0.05)
        probe.stop()
        before, during = probe.summary(quiet, blocked), probe.summary(blocked, end)
        assert before.samples > 10
        assert during.worst > 0.03
        assert during.mean > 0.003
        assert during.worst >= max(during.mean, during.p99)
        assert during.cpu > 0.03
        assert before.cpu < during.cpu
        assert probe.summary(0, 1).samples == 0

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    """However long a busy machine takes, within reason."""
    async with asyncio.timeout(120):
        while not condition():
            await asyncio.sleep(0.01)


def kept(exchanges: Sequence[Exchange]) -> int:
    """Bytes in memory."""
    return sum(len(data) for item in exchanges for _, data in item.reads)


def exchange(number: int) -> Exchange:
    reads = [(number * 1000 + part, f"{number}:{part};".encode() * 40) for part in range(50)]
    return Exchange(number, 0, reads=reads, size=sum(len(data) for _, data in reads))


@pytest.mark.parametrize("limit", [0, 20_000, 1 << 30])
def test_spool_gives_every_byte_back(limit: int) -> None:
    async def main() -> None:
        buffer = ResponseBuffer(limit=limit)
        exchanges = [exchange(number) for number in range(20)]
        for item in exchanges:
            buffer.add(item)
        await until(lambda: kept(exchanges) <= limit)
        assert [buffer.reads_of(item) for item in exchanges] == [
            exchange(number).reads for number in range(20)
        ]
        buffer.close()

    asyncio.run(main())
