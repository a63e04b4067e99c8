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


WORKS = """
import os, signal, sys
from pathlib import Path
from pytest_gpubench.load.workers import Surroundings, Worker

def worker(monkeypatch, **environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    started = Worker(Surroundings.now())
    while started._messages.empty() and started.process.poll() is None:
        pass
    return started

def test_lives_and_ends_with_its_input(monkeypatch):
    lives = worker(monkeypatch, TOLD_WORKER="yes")
    pid = lives.process.pid
    assert os.getsid(pid) == pid != os.getsid(0)
    assert sorted(os.listdir(f"/proc/{pid}/fd"), key=int)[:3] == ["0", "1", "2"]
    assert not {os.readlink(f"/proc/{pid}/fd/{each}") for each in (0, 1, 2)} & {
        os.readlink(f"/proc/self/fd/{each}") for each in (0, 1, 2)
    }
    lives.process.stdin.close()
    assert lives.process.wait() == 3
    lives.kill()

def test_is_killed(monkeypatch):
    dies = worker(monkeypatch)
    os.kill(dies.process.pid, signal.SIGTERM)
    assert dies.process.wait() == -signal.SIGTERM
    assert "signal 15" in dies.crash().summary
    dies.kill()

def test_says_what_went_wrong(monkeypatch):
    from pytest_gpubench.load import worker as module

    monkeypatch.setattr(module, "main", lambda: 1 / 0)
    failed = worker(monkeypatch)
    assert failed.process.wait() == 1
    assert failed.crash().evidence[-1] == "ZeroDivisionError: division by zero"
    failed.kill()
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


def test_a_command_of_ours_is_forked_as_well(server: ForkServer, folder: Path) -> None:
    for words in (["plan", "nowhere.yaml"], ["schema"], ["nonsense"]):
        command = [sys.executable, "-m", "pytest_gpubench.cli", *words]
        new = subprocess.run(
            command,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        forked = server.run(words, folder, 120, module="pytest_gpubench.cli", together=True)
        assert (forked.ret, forked.outlines) == (new.returncode, new.stdout.splitlines())
        assert forked.outlines
        assert forked.errlines == []


def test_the_environment_is_the_one_that_was_given(server: ForkServer, folder: Path) -> None:
    run = server.run(WORDS, folder, 120, environment={**os.environ, "SHELF": "given"})
    assert " given " in run.outlines[0]


def test_a_load_worker_of_a_forked_run_is_a_process_of_its_own(
    server: ForkServer, folder: Path
) -> None:
    """And ends as one: with its input, by a signal, with an error on its stderr."""
    (folder / "test_it.py").write_text(WORKS)
    run = server.run(WORDS, folder, timeout=120)
    assert run.ret == 0, run.outlines


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
