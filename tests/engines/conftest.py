from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import psutil
import pytest

from pytest_gpubench.dialects.engine_facts import EngineFacts
from pytest_gpubench.dialects.vllm.log import LogReader
from pytest_gpubench.engines.lifecycle import EngineSettings
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.specs import ServerSpec, Speculative, Topology

STUB = Path(__file__).parents[1] / "stub_engine.py"
Settings = Callable[..., EngineSettings]


def facts_of_lines(lines: Iterable[str]) -> EngineFacts:
    """What a log says."""
    reader = LogReader()
    for line in lines:
        reader.feed(line)
    return reader.facts()


def stub_processes(mark: str) -> list[psutil.Process]:
    """Living processes whose environment or command line carries the test's mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if (
                process.status() != psutil.STATUS_ZOMBIE
                and process.environ().get("GPUBENCH_STUB_TEST") == mark
            ):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture
def spec() -> ServerSpec:
    draft = Speculative("eagle3", 3, "org/draft", attention_backend="FLASH_ATTN")
    serve = FrozenMap({"block-size": 128, "enable-prefix-caching": False, "max-model-len": 2304})
    return ServerSpec("vllm", "org/tiny", "cpu", Topology(), serve, speculative=draft)


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """Makes the settings of a stub launch; afterwards no process of the test may be left."""
    mark = str(tmp_path)

    def make(
        fault: str = "", *, env: dict[str, str] | None = None, **changes: object
    ) -> EngineSettings:
        values: dict[str, object] = {
            "command": (sys.executable, str(STUB)),
            "log_path": tmp_path / "server.log",
            "label": "stub",
            "extra_env": {"GPUBENCH_STUB_FAULT": fault, "GPUBENCH_STUB_TEST": mark, **(env or {})},
            "start_timeout": 600.0,
            "stall_timeout": 600.0,
        }
        return EngineSettings(**(values | changes))  # type: ignore[arg-type]

    yield make
    left = stub_processes(mark)
    for process in left:
        process.kill()
    assert left == []
