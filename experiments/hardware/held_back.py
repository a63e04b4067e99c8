"""A proxy before an engine that runs already: every gap between the blocks of an answer is made
longer by a share that is told while it runs.

    python held_back.py PORT UPSTREAM_PORT FILE

FILE holds the share (0.05: 5% longer); it is read when an answer begins. What is written there does
not change the engine, so one launch can be measured as it is and slowed by known amounts.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

_BLOCK = 1 << 16


async def _serve(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, upstream: int, told: Path
) -> None:
    from_engine, to_engine = await asyncio.open_connection("127.0.0.1", upstream)
    began, share = 0.0, 0.0
    held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def requests() -> None:
        nonlocal began, share
        while block := await reader.read(_BLOCK):
            began, share = 0.0, float(told.read_text())
            to_engine.write(block)
            await to_engine.drain()

    async def arrivals() -> None:
        nonlocal began
        while block := await from_engine.read(_BLOCK):
            now = time.monotonic()
            began = began or now
            due = now + (now - began) * share
            if due <= now and held.empty():
                writer.write(block)
            else:
                held.put_nowait((due, block))
        held.put_nowait((0.0, b""))

    async def departures() -> None:
        while True:
            due, block = await held.get()
            if not block:
                return
            while (left := due - time.monotonic()) > 0:
                await asyncio.sleep(left)
            writer.write(block)

    tasks = [asyncio.ensure_future(part()) for part in (requests, arrivals, departures)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for end in (writer, to_engine):
            end.close()


async def _run(port: int, upstream: int, told: Path) -> None:
    server = await asyncio.start_server(
        lambda reader, writer: _serve(reader, writer, upstream, told), "127.0.0.1", port
    )
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_run(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])))
