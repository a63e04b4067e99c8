"""A server's process tree: started under the guard, watched, and stopped so that nothing remains.

How processes are found: the guard (see `pytest_gpubench.engines.guard`) is the subreaper of all
that the server starts, so the tree is the guard's descendants, orphans included. Should the guard
itself be killed, the snapshots that are taken while the server runs still name every process by
(pid, start time).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from pytest_gpubench.engines import guard
from pytest_gpubench.engines.log_sink import LogSink
from pytest_gpubench.model.failures import BenchmarkError, Failure

_CHUNK = 64 * 2**10
SNAPSHOT_SECONDS = 1.0
_COMPILERS = frozenset({"nvcc", "cicc", "ptxas", "fatbinary", "cudafe++", "ninja"})
CALM_SNAPSHOT_SECONDS = 15.0
"""Between snapshots once the server is ready: its tree no longer changes, and a measurement is
running."""


@dataclass(frozen=True, slots=True)
class StopReport:
    """How a server came to its end."""

    returncode: int | None
    """Of the server's first process, negative for a signal."""
    forced: bool
    """Whether SIGTERM was not enough."""
    killed: tuple[str, ...]
    """Processes that had to be killed, as ``name (pid)``."""
    remaining: tuple[str, ...]
    """Processes that could not even be killed (stuck in the kernel)."""
    seconds: float


@dataclass(frozen=True, slots=True)
class LaunchProgress:
    """How far a launch is, until its first case is measured."""

    stage: str
    """For a person: ``starting``, ``warming up``."""
    elapsed: float
    """Seconds since the stage began."""
    compilers: tuple[str, ...] = ()
    """Names of the CUDA compilers that run for it."""
    line: str = ""
    """Text of the log's newest line, without secrets; empty before there is one."""


