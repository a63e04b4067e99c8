"""An engine behind a proxy that makes its streams slower by a known amount; the engine itself is
unchanged.

    python delaying_engine.py ENGINE-COMMAND... [FLAGS]

Starts the engine on a port of its own and listens on the ``--port`` that it was given. Of every
response the first block goes through at once, each later one is held: GATE_STRETCH=0.03 makes every
gap 3% longer, GATE_DELAY_MS=4 makes every gap 4 ms longer. Both are 0 if not given: then everything
passes at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass

STRETCH = float(os.environ.get("GATE_STRETCH", "0"))
DELAY_S = float(os.environ.get("GATE_DELAY_MS", "0")) / 1000
_BLOCK = 1 << 16


@dataclass(slots=True)
class _Response:
    """The response in flight on a connection."""

    began: float = 0.0
    """When its first block came; 0: none came yet."""
    blocks: int = 0

    def due(self, now: float) -> float:
        """When the block that came now may leave."""
        if not self.began:
            self.began = now
            return now
        self.blocks += 1
        return now + (now - self.began) * STRETCH + self.blocks * DELAY_S


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, upstream: int) -> None:
    try:
        from_engine, to_engine = await asyncio.open_connection("127.0.0.1", upstream)
    except OSError:
        writer.close()  # not up yet, as seen by who asks
        return
    state = [_Response()]
    held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def requests() -> None:
        while block := await reader.read(_BLOCK):
            state[0] = _Response()
            to_engine.write(block)
            await to_engine.drain()

    async def arrivals() -> None:
        while block := await from_engine.read(_BLOCK):
            held.put_nowait((state[0].due(time.monotonic()), block))
        held.put_nowait((0.0, b""))

    async def departures() -> None:
        while True:
            due, block = await held.get()
            if not block:
                return
            while (left := due - time.monotonic()) > 0:
                await asyncio.sleep(left)
            writer.write(block)
            await writer.drain()

    tasks = [asyncio.ensure_future(part()) for part in (requests, arrivals, departures)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[1].done():  # the engine closed: what is held goes out first
            await asyncio.wait(tasks[2:])
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for end in (writer, to_engine):
            end.close()


async def _run(port: int, upstream: int, command: list[str]) -> int:
    engine = await asyncio.create_subprocess_exec(*command)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, lambda: _end(engine))
    server = await asyncio.start_server(
        lambda reader, writer: _serve(reader, writer, upstream), "127.0.0.1", port
    )
    async with server:
        return await engine.wait()


def _end(engine: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        engine.terminate()


def main() -> int:
    """Run the engine of the command line behind the proxy; returns its exit code."""
    command = sys.argv[1:]
    place = command.index("--port") + 1
    port = int(command[place])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        upstream = int(free.getsockname()[1])
    command[place] = str(upstream)
    code = asyncio.run(_run(port, upstream, command))
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
