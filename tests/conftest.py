"""What all tests need."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.plugin.fork_server import ForkServer

# A job that a shell started in the background ignores SIGINT, one under nohup SIGHUP, and all that
# it starts inherits that: tests of Ctrl-C and of a hangup could not work.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# A verdict rests on what is right, never on how fast this machine is today; a failure can be
# repeated from what it prints.
settings.register_profile(
    "here", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("here")

SURFACE = (
    "docs/test_yaml_blocks.py",  # pyyaml, pydantic: what recipes look like
    "engines/test_metrics_page.py",  # prometheus-client
    "gate/test_statistics.py",  # numpy, scipy
    "golden",
    "host/test_gpus.py",  # nvidia-ml-py, psutil
    "host/test_hub_fetch.py",  # huggingface-hub, filelock
    "host/test_hub_local.py",
    "host/test_leases_broker.py",
    "load/test_load_run.py",  # openai, uvloop
    "measure/test_compute.py",
    "plugin/test_benchmark_json.py",  # pytest-benchmark
    "plugin/test_errors.py",  # pytest
    "plugin/test_gate_baselines.py",
    "plugin/test_main_line.py",
    "plugin/test_selection.py",
    "plugin/test_xdist.py",  # pytest-xdist
    "recipes/test_schema_holes.py",
    "report/test_exports.py",
    "report/test_read_results.py",
)
"""What touches a dependency: tests below these paths are run with the lowest releases, too."""


def _is_surface(path: Path) -> bool:
    here = Path(__file__).parent
    below = path.relative_to(here) if path.is_relative_to(here) else path
    return bool({str(below), str(below.parent)}.intersection(SURFACE))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Whoever asks for the surface alone does not import the files that have none of it."""
    if config.option.markexpr != "surface" or not collection_path.match("test_*.py"):
        return None
    marked = "mark.surface" in collection_path.read_text(encoding="utf-8")
    return None if marked or _is_surface(collection_path) else True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the surface to our dependencies."""
    for item in items:
        if _is_surface(item.path):
            item.add_marker(pytest.mark.surface)


def pytest_collection_finish() -> None:
    """What was collected stays: each run inside this process ends with a collection of garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def light_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest that a command of ours starts does without two plugins of the test environment, which
    take a third of its time. Not for runs inside this process: one of them stays half loaded."""
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:hypothesispytest -p no:anyio")


@pytest.fixture(scope="session")
def forks() -> Iterator[ForkServer]:
    """What starts the inner runs; one for all tests of this process."""
    server = ForkServer()
    yield server
    server.close()
