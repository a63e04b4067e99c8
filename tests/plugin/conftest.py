"""A repository with recipes and the stub engine, for tests that run pytest in it."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# Imported here because pytester forgets what an inner run imports, and numpy refuses to be imported
# twice.
import pytest_gpubench.plugin.runner  # noqa: F401
from pytest_gpubench.report.record import CaseRecord, StartRecord, record_adapter
from tests.plugin.fork_server import ForkServer

STUB = Path(__file__).parents[1] / "stub_engine.py"

RECIPES = """
templates:
  base:
    model: pytest-gpubench/tiny-llama
    model-prefix: tiny
    precision: bf16
    framework: vllm
    multinode: false
    runner: cpu
    scenarios:
      fixed-seq-len:
      - {isl: 32, osl: 4, search-space: [{tp: 1, conc-list: [1, 2]}]}
    serve: {max-model-len: 256, block-size: 128, enable-prefix-caching: false}
    client: {prompts-per-conc: 2, warmups-per-conc: 1}
tiny-bf16-cpu-vllm: {extends: base}
tiny-bf16-cpu-vllm-mtp:
  extends: base
  scenarios:
    fixed-seq-len:
    - {isl: 32, osl: 4, search-space: [{tp: 1, conc-list: [1], spec-decoding: mtp}]}
  speculative: {method: eagle3, model: pytest-gpubench/tiny-llama-eagle3, num-speculative-tokens: 3}
big-fp8-h100-vllm:
  extends: base
  model-prefix: big
  precision: fp8
  runner: h100
  scenarios:
    fixed-seq-len:
    - {isl: 1024, osl: 1024, search-space: [{tp: 8, conc-list: [1, 16]}]}
  serve: {max-model-len: 2304}
"""

XUNIT1 = ("-o", "junit_family=xunit1")
"""The family of JUnit files that has properties inside test cases."""

CALM = """
import os
import sys

def pytest_runtest_call(item):
    if "pytest_gpubench.plugin.runner" in sys.modules:
        from pytest_gpubench.measure import validity
        for name in ("MEAN_LAG_FLOOR", "TAIL_LAG_FLOOR", "SEND_LAG_FLOOR", "CPU_LIMIT", "ENGINE_GAP_FLOOR", "CLOCK_FLOOR", "BURST_FLOOR"):
            setattr(validity, name, 100.0)
        if "GPUBENCH_STUB_WARM" not in os.environ:
            from pytest_gpubench.runs.warming import Warming
            Warming.warm = lambda *arguments: None
"""
"""A plugin of the inner runs: a busy test machine makes no measurement INVALID there, counts that
do not add up still do. Launches are warmed up only where a test wants it: it costs a second."""

CANNED = """
import hashlib, os, pickle, sys
from pathlib import Path
import pytest

SHELF = Path({shelf!r})

@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    from pytest_gpubench.load.workers import WorkerPool
    WorkerPool.prepare = lambda pool, count: None  # most often nothing is measured
    result = yield
    runs = sys.modules.get("pytest_gpubench.runs.client_runs")
    if runs and runs.ClientRuns.measured is not canned:
        canned.measured, runs.ClientRuns.measured = runs.ClientRuns.measured, canned
    return result

def canned(self, turn, spans):
    stub = sorted((name, value) for name, value in os.environ.items() if name.startswith("GPUBENCH_STUB"))
    runs = sys.modules["pytest_gpubench.runs.client_runs"]
    if "GPUBENCH_STUB_FAULT" in os.environ or runs.run_load.__module__ != "pytest_gpubench.load.load_run":
        return canned.measured(self, turn, spans)
    told = repr((turn.case.workload, turn.case.id, turn.spec, turn.launch.arm, stub))
    path = SHELF / hashlib.sha256(told.encode()).hexdigest()
    requests = self._folder.requests_file(turn.launch, turn.case, turn.number)
    if path.exists():
        measurement, written = pickle.loads(path.read_bytes())
        requests.parent.mkdir(parents=True, exist_ok=True)
        requests.write_bytes(written)
        return measurement, False
    measurement, compiled = canned.measured(self, turn, spans)
    if not (compiled or measurement.problems or measurement.invalid):
        aside = path.with_suffix(f".{{os.getpid()}}")
        aside.write_bytes(pickle.dumps((measurement, requests.read_bytes())))
        aside.replace(path)
    return measurement, compiled

