"""The loopback server as a process: prints its URL, ends on SIGTERM."""

from __future__ import annotations

import argparse
import gc

from pytest_gpubench.load.loopback.server import LoopbackServer, serve_forever
from pytest_gpubench.load.loopback.stream import Schedule


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="OpenAI-compatible server with a known schedule")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--reuse-port", action="store_true", help="share the port with others")
    parser.add_argument("--model", default="loopback")
    parser.add_argument("--ttft", type=float, default=0.05, metavar="SECONDS")
    parser.add_argument("--token-time", type=float, default=0.01, metavar="SECONDS")
    parser.add_argument("--tokens-per-chunk", type=int, default=1)
    parser.add_argument("--per-request-metrics", action="store_true")
    options = parser.parse_args(argv)
    schedule = Schedule(options.ttft, options.token_time, options.tokens_per_chunk)
    server = LoopbackServer(
        schedule,
        model=options.model,
        host=options.host,
        port=options.port,
        reuse_port=options.reuse_port,
        per_request_metrics=options.per_request_metrics,
    )
    gc.freeze()
    gc.disable()  # a collection would delay every stream at once
    serve_forever(server, on_ready=lambda ready: print(ready.url, flush=True))


if __name__ == "__main__":
    main()
