"""Forks a process for each inner run of pytest: as ``python -m pytest`` starts it, without its
second of imports. And for commands of ours, likewise.

``ForkServer`` talks to this file run as a script, one line of JSON a run. That process has run
pytest once, with nothing to collect, and has imported what a measurement needs; it never has
threads of its own. What a run changes (modules, environment, folder) ends with its process.

The load workers of such a run are forked from it in the same way (`ForkedWorker`): they import more
than all else together. The engine and whatever else a run starts are new interpreters.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import IO, NoReturn

import pytest

PRELOADED = (
    "pytest_gpubench.cli",
    "pytest_gpubench.dialects.vllm.log",
    "pytest_gpubench.load.worker",
    "pytest_gpubench.suite",
    "pytest_gpubench.plugin.activate",
    "pytest_gpubench.runs.gpu_watch",
    "pytest_gpubench.plugin.live",
    "pytest_gpubench.runs.model_files",
    "pytest_gpubench.plugin.reporting",
    "pytest_gpubench.runs.reuse",
    "pytest_gpubench.plugin.runner",
    "pytest_gpubench.runs.servers",
    "pytest_gpubench.plugin.session_end",
    "pytest_gpubench.recipes.loading",
    "scipy.optimize",
    "scipy.stats",
)
"""Each draws in more. What is missing here only takes time."""


def interpreter_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that an interpreter reads when it starts: a fork cannot obey others, but for
    PYTHONPATH."""
    return {
        name: value
        for name, value in environment.items()
        if name.startswith("PYTHON") and name != "PYTHONPATH"
    }


def folders_of(path: str | None) -> list[str]:
    """What a PYTHONPATH names."""
    return [folder for folder in (path or "").split(os.pathsep) if folder]


class ForkServer:
    """The process that forks, started with the first run and ended with `close`."""

    def __init__(self) -> None:
        self._settings = interpreter_settings(os.environ)
        self._process: subprocess.Popen[bytes] | None = None

    def suits(self, environment: Mapping[str, str]) -> bool:
        """Whether the run would be what it is without the server.

        Packages that a PYTHONPATH adds with entry points are asked for when plugins and dialects
        are loaded.
        """
        added = folders_of(environment.get("PYTHONPATH"))
        if any(list(Path(folder).glob("*-info/entry_points.txt")) for folder in added):
            return False
        return interpreter_settings(environment) == self._settings

    def run(
        self,
        arguments: Sequence[str],
        folder: Path,
        timeout: float,
        output: Path | None = None,
        *,
        module: str = "pytest",
        environment: Mapping[str, str] | None = None,
        together: bool = False,
    ) -> pytest.RunResult:
        """Run pytest or our command in a folder; its output is printed, too.

        Args:
            arguments: what follows ``python -m MODULE``.
            folder: where.
            timeout: in seconds.
            output: where the files ``stdout`` and ``stderr`` are written, if not in the folder.
            module: ``pytest`` or ``pytest_gpubench.cli``.
            environment: that of now, if it is left out.
            together: both streams are written to ``stdout``.

        Raises:
            subprocess.TimeoutExpired: after so many seconds; the run is killed.
        """
        out, err = (output or folder) / "stdout", (output or folder) / "stderr"
        err.touch()
        request = {
            "module": module,
            "arguments": arguments,
            "folder": str(folder),
            "environment": dict(os.environ if environment is None else environment),
            "files": [os.devnull, str(out), str(out if together else err)],
            "timeout": timeout,
        }
        begin = time.monotonic()
        try:
            answer = self._answer(json.dumps(request).encode() + b"\n")
        except BaseException:  # a time limit of the test, Ctrl-C: the run is still under way
            self._kill()
            raise
        lines = [path.read_text("utf-8", "replace").splitlines() for path in (out, err)]
        for stream, written in zip((sys.stdout, sys.stderr), lines, strict=True):
            print(*written, sep="\n", file=stream)  # what a test that fails shows
        code = json.loads(answer)
        if code is None:
            raise subprocess.TimeoutExpired(list(arguments), timeout)
        duration = time.monotonic() - begin
        return pytest.RunResult(code, lines[0], lines[1], duration)

    def close(self) -> None:
        """End the process; it ends by itself when its input does."""
        if self._process is not None:
            with self._process:
                assert self._process.stdin is not None
                self._process.stdin.close()

    def _answer(self, request: bytes) -> bytes:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                process_group=0,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(request)
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the fork server is gone"
        return answer

    def _kill(self) -> None:
        """End the process and the run that it waits for; the next run starts another."""
        if self._process is not None:
            with self._process as process, contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            self._process = None


