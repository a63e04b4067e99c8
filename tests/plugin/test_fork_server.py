"""What starts the inner runs: a run is what it would be in a new interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.plugin.fork_server import ForkServer

TELLS = """
import os, sys

def test_tell():
    own = [name for name in sys.modules if name.startswith("told_")]
    here = [each for each in sys.path if each.startswith(os.environ["TOLD"])]
    print("TOLD", os.getcwd(), os.environ.get("SHELF"), own, sys.path[0], here, sys.argv[1:])
    print("ERR", file=sys.stderr)
    import told_before
    os.environ["SHELF"] = "left"
    assert os.environ["TOLD"] == "no", "told"
"""


@pytest.fixture
def server() -> Iterator[ForkServer]:
    started = ForkServer()
    yield started
    started.close()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "test_it.py").write_text(TELLS)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "told_before.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"), prepend=":")
    monkeypatch.setenv("TOLD", str(tmp_path))
    return tmp_path


WORDS = ("test_it.py", "-p", "no:cacheprovider", "-s", "-q")


def told(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith(("TOLD", "E  ", "FAILED"))]


def test_a_run_is_what_a_new_interpreter_makes_of_it_and_leaves_nothing(
    server: ForkServer, folder: Path
) -> None:
    new = subprocess.run(
        [sys.executable, "-m", "pytest", *WORDS],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    for _ in range(2):
        run = server.run(WORDS, folder, timeout=120)
        assert run.ret == new.returncode == 1
        assert told(run.outlines) == told(new.stdout.splitlines())
        assert len(told(run.outlines)) > 2
        assert run.errlines == new.stderr.splitlines() == ["ERR"]


def test_a_run_that_takes_too_long_is_killed_and_the_next_is_not_disturbed(
    server: ForkServer, folder: Path
) -> None:
    slow = folder / "slow"
    slow.mkdir()
    (slow / "test_slow.py").write_text("import time\ndef test_slow(): time.sleep(300)\n")
    with pytest.raises(subprocess.TimeoutExpired):
        server.run(WORDS[1:], slow, timeout=1)
    assert server.run(WORDS, folder, timeout=120).ret == 1


def test_a_wait_that_is_cut_short_leaves_no_answer_for_the_next_run(
    server: ForkServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a time limit of the outer test does."""
    assert server.run(WORDS, folder, timeout=120).ret == 1
    answer = server._answer

    def cut(request: bytes) -> bytes:
        answer(request)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(server, "_answer", cut)
        with pytest.raises(KeyboardInterrupt):
            server.run(("--version",), folder, timeout=120)
    assert server.run(WORDS, folder, timeout=120).ret == 1


def test_what_a_fork_cannot_be_is_told(
    server: ForkServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert server.suits(os.environ)
    points = folder / "site" / "engine-1.dist-info" / "entry_points.txt"
    points.parent.mkdir()
    points.touch()
    assert not server.suits(os.environ)
    points.unlink()
    assert server.suits(os.environ)
    monkeypatch.setenv("PYTHONWARNINGS", "error::ImportWarning")
    assert not server.suits(os.environ)