canned.measured = None
"""
"""What the fixture `canned` adds to the inner runs: the first measurement of a case is taken, the
next tests get its result again. A server is started all the same. An engine with a fault and a
load that the test replaces are measured."""

CALMLY = ("-p", "no:cacheprovider", "-p", "calm_clocks")
"""What every inner run is started with, one from a ``rerun.txt`` too: that file holds only
options of ours."""


def workers(number: int) -> tuple[str, ...]:
    """Options for xdist; older releases of pytest-benchmark warn under it, and a warning is an
    error here."""
    return ("-n", str(number), "-p", "no:benchmark")


@dataclass
class Project:
    """A folder with recipes.yaml and benchmarks/, and pytest run in it as a user runs it."""

    pytester: pytest.Pytester
    forks: ForkServer
    hub: Path
    """The cache of models: the embedded pair is unfolded into it once, not for every run."""

    def recipes(self, text: str) -> None:
        (self.pytester.path / "recipes.yaml").write_text(textwrap.dedent(text))

    def run(self, *arguments: str, stub: bool = True) -> pytest.RunResult:
        """pytest in a process of its own, with the stub as the engine."""
        words = self.command(*arguments, stub=stub)
        if self.forks.suits(os.environ):
            return self.forks.run(words[3:], self.pytester.path, timeout=600)
        return self.pytester.run(*words, timeout=600)

    def inside(self, *arguments: str, stub: bool = True) -> pytest.RunResult:
        """The same in this process: much faster, for runs that start no server."""
        words = self.command(*arguments, stub=stub)[3:]
        del words[
            words.index("calm_clocks") - 1 : words.index("calm_clocks") + 1
        ]  # it would change the outer process for good
        return self.pytester.runpytest_inprocess(*words)

    def command(self, *arguments: str, stub: bool = True) -> list[str]:
        words = [sys.executable, "-m", "pytest", *CALMLY, "-ra"]
        words += [f"--gpubench-vllm-command={sys.executable} {STUB} serve"] if stub else []
        return [*words, f"--gpubench-cache-dir={self.hub}", *arguments]

    def records(self, name: str = "launch-1.json") -> list[dict[str, Any]]:
        """All records of the runs, the oldest run's first, init records included; each has only
        fields that the model of records describes."""
        results = self.pytester.path / "results"

        def run_of(path: Path) -> int:
            # Not by its name: two runs can begin within a second.
            return (results / path.relative_to(results).parts[0]).stat().st_mtime_ns

        paths = sorted(results.rglob(name), key=lambda path: (run_of(path), path))
        found = [json.loads(path.read_text()) for path in paths]
        for record in found:
            model = CaseRecord if record["kind"] == "case" else StartRecord
            described = {field.alias or key for key, field in model.model_fields.items()}
            assert record.keys() <= described, "describe it in report/record.py"
            record_adapter().validate_python(record)
        return found

    def cases(self, name: str = "launch-1.json") -> list[dict[str, Any]]:
        return [record for record in self.records(name) if record["kind"] == "case"]

    def inits(self) -> list[dict[str, Any]]:
        return [record for record in self.records() if record["kind"] == "engine-init"]


PLANTED = """
import dataclasses
from pytest_gpubench.runs import run_gate

LEVELS, evidence_of = {levels!r}, run_gate.evidence_of

def planted(label, measurement):
    found = evidence_of(label, measurement)
    factor = 1 + 0.002 * (-1) ** int(label[-1])
    levels = next(levels for start, levels in LEVELS.items() if label.startswith(start))
    values = {{name: level * factor for name, level in levels.items()}}
    return dataclasses.replace(found, metrics={{**found.metrics, **values}})

run_gate.evidence_of = planted
"""


def plant_levels(project: Project, levels: Mapping[str, Mapping[str, float]]) -> None:
    """Let the gate judge these numbers, with a spread of 0.2%, in place of what was measured.

    Args:
        levels: start of a launch's label (``a``, ``launch``) to metric to level.
    """
    project.pytester.makeconftest(PLANTED.format(levels=levels))


def with_gates(project: Project, gates: str) -> None:
    """Give the plain tiny recipe a ``gates`` section."""
    text = (project.pytester.path / "recipes.yaml").read_text()
    plain = "tiny-bf16-cpu-vllm: {extends: base}"
    assert plain in text
    project.recipes(text.replace(plain, f"tiny-bf16-cpu-vllm: {{extends: base, gates: {gates}}}"))


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("measurements")


@pytest.fixture
def canned(project: Project, shelf: Path) -> None:
    """For tests of what becomes of a measurement: it is not taken anew for each (`CANNED`)."""
    (project.pytester.path / "calm_clocks.py").write_text(CALM + CANNED.format(shelf=str(shelf)))


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hub")


@pytest.fixture
def project(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, forks: ForkServer, hub: Path
) -> Project:
    for name in [
        name
        for name in os.environ
        if name.startswith(("GPUBENCH_STUB", "PYTEST_ADDOPTS", "PYTEST_XDIST"))
    ]:
        monkeypatch.delenv(name)
    # Slow enough that a busy machine's client is exact in comparison, and no measurement INVALID.
    monkeypatch.setenv("GPUBENCH_STUB_TTFT", "0.25")
    monkeypatch.setenv(
        "GPUBENCH_LEASE_DIR", str(pytester.path / "leases")
    )  # the host's own leases are none of a test's business
    pytester.makeini(
        "[pytest]\naddopts = --strict-markers\nfilterwarnings = error\ngpubench_rounds = 1\ngpubench_launches = 1\n"
    )
    made = Project(pytester, forks, hub)
    made.recipes(RECIPES)
    (pytester.path / "calm_clocks.py").write_text(CALM)
    benchmarks = pytester.mkdir("benchmarks")
    (benchmarks / "test_serving.py").write_text(
        "from pytest_gpubench.suite import test_accuracy, test_engine_init, test_ratio, test_throughput\n"
    )
    return made