class ForkedWorker:
    """As much of `subprocess.Popen` as a pool of load workers needs, for the one command that it
    starts: a fork of the run in place of a new interpreter."""

    def __init__(
        self,
        words: Sequence[str],
        *,
        stdin: int,
        stdout: int,
        stderr: IO[bytes],
        env: Mapping[str, str],
        start_new_session: bool,
    ) -> None:
        assert words[-2:] == ["-m", "pytest_gpubench.load.worker"]
        assert stdin == stdout == subprocess.PIPE
        assert start_new_session
        theirs_in, ours_in = os.pipe()
        ours_out, theirs_out = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self.returncode: int | None = None
        self._reaping = threading.Lock()
        self.pid = _fork()
        if self.pid == 0:
            _work((theirs_in, theirs_out, stderr.fileno()), env)
        os.close(theirs_in)
        os.close(theirs_out)
        self.stdin, self.stdout = os.fdopen(ours_in, "wb"), os.fdopen(ours_out, "rb")

    def poll(self) -> int | None:
        return self._reap(os.WNOHANG)

    def wait(self) -> int | None:
        return self._reap(0)

    def _reap(self, options: int) -> int | None:
        with self._reaping:
            if self.returncode is None:
                pid, status = os.waitpid(self.pid, options)
                if pid:
                    self.returncode = os.waitstatus_to_exitcode(status)
            return self.returncode


def _work(files: tuple[int, int, int], environment: Mapping[str, str]) -> NoReturn:
    """In the child: what a new interpreter would find, then the worker's own main."""
    code = 1
    try:
        os.setsid()
        faulthandler.disable()
        for number in signal.valid_signals():
            if callable(signal.getsignal(number)):
                signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for target, source in enumerate(files):
            os.dup2(source, target)
        os.closerange(len(files), os.sysconf("SC_OPEN_MAX"))
        sys.stdin, sys.stdout, sys.stderr = (os.fdopen(n, "r" if n == 0 else "w") for n in range(3))
        sys.excepthook, threading.excepthook = sys.__excepthook__, threading.__excepthook__
        sys.unraisablehook = sys.__unraisablehook__
        warnings.filters[:] = _FILTERS  # type: ignore[index]  # of the interpreter, not of a test
        os.environ.clear()
        os.environ.update(environment)
        importlib.import_module("pytest_gpubench.load.worker").main()
        code = 0
    except BaseException:  # noqa: BLE001  # nothing may go on as the run that was forked
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


_FILTERS = list(warnings.filters)


def _fork() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads: those of numpy's library bear a fork
        return os.fork()


class _Preload:
    def pytest_sessionstart(self) -> None:
        for name in PRELOADED:
            importlib.import_module(name)
        with TemporaryDirectory() as folder:  # what they write is then known
            importlib.import_module("pytest_gpubench.demo.models").write_demo_models(Path(folder))


def _warm_up() -> None:
    """Let pytest load its plugins and ours under its import hook, as it does in a run."""
    with TemporaryDirectory() as folder, Path(os.devnull).open("w") as nowhere:
        before, sys.stdout = sys.stdout, nowhere
        arguments = ["-p", "no:cacheprovider", f"--rootdir={folder}", "-c", os.devnull, folder]
        code = pytest.main(arguments, plugins=[_Preload()])
        sys.stdout = before
    assert code == pytest.ExitCode.NO_TESTS_COLLECTED, f"the warm-up ended with {code}"


def _wait(pid: int, timeout: float) -> int | None:
    """The exit code of a child, negative for a signal; None if it had to be killed."""
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


_WRITING = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def _become(request: Mapping[str, object]) -> NoReturn:
    """In the child: what ``python -m MODULE`` would have been started with."""
    assert isinstance(request["files"], list)
    for number, path in enumerate(request["files"]):
        flags = os.O_RDONLY if number == 0 else _WRITING
        opened = os.open(path, flags, 0o666)
        os.dup2(opened, number)
        os.close(opened)
    before = folders_of(os.environ.get("PYTHONPATH"))
    os.environ.clear()
    assert isinstance(request["environment"], dict)
    os.environ.update(request["environment"])
    folder = str(request["folder"])
    os.chdir(folder)
    assert isinstance(request["arguments"], list)
    rest = [each for each in sys.path[1:] if each not in before]
    sys.path[:] = [folder, *folders_of(os.environ.get("PYTHONPATH")), *rest]
    # It keeps for its workers the `sys.path` that it was imported with.
    for name in [name for name in sys.modules if name.partition(".")[0] == "xdist"]:
        del sys.modules[name]
    forking = SimpleNamespace(Popen=ForkedWorker, PIPE=subprocess.PIPE)
    vars(importlib.import_module("pytest_gpubench.load.workers"))["subprocess"] = forking
    module = importlib.import_module(str(request["module"]))
    started = Path(str(module.__file__))
    if started.stem == "__init__":
        started = started.with_name("__main__.py")
    sys.argv = [str(started), *request["arguments"]]
    raise SystemExit(module.main())


def main() -> None:
    """Serve until the input ends. A child leaves by the interpreter's own end, as any process."""
    _warm_up()
    gc.collect()
    gc.freeze()  # no child goes through what it shares with this process
    while line := _line():
        request = json.loads(line)
        pid = _fork()
        if pid == 0:
            _become(request)
        os.write(1, json.dumps(_wait(pid, request["timeout"])).encode() + b"\n")


def _line() -> bytes:
    """A line of the input, read without reading on: a child has the same input."""
    read = b""
    while not read.endswith(b"\n") and (part := os.read(0, 65536)):
        read += part
    return read


if __name__ == "__main__":
    main()