class ServerProcess:
    """One started server, made by `start`. `stop` may be called at any time, more than once."""

    def __init__(self, guard_process: subprocess.Popen[bytes], pid: int, log: LogSink) -> None:
        self.pid = pid
        """The server's first process, leader of its own session and process group."""
        self.guard_pid = guard_process.pid
        self.started = time.monotonic()
        self.log = log
        self._guard = guard_process
        self._known: dict[psutil.Process, str] = {}
        self._known_lock = threading.Lock()
        self._interval = SNAPSHOT_SECONDS
        self._closing = threading.Event()
        self._report: StopReport | None = None
        self._stop_lock = threading.Lock()
        self._drain = threading.Thread(
            target=self._drain_output, name=f"gpubench-log-{pid}", daemon=True
        )
        self._stream_claim = threading.Lock()
        """Whoever takes it closes the output stream: the thread, or a start that failed before the
        thread ran."""

    @classmethod
    def start(
        cls,
        argv: Sequence[str],
        env: Mapping[str, str],
        log: LogSink,
        *,
        inherit_fds: Iterable[int] = (),
        cwd: Path | None = None,
    ) -> ServerProcess:
        """Start a command with exactly this environment; its output goes to ``log``.

        ``inherit_fds`` stay open in the whole tree: a lease held by such a descriptor lives as long
        as the tree.

        Raises:
            BenchmarkError: if the command cannot be started; nothing runs then.
        """
        reading, writing = os.pipe()
        words = [
            sys.executable,
            "-I",
            "-S",
            guard.__file__,
            str(os.getpid()),
            str(writing),
            "--",
            *argv,
        ]
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=dict(env),
                cwd=cwd,
                start_new_session=True,
                pass_fds=(writing, *inherit_fds),
                bufsize=0,
            )
        except (OSError, ValueError) as error:
            os.close(reading)
            raise BenchmarkError(_cannot_start(argv, str(error))) from error
        finally:
            os.close(writing)
        server: ServerProcess | None = None
        try:
            with os.fdopen(reading, "rb") as file:
                kind, _, number = file.read().decode().strip().partition(" ")
            if kind != "pid":
                raise BenchmarkError(
                    _cannot_start(
                        argv, os.strerror(int(number)) if number else "its supervisor ended"
                    )
                )
            server = cls(process, int(number), log)
            server._drain.start()
            return server
        except BaseException:  # a Ctrl-C may come between any two steps
            process.kill()
            process.wait()
            if server is not None and not server._stream_claim.acquire(blocking=False):
                server._closing.set()
                server._drain.join(5.0)
            elif process.stdout is not None:
                process.stdout.close()
            log.close()
            raise

    def poll(self) -> int | None:
        """The server's exit code (negative for a signal) once its whole tree has ended, else
        None."""
        return self._guard.poll()

    def tree(self) -> list[psutil.Process]:
        """Every living process of the server now, the guard not counted."""
        try:
            return psutil.Process(self.guard_pid).children(recursive=True)
        except psutil.Error:
            return []

    def snapshot(self) -> None:
        """Remember the tree as it is now."""
        tree: dict[psutil.Process, str] = {}
        for process in self.tree():
            with contextlib.suppress(psutil.Error):
                tree[process] = f"{process.name()} ({process.pid})"
        with self._known_lock:
            self._known = {
                known: name for known, name in self._known.items() if known.is_running()
            } | tree

    def cpu_seconds(self) -> float:
        """CPU time of the living tree, user and system."""
        total = 0.0
        for process in self.tree():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def compilers(self) -> tuple[str, ...]:
        """Names of the CUDA compilers that run in the tree: an engine may compile kernels for
        minutes before it is ready."""
        names = set()
        for process in self.tree():
            with contextlib.suppress(psutil.Error):
                names.add(process.name())
        return tuple(sorted(names & _COMPILERS))

    def progress(self, stage: str, since: float) -> LaunchProgress:
        """How far a stage that began at ``since`` (``time.monotonic``) is."""
        elapsed = time.monotonic() - since
        return LaunchProgress(stage, elapsed, self.compilers(), self.log.newest)

    def listens(self, port: int) -> bool:
        """Whether a process of the tree listens on a TCP port of this host; True also where that
        cannot be seen."""
        seen = False
        for process in self.tree():
            try:
                connections = process.net_connections(kind="tcp")
            except psutil.Error:
                continue
            seen = True
            if any(
                connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
                for connection in connections
            ):
                return True
        return not seen

    def calm(self) -> None:
        """Watch less often: the server is ready."""
        self.snapshot()
        self._interval = CALM_SNAPSHOT_SECONDS

    def wait_drained(self, seconds: float) -> None:
        """Wait until all output of an ended server has been read, or so long."""
        self._drain.join(seconds)

    def stop(self, grace: float = guard.TERM_SECONDS) -> StopReport:
        """SIGTERM, ``grace`` seconds, SIGKILL of group and snapshot, wait.

        Never raises, except for a Ctrl-C that came meanwhile, and that only after all is done.
        """
        with self._stop_lock:
            if self._report is None:
                interrupted = False
                begin = time.monotonic()
                self.log.stop_requested()
                try:
                    self._end_gently(grace)
                except KeyboardInterrupt:
                    interrupted = True
                while True:
                    try:
                        self._report = self._end_hard(begin)
                        break
                    except KeyboardInterrupt:
                        interrupted = True
                if interrupted:
                    raise KeyboardInterrupt
            return self._report

    def _end_gently(self, grace: float) -> None:
        self.snapshot()
        if self.poll() is None:
            with contextlib.suppress(OSError):
                self._guard.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                # What the server leaves behind has a second of its own.
                self._guard.wait(grace + guard.LEFTOVER_SECONDS)

    def _end_hard(self, begin: float) -> StopReport:
        forced = self.poll() is None
        if forced:
            self.snapshot()
        with self._known_lock:
            known = dict(self._known)
        alive = {process: name for process, name in known.items() if _alive(process)}
        # Trackers go last: once their clients are gone they remove the shared memory, and end by
        # themselves.
        if trackers := [process for process in alive if guard.is_tracker(process.pid)]:
            _kill(process for process in alive if process not in trackers)
            psutil.wait_procs(trackers, timeout=guard.TRACKER_SECONDS)
            alive = {
                process: name
                for process, name in alive.items()
                if process not in trackers or _alive(process)
            }
        # The whole group at once reaches what was forked since the look; only while a member lives
        # is the number still its own.
        if any(_group(process) == self.pid for process in alive):
            with contextlib.suppress(OSError):
                os.killpg(self.pid, signal.SIGKILL)
        _kill(alive)
        if forced:
            # The guard collects the dead and ends with the server's own status; killed first, it
            # would leave both untold.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._guard.wait(4.0)
            if self.poll() is None:
                self._guard.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._guard.wait(4.0)
        _, left = psutil.wait_procs(list(alive), timeout=4.0) if alive else ([], [])
        remaining = tuple(alive[process] for process in left if _alive(process))
        self._closing.set()
        self._drain.join(5.0)
        self.log.close()
        killed = (
            *(name for name in alive.values() if name not in remaining),
            *self.log.left_behind,
        )
        return StopReport(
            self.poll(), forced, tuple(dict.fromkeys(killed)), remaining, time.monotonic() - begin
        )

    def _drain_output(self) -> None:
        stream = self._guard.stdout
        # it is a pipe: see start()
        if stream is None or not self._stream_claim.acquire(blocking=False):
            return
        due = time.monotonic()
        with stream:
            poller = select.poll()
            poller.register(stream, select.POLLIN | select.POLLHUP)
            while True:
                if poller.poll(200):
                    chunk = os.read(stream.fileno(), _CHUNK)
                    if not chunk:
                        return
                    self.log.feed(chunk)
                elif self._closing.is_set():
                    return
                if (now := time.monotonic()) >= due and not self._closing.is_set():
                    self.snapshot()
                    due = now + self._interval


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()


def _group(process: psutil.Process) -> int:
    try:
        return os.getpgid(process.pid)
    except OSError:
        return -1


def _cannot_start(argv: Sequence[str], reason: str) -> Failure:
    return Failure(
        "command-not-found",
        "recipe",
        f"The engine's command {argv[0]!r} cannot be started: {reason}.",
        remedy=(
            "Name the command that starts the engine here: --gpubench-command ENGINE=COMMAND, or "
            "`command` in the recipe."
        ),
    )
