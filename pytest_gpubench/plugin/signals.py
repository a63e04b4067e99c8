"""SIGTERM and SIGHUP end a run as Ctrl-C does, so that servers are stopped and records are written: pytest itself dies at once."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import termios
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

ENDING = (signal.SIGTERM, signal.SIGHUP)


def end_cleanly(config: pytest.Config) -> None:
    """Take the signals until the end of the session; one that is ignored (``nohup``) or taken by somebody else stays as it is."""
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_DFL:
            continue
        try:
            previous = signal.signal(number, _interrupter(os.getpid()))
        except ValueError:  # not the main thread: the embedding program owns the signals
            return
        config.add_cleanup(functools.partial(_restore, number, previous))


def _restore(number: signal.Signals, handler: Any) -> None:
    signal.signal(number, handler)


def _interrupter(main_process: int) -> Callable[[int, FrameType | None], None]:
    def interrupt(number: int, _frame: FrameType | None) -> None:
        if os.getpid() != main_process:  # a child between fork and exec
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(signal.Signals(number))
        if number == signal.SIGHUP:
            # The shell sends one and the kernel another: the second must not disturb the end.
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            _leave_lost_terminals()
        raise KeyboardInterrupt(signal.Signals(number).name)

    return interrupt


def _leave_lost_terminals() -> None:
    """Let descriptors of a terminal that is gone lead to nowhere: a line that cannot be written would break off the end."""
    with contextlib.suppress(OSError):
        for name in [entry.name for entry in Path("/proc/self/fd").iterdir()]:
            with contextlib.suppress(OSError):
                if str(Path("/proc/self/fd", name).readlink()).startswith(("/dev/pts/", "/dev/tty")) and _is_lost(int(name)):
                    nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
                    os.dup2(nowhere, int(name), inheritable=os.get_inheritable(int(name)))
                    os.close(nowhere)


def _is_lost(descriptor: int) -> bool:
    try:
        termios.tcgetattr(descriptor)
    except termios.error:
        return True
    return False
