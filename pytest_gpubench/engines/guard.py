"""Supervisor of one server: nothing that the server started outlives the run, whatever happens to
pytest.

``python -I -S guard.py PARENT REPORT -- COMMAND...`` starts COMMAND in a session of its own and

- becomes the "child subreaper" of everything below it: a process whose parent dies becomes the
  guard's child, so all that ever descended from the server can be found through /proc as the
  guard's own descendants;
- ends the server when PARENT is gone (also by SIGKILL): SIGTERM, five seconds, SIGKILL of all
  descendants;
- passes SIGTERM on to the server;
- when the server ends, gives what it left behind one second, kills the rest, and ends in the same
  way: same exit code, same signal;
- kills Python's resource trackers last: they remove the shared memory of the others (hundreds of
  MiB for an engine) once those are gone.

To the file descriptor REPORT it writes one line: ``pid N``, or ``exec ERRNO`` if the command could
not be started. It imports no more than it must: it starts in about 20 ms and sleeps.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
import time

TERM_SECONDS = 5.0
LEFTOVER_SECONDS = 1.0
TRACKER_SECONDS = 1.0
"""For a resource tracker to clean up, once those are gone for whom it does."""
_POLL_SECONDS = 0.5
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def descendants(pid: int) -> list[int]:
    """Living descendants of a process, from /proc."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208  # pathlib would double the start-up time
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue
        if fields and fields[0] not in b"ZX":
            children.setdefault(int(fields[1]), []).append(int(name))
    family: list[int] = []
    queue = [pid]
    while queue:
        below = children.get(queue.pop(), [])
        family += below
        queue += below
    return family


def is_tracker(pid: int) -> bool:
    """Whether a process is a resource tracker of Python's multiprocessing, which ends by itself
    when all its clients have."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:  # noqa: PTH123
            return b"multiprocessing.resource_tracker" in file.read()
    except OSError:
        return False


def _name(pid: int) -> bytes:
    with open(f"/proc/{pid}/comm", "rb") as file:  # noqa: PTH123
        return file.read().strip()


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _start(command: list[str], report: int) -> int:
    ready, started = os.pipe()  # closes by itself when exec succeeds
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            os.execvp(command[0], command)  # noqa: S606  # the guard's purpose
        except OSError as error:
            os.write(started, str(error.errno).encode())
        finally:
            os._exit(127)
    os.close(started)
    errno = os.read(ready, 16)
    os.close(ready)
    with contextlib.suppress(OSError):
        os.write(report, b"exec " + errno + b"\n" if errno else f"pid {pid}\n".encode())
    os.close(report)
    return pid


def _reap(server: int, status: int | None) -> int | None:
    """Collect ended children; the server's wait status once it has ended."""
    while True:
        try:
            pid, result = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return status
        if pid == 0:
            return status
        if pid == server:
            status = result


def _kill_rest(server: int, status: int | None) -> int | None:
    """SIGKILL all descendants until none is left (each round also finds what was forked
    meanwhile)."""
    now = time.monotonic()
    until, patience = now + 3.0, now + TRACKER_SECONDS
    reported: set[int] = set()
    while (left := descendants(os.getpid())) and time.monotonic() < until:
        # Resource trackers are spared while they have clients, and get their second to clean up
        # after them.
        clients = [pid for pid in left if not is_tracker(pid)]
        for pid in clients or (left if time.monotonic() > patience else []):
            with contextlib.suppress(OSError):
                if pid not in reported:
                    reported.add(pid)
                    os.write(2, b"[gpubench] killed %s (%d)\n" % (_name(pid), pid))
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
        status = _reap(server, status)
    return _reap(server, status)


def _end_as(status: int | None) -> None:
    if status is not None and os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.kill(os.getpid(), number)
    os._exit(1 if status is None else os.waitstatus_to_exitcode(status))


def main(arguments: list[str]) -> None:
    """Run the guard; never returns."""
    parent, report, command = int(arguments[0]), int(arguments[1]), arguments[3:]
    os.set_inheritable(report, False)
    watched = (signal.SIGCHLD, signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    server = _start(command, report)
    status: int | None = None
    deadline: float | None = None
    while status is None:
        caught = signal.sigtimedwait(watched, _POLL_SECONDS)
        orphaned = os.getppid() != parent
        if (caught is not None and caught.si_signo == signal.SIGTERM) or (
            orphaned and deadline is None
        ):
            with contextlib.suppress(OSError):
                os.kill(server, signal.SIGTERM)
        if orphaned and deadline is None:
            deadline = time.monotonic() + TERM_SECONDS
        if deadline is not None and time.monotonic() > deadline:
            status = _kill_rest(server, status)
            break
        status = _reap(server, status)
    until = time.monotonic() + LEFTOVER_SECONDS
    while descendants(os.getpid()) and time.monotonic() < until:
        time.sleep(0.02)
        status = _reap(server, status)
    status = _kill_rest(server, status)
    _end_as(status)


if __name__ == "__main__":
    main(sys.argv[1:])
