"""Real relays between client and engine: are the numbers the engine's, or INVALID?

    python experiments/client/relays.py [--nginx NGINX] [--litellm LITELLM]

Each relay stands before the loopback server, whose truth is known: nginx with TLS, buffering as by
default and switched off; LiteLLM's proxy for chat completions, with nginx sending the rest to the
engine. Commands that are not given are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pytest_gpubench.load.client_calibration import loopback_process
from pytest_gpubench.load.load_run import run_load
from pytest_gpubench.load.loopback.server import TRUTH_PATH
from pytest_gpubench.load.protocol import LoadPlan
from pytest_gpubench.measure import definitions
from pytest_gpubench.measure.validity import buffering
from pytest_gpubench.model.workload import Workload

TTFT, TOKEN_TIME, MODEL = 0.05, 0.01, "loopback"
WORKLOAD = Workload(isl=64, osl=64, conc=4, num_prompts=16, num_warmups=4, range_ratio=1.0)
_PASS_ON = "proxy_buffering off; proxy_http_version 1.1;"
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


@dataclass(frozen=True, slots=True)
class Relay:
    """An address to measure at."""

    name: str
    url: str


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def make_certificate(folder: Path) -> Path:
    """A certificate of 127.0.0.1, and its key beside it."""
    certificate = folder / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", str(folder / "key.pem"), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate


@contextlib.contextmanager
def running(command: list[str], folder: Path, port: int, **environment: str) -> Iterator[None]:
    """A server, from when it takes connections."""
    with (folder / f"{Path(command[0]).name}.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, **environment}
        )
        try:
            deadline = time.monotonic() + 120
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{command[0]} does not answer: {log.name}")
                time.sleep(0.2)
            yield
        finally:
            process.terminate()
            process.wait()


@contextlib.contextmanager
def relays(options: argparse.Namespace, engine: str, folder: Path) -> Iterator[list[Relay]]:
    """The relays whose commands are given, before the engine."""
    with contextlib.ExitStack() as stack:
        found = [Relay("none", engine)]
        if options.nginx is None:
            yield found
            return
        chat = None
        if options.litellm is not None:
            chat = free_port()
            model = {"model_name": MODEL, "litellm_params": {
                "model": f"hosted_vllm/{MODEL}", "api_base": f"{engine}/v1", "api_key": "none",
            }}  # fmt: skip
            settings = folder / "litellm.json"
            settings.write_text(json.dumps({"model_list": [model]}))
            command = [options.litellm, "--config", settings, "--port", chat, "--host", "127.0.0.1"]
            stack.enter_context(
                running(
                    [str(word) for word in command],
                    folder,
                    chat,
                    LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY="true",
                )
            )
        ports = [free_port() for _ in range(3)]
        configuration = folder / "nginx.conf"
        configuration.write_text(_nginx(folder, engine, ports, chat))
        command = [options.nginx, "-p", folder, "-c", configuration]
        stack.enter_context(running([str(word) for word in command], folder, ports[0]))
        found.append(Relay("nginx, TLS, buffering as by default", f"https://127.0.0.1:{ports[0]}"))
        found.append(Relay("nginx, TLS, buffering off", f"https://127.0.0.1:{ports[1]}"))
        if chat is not None:
            found.append(Relay("LiteLLM's proxy", f"http://127.0.0.1:{ports[2]}"))
        yield found


def _nginx(folder: Path, engine: str, ports: list[int], chat: int | None) -> str:
    upstream = f"proxy_pass http://{urlsplit(engine).netloc};"
    secure = f"ssl_certificate {folder}/certificate.pem; ssl_certificate_key {folder}/key.pem;"
    paths = "".join(f"{name}_temp_path {folder}/{name};" for name in _TEMPORARY)
    servers = [
        f"listen 127.0.0.1:{ports[0]} ssl; {secure} location / {{ {upstream} }}",
        f"listen 127.0.0.1:{ports[1]} ssl; {secure} location / {{ {upstream} {_PASS_ON} }}",
    ]
    if chat is not None:
        relay = f"location /v1/chat/ {{ proxy_pass http://127.0.0.1:{chat}; {_PASS_ON} }}"
        servers.append(f"listen 127.0.0.1:{ports[2]}; location / {{ {upstream} }} {relay}")
    blocks = "".join(f"server {{ {server} }}" for server in servers)
    return (
        f"daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log; events {{}}"
        f" http {{ access_log off; {paths} {blocks} }}"
    )


def row(relay: Relay, engine: str) -> str:
    """One line of the table: what was measured, what the server did, what is said of it."""
    request = urllib.request.Request(engine + TRUTH_PATH, method="DELETE")
    urllib.request.urlopen(request, timeout=60).close()
    result = run_load(LoadPlan(relay.url, MODEL, WORKLOAD))
    if result.failed:
        return f"| {relay.name} | failed: {result.failed[0].error} | | | | |"
    records = list(result.of_phase("measured"))
    with urllib.request.urlopen(engine + TRUTH_PATH, timeout=60) as answer:
        truth = sorted(json.load(answer), key=lambda entry: int(entry["arrival_ns"]))
    truth = truth[-len(records) :]
    first = [entry["chunk_ns"][0] - entry["arrival_ns"] for entry in truth]
    gaps = [
        (entry["chunk_ns"][-1] - entry["chunk_ns"][0])
        / (entry["chunk_totals"][-1] - entry["chunk_totals"][0])
        for entry in truth
    ]
    seen = [statistics.fmean(value(record) or 0.0 for record in records) * 1e3
            for value in (definitions.ttft, definitions.tpot)]  # fmt: skip
    told = "INVALID" if buffering(records) else "valid"
    return (
        f"| {relay.name} | {seen[0]:.1f} | {statistics.fmean(first) / 1e6:.1f} | {seen[1]:.2f} | "
        f"{statistics.fmean(gaps) / 1e6:.2f} | {told} |"
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nginx", type=Path)
    parser.add_argument("--litellm", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gpubench-relays-") as name:
        folder = Path(name)
        os.environ["SSL_CERT_FILE"] = str(make_certificate(folder))
        with (
            loopback_process("--ttft", str(TTFT), "--token-time", str(TOKEN_TIME)) as engine,
            relays(options, engine, folder) as found,
        ):
            print("| relay | TTFT, ms | true | TPOT, ms | true | |\n|---|---|---|---|---|---|")
            for relay in found:
                print(row(relay, engine), flush=True)


if __name__ == "__main__":
    main()
