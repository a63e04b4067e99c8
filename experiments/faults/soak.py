"""Starts and stops an engine again and again in one process, and counts what must not grow.

    python experiments/faults/soak.py [--cycles 100]                                       the stub engine
    python experiments/faults/soak.py --cycles 10 --vllm "PYTHON -m vllm.entrypoints..."   a real one, with the embedded model

Counted after each stop: file descriptors, threads, resident memory and children of this process,
processes that carry our mark, shared memory that the engine used and left. The exit code is 1 if
they are not flat. --write puts the table into README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import re
import shlex
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import psutil
from document import machine, write_section
from harness import STUB, marked, own_environment

from pytest_gpubench.demo.models import DEMO_TARGET, write_demo_models
from pytest_gpubench.engines.engine import Engine
from pytest_gpubench.engines.lifecycle import EngineSettings, start_engine
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.specs import ServerSpec, Topology

_RSS_SLACK_MIB = 8.0


@dataclass(frozen=True, slots=True)
class Count:
    """What there is after a stop."""

    cycle: int
    fds: int
    threads: int
    rss_mib: float
    children: int
    marked: int
    shm: int
    """Entries of /dev/shm that the stopped engine used and that are still there."""
    seconds: float
    """From the start of the cycle to its end."""


def count(cycle: int, folder: Path, begin: float, memory: set[str]) -> Count:
    """Look at this process, and for strays."""
    gc.collect()
    me = psutil.Process()
    return Count(
        cycle,
        me.num_fds(),
        me.num_threads(),
        round(me.memory_info().rss / 2**20, 1),
        len(me.children(recursive=True)),
        len(marked(folder)),
        sum(Path(path).exists() for path in memory),
        round(time.monotonic() - begin, 1),
    )


def shared_memory(engine: Engine) -> set[str]:
    """The entries of /dev/shm that the engine's processes map or hold open."""
    found: set[str] = set()
    for process in engine.process.tree() if engine.process else []:
        with contextlib.suppress(OSError):
            found.update(
                re.findall(
                    r"/dev/shm/\S+", Path(f"/proc/{process.pid}/maps").read_text(errors="replace")
                )
            )
            found.update(str(link.readlink()) for link in Path(f"/proc/{process.pid}/fd").iterdir())
    return {path for path in found if path.startswith("/dev/shm/")}


def is_flat(counts: Sequence[Count]) -> bool:
    """Whether nothing grows from the first stop to the last; memory may settle during the first
    tenth."""
    first, last, settled = counts[0], counts[-1], counts[len(counts) // 10 or 1]
    counted = {(one.fds, one.threads, one.children, one.marked) for one in counts}
    return (
        counted == {(first.fds, first.threads, 0, 0)}
        and not any(one.shm for one in counts)
        and last.rss_mib - settled.rss_mib < _RSS_SLACK_MIB
    )


def use(engine: Engine) -> None:
    """One completion and one scrape.

    Raises:
        OSError: if the engine does not answer.
    """
    body = {
        "model": engine.served_name,
        "messages": [{"role": "user", "content": "hello"}],
        "max_completion_tokens": 4,
    }
    headers = {"Authorization": f"Bearer {engine.api_key}", "Content-Type": "application/json"}
    request = urllib.request.Request(
        f"{engine.base_url}/chat/completions", json.dumps(body).encode(), headers
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        answer.read()
    engine.scrape()


def main() -> int:
    """Cycle, count, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cycles", type=int, default=100)
    parser.add_argument(
        "--vllm", metavar="COMMAND", help="command of a real engine for the CPU (default: the stub)"
    )
    parser.add_argument(
        "--write", action="store_true", help="write the table into experiments/faults/README.md"
    )
    options = parser.parse_args()
    command = tuple(shlex.split(options.vllm)) if options.vllm else (sys.executable, str(STUB))
    with tempfile.TemporaryDirectory(prefix="gpubench-soak-") as name:
        folder = Path(name)
        write_demo_models(folder / "hub")
        serve = FrozenMap({"max-model-len": 256, "enforce-eager": True, "max-num-seqs": 4})
        env = FrozenMap(
            {"VLLM_CPU_KVCACHE_SPACE": 1, "OPENBLAS_CORETYPE": None, "OPENBLAS_L2_SIZE": None}
        )
        spec = ServerSpec("vllm", DEMO_TARGET, "cpu", Topology(), serve, env=env)
        settings = EngineSettings(
            command,
            folder / "server.log",
            cache_dir=str(folder / "hub"),
            host_env=own_environment(folder),
            start_timeout=600.0,
        )
        counts: list[Count] = []
        for cycle in range(options.cycles + 1):  # the first one loads what this process needs once
            begin = time.monotonic()
            engine = start_engine(spec, settings)
            try:
                use(engine)
                memory = shared_memory(engine)
            finally:
                report = engine.stop()
            assert report is not None
            if report.forced or report.remaining:
                print(f"cycle {cycle}: {report}")
                return 1
            del engine
            counts.append(count(cycle, folder, begin, memory))
            print(counts[-1], flush=True)
    flat = is_flat(counts)
    which = "real" if options.vllm else "stub"
    mean = sum(one.seconds for one in counts[1:]) / options.cycles
    words = (
        f"{options.cycles} cycles of the {which} engine, {mean:.1f} s each: "
        f"{'flat' if flat else 'NOT flat'}. {machine()}"
    )
    print(words)
    if options.write:
        shown = {1, *range(0, options.cycles, max(1, options.cycles // 5)), options.cycles}
        names = (
            "cycle",
            "descriptors",
            "threads",
            "RSS, MiB",
            "children",
            "marked processes",
            "shared memory",
        )
        head = ["", f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
        rows = [
            f"| {' | '.join(str(value) for value in astuple(one)[:-1])} |"
            for one in counts
            if one.cycle in shown
        ]
        write_section(f"soak-{which}", [words, *head, *rows])
    return 0 if flat else 1


if __name__ == "__main__":
    sys.exit(main())
