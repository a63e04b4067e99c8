"""Load generators against one loopback server with a known schedule: whose numbers are the
server's?

    python experiments/client/compare.py --openai PYTHON --vllm PYTHON --aiperf PYTHON
        --sglang UNPACKED_WHEEL/sglang/srt/rust_extensions --endpoints PYTHON
        --write experiments/client/README.md

The environment needs pytest-gpubench with its extra ``demo`` (its tokenizer is given to the tools
that want one). Tools whose interpreter is not named are left out. Every tool measures every
concurrency in every round; medians over the rounds are printed. The truth is in the server's own
stamps: arrival of a request in the kernel, and the moment before each chunk is written.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from client_tables import machine_line, replace_part

from pytest_gpubench.demo.models import DEMO_TARGET, write_demo_models
from pytest_gpubench.load.client_calibration import loopback_process
from pytest_gpubench.load.loopback.server import TRUTH_PATH
from tools import (
    Checkout,
    MlcommonsEndpoints,
    Ours,
    Point,
    SglangRust,
    Told,
    Tool,
    VllmBench,
    available,
    cpu_between,
)

TTFT, TOKEN_TIME, TOKENS = 0.05, 0.01, 64
FAST = (Ours, Checkout, VllmBench, SglangRust, MlcommonsEndpoints)
"""Who takes part in the flood."""
WAVES = {1: 12, 16: 16, 64: 8, 256: 4, 1024: 4, 4096: 2}
FLOOD_TOKENS, FLOOD_CONC, FLOOD_TOKEN_TIME = 2000, 64, 0.0004


@dataclass(frozen=True, slots=True)
class Row:
    """One tool at one concurrency in one round; errors in seconds, over the truth of the same
    requests."""

    tool: str
    conc: int
    ttft_error: float
    tpot_error: float
    true_ttft: float
    true_tpot: float
    cpu_per_chunk: float
    chunk_rate: float
    load_average: float
    flood: bool = False


def measure(tool: Tool, url: str, conc: int, requests: int, tokens: int) -> Row:
    """Run a tool and compare what it says with what the server did."""
    _request("DELETE", url)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="gpubench-compare-") as folder:
        told = tool.run(Point(url, conc, requests, tokens), Path(folder))
    truth = sorted(json.loads(_request("GET", url)), key=lambda entry: int(entry["arrival_ns"]))[
        -requests:
    ]
    return _row(tool.name, conc, told, truth, load)


def _row(name: str, conc: int, told: Told, truth: Sequence[dict[str, Any]], load: float) -> Row:
    ttft = statistics.fmean(entry["chunk_ns"][0] - entry["arrival_ns"] for entry in truth) / 1e9
    tpot = statistics.fmean(
        (entry["chunk_ns"][-1] - entry["chunk_ns"][0])
        / (entry["chunk_totals"][-1] - entry["chunk_totals"][0])
        for entry in truth
    )
    start, end = (
        min(entry["arrival_ns"] for entry in truth),
        max(entry["chunk_ns"][-1] for entry in truth),
    )
    if (
        len(truth) == conc
    ):  # one wave, a flood: what counts is when the client had everything, not when the kernel had
        end = start + int((told.ttft + told.tpot * (truth[0]["chunk_totals"][-1] - 1)) * 1e9)
    chunks = sum(len(entry["chunk_ns"]) for entry in truth)
    cpu = cpu_between(told.cpu, start, end) / chunks
    return Row(
        name,
        conc,
        told.ttft - ttft,
        told.tpot - tpot / 1e9,
        ttft,
        tpot / 1e9,
        cpu,
        chunks / (end - start) * 1e9,
        load,
    )


@contextmanager
def server(token_time: float) -> Iterator[str]:
    """The loopback server on the last core, everything else (all tools alike) on the others.

    Left to itself the kernel puts a process that is woken over loopback on the core of the one that
    wakes it; then a client's error is the time that its server takes, which no real server on
    another machine, or on a GPU, would take from it.
    """
    cores = sorted(os.sched_getaffinity(0))
    apart = len(cores) > 1
    if apart:
        os.sched_setaffinity(0, {cores[-1]})
    try:
        with loopback_process("--ttft", str(TTFT), "--token-time", str(token_time)) as url:
            if apart:
                os.sched_setaffinity(0, set(cores[:-1]))
            yield url
    finally:
        os.sched_setaffinity(0, set(cores))


def rounds(tools: Sequence[Tool], concs: Sequence[int], number: int) -> Iterator[Row]:
    """All rows, one round after the other, so that a disturbance meets all tools; what fails is
    said and left out."""
    for turn in range(number):
        for conc in concs:
            with server(TOKEN_TIME) as url:
                for tool in tools:
                    yield from _attempt(
                        tool, url, conc, WAVES.get(conc, 3) * conc, TOKENS, f"round {turn + 1}"
                    )


def floods(tools: Sequence[Tool], number: int) -> Iterator[Row]:
    """As many chunks as the tool takes: 64 streams of a token per 0.4 ms, that is 160,000 chunks/s
    if all keep up."""
    for turn in range(number):
        for tool in tools:
            with server(FLOOD_TOKEN_TIME) as url:
                for row in _attempt(
                    tool, url, FLOOD_CONC, FLOOD_CONC, FLOOD_TOKENS, f"flood {turn + 1}"
                ):
                    yield replace(row, flood=True)


def _attempt(
    tool: Tool, url: str, conc: int, requests: int, tokens: int, label: str
) -> Iterator[Row]:
    try:
        row = measure(tool, url, conc, requests, tokens)
    except (RuntimeError, OSError, KeyError, StopIteration, ValueError) as error:
        print(f"{label}: {tool.name} at c={conc} failed: {error}", file=sys.stderr, flush=True)
        return
    print(
        f"{label}: {row.tool} c={conc}: TTFT {row.ttft_error * 1e3:+.2f} ms over "
        f"{row.true_ttft * 1e3:.1f}, TPOT "
        f"{row.tpot_error / row.true_tpot:+.2%}, {row.cpu_per_chunk * 1e6:.1f} us/chunk, "
        f"{row.chunk_rate:,.0f} chunks/s, "
        f"load {row.load_average:.1f}",
        file=sys.stderr,
        flush=True,
    )
    yield row


def table(rows: Sequence[Row], floods: Sequence[Row]) -> Iterator[str]:
    """Medians as Markdown."""
    concs = sorted({row.conc for row in rows})
    names = list(dict.fromkeys(row.tool for row in rows))
    cells: dict[tuple[str, int], list[Row]] = defaultdict(list)
    for row in rows:
        cells[row.tool, row.conc].append(row)

    def medians(name: str, pick: Any, form: str) -> list[str]:
        found = [[pick(row) for row in cells[name, conc]] for conc in concs]
        return [format(statistics.median(values), form) if values else "failed" for values in found]

    heads = " | ".join(f"c={conc}" for conc in concs)
    for title, pick, form in (
        ("Error of the mean TTFT, ms", lambda row: row.ttft_error * 1e3, "+.2f"),
        (
            "Error of the mean TPOT, % of the truth",
            lambda row: row.tpot_error / row.true_tpot * 100,
            "+.2f",
        ),
        ("Client CPU per streamed chunk, us", lambda row: row.cpu_per_chunk * 1e6, ".0f"),
    ):
        yield f"| {title} | {heads} |"
        yield "|---|" + "---|" * len(concs)
        for name in names:
            yield f"| {name} | {' | '.join(medians(name, pick, form))} |"
        yield ""
    if floods:
        yield (
            "| Most chunks per second, one client process, 64 streams | chunks/s | client "
            "CPU per chunk, us |"
        )
        yield "|---|---|---|"
        for name in dict.fromkeys(row.tool for row in floods):
            mine = [row for row in floods if row.tool == name]
            rate, cpu = (
                statistics.median(values)
                for values in zip(*((r.chunk_rate, r.cpu_per_chunk) for r in mine), strict=True)
            )
            yield f"| {name} | {rate:,.0f} | {cpu * 1e6:.1f} |"
        yield ""


def machine(rows: Sequence[Row]) -> str:
    """The sentence that says where and when."""
    loads = [row.load_average for row in rows]
    number = max(Counter((row.tool, row.conc) for row in rows).values())
    return (
        f"{machine_line(load=False)} The server has the last core to itself, every tool the "
        "others (with two cores: one). Load "
        f"average at the starts {min(loads):.1f} to {max(loads):.1f}, median "
        f"{statistics.median(loads):.1f}. "
        f"Medians of up to {number} rounds. "
        f"Schedule: first token after {TTFT * 1e3:.0f} ms, then one per {TOKEN_TIME * 1e3:.0f} "
        f"ms, {TOKENS} tokens."
    )


def _request(method: str, url: str) -> bytes:
    with urllib.request.urlopen(
        urllib.request.Request(url + TRUTH_PATH, method=method), timeout=120
    ) as response:
        return bytes(response.read())


def _measured(options: argparse.Namespace) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="gpubench-tokenizer-") as cache:
        write_demo_models(Path(cache))
        folder = Path(cache) / f"models--{DEMO_TARGET.replace('/', '--')}" / "snapshots"
        tools = available(options, next(folder.iterdir()))
        racers = [tool for tool in tools if isinstance(tool, FAST)]
        turns = 0 if options.no_flood else options.rounds
        for row in chain(floods(racers, turns), rounds(tools, options.concurrency, options.rounds)):
            if options.raw:
                with options.raw.open("a") as file:
                    file.write(json.dumps(asdict(row)) + "\n")
            yield row


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("openai", "vllm", "aiohttp", "aiperf", "endpoints"):
        parser.add_argument(
            f"--{name}", type=Path, metavar="PYTHON", help=f"interpreter that has {name}"
        )
    parser.add_argument(
        "--sglang", type=Path, metavar="FOLDER", help="rust_extensions of SGLang's wheel"
    )
    parser.add_argument(
        "--old",
        type=Path,
        nargs="+",
        metavar="CHECKOUT",
        help="instead of this client as it is imported: those of checkouts, this one beside them",
    )
    parser.add_argument("--concurrency", type=int, nargs="+", default=sorted(WAVES))
    parser.add_argument(
        "--no-flood", action="store_true", help="leave the most chunks per second out"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--raw", type=Path, help="add every row to this file, as JSON lines")
    parser.add_argument(
        "--read", type=Path, help="measure nothing: make the table of the rows of such a file"
    )
    parser.add_argument(
        "--write",
        type=Path,
        metavar="FILE.md",
        help="replace the table between its marks in this file",
    )
    options = parser.parse_args()
    found = (
        [Row(**json.loads(line)) for line in options.read.open()]
        if options.read
        else list(_measured(options))
    )
    rows, flooded = [row for row in found if not row.flood], [row for row in found if row.flood]
    text = "\n".join([machine(rows), "", *table(rows, flooded)])
    print(text)
    if options.write:
        replace_part(options.write, "comparison", text)


if __name__ == "__main__":
    main()
