"""The live line on a terminal: shown below pytest's own line while a case runs, and gone without a trace afterwards."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TextIO

import pytest

from pytest_gpubench.load.protocol import Progress
from pytest_gpubench.model.cases import Case
from pytest_gpubench.report.live import LiveCase

_EVERY = 1.0
"""Seconds between updates: the line must not take time from the client that is measured beside it."""


class Screen:
    """Draws one line below the cursor and takes it away again.

    With ``control`` (a terminal that was not told to be plain) the cursor returns to where it was; without it the line stands in a
    line of its own, drawn with carriage returns and spaces only.
    """

    def __init__(self, opened: Callable[[], AbstractContextManager[TextIO]], width: int, *, control: bool) -> None:
        self._opened = opened
        self._width = width
        self._control = control
        self._drawn = 0
        self._shown = False

    def draw(self, text: str) -> None:
        """Show the text in place of the last one."""
        text = text[: self._width - 1]
        # Down and up again, so that there is a line below even at the bottom of the screen; then remember the place.
        start = "\r" if self._shown or not self._control else "\x1bD\x1b[1A\x1b7\r\n"
        self._write(start + text + " " * max(0, self._drawn - len(text)))
        self._drawn, self._shown = len(text), True

    def clear(self) -> None:
        """Leave no trace."""
        if self._shown:
            self._write("\r" + " " * self._drawn + "\r" + ("\x1b8" if self._control else ""))
        self._drawn, self._shown = 0, False

    def _write(self, text: str) -> None:
        with self._opened() as file:
            file.write(text)
            file.flush()


class Showing:
    """A case that is being shown; with no drawing function it only swallows what it is told."""

    def __init__(self, live: LiveCase, draw: Callable[[str], None] | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._live = live
        self._draw = draw
        self._clock = clock
        self._next = 0.0

    def note(self, progress: Progress) -> None:
        """The load generator's progress; draws at most once a second."""
        if self._draw is None:
            return
        now = self._clock()
        self._live.progress(progress.stage, progress.done, progress.total, now)
        if now >= self._next:
            self._next = now + _EVERY
            self._draw(self._live.text(now, shutil.get_terminal_size().columns))

    def page(self, text: str) -> str:
        """A page of ``/metrics``, which is handed on as it came."""
        if self._draw is not None:
            self._live.page(text, self._clock())
        return text


Shows = Callable[[Case], AbstractContextManager[Showing]]


@contextlib.contextmanager
def nothing(case: Case) -> Iterator[Showing]:
    """What shows nothing."""
    yield Showing(LiveCase(case.id), None)


def shows_of(config: pytest.Config) -> Shows:
    """How this run shows its cases: nothing without a terminal, in a worker of xdist, under ``-q -q`` and with ``TERM=dumb``."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    quiet = config.get_verbosity() <= -2
    if reporter is None or quiet or hasattr(config, "workerinput") or not reporter.isatty or os.environ.get("TERM") == "dumb":
        return nothing

    @contextlib.contextmanager
    def show(case: Case) -> Iterator[Showing]:
        control = bool(reporter.hasmarkup)
        if not control:
            reporter.ensure_newline()
        reporter.flush()
        screen = Screen(lambda: _uncaptured(config), shutil.get_terminal_size().columns, control=control)
        try:
            yield Showing(LiveCase(case.id, case.workload.conc, case.workload.duration), screen.draw)
        finally:
            screen.clear()

    return show


@contextlib.contextmanager
def _uncaptured(config: pytest.Config) -> Iterator[TextIO]:
    capture = config.pluginmanager.get_plugin("capturemanager")
    with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
        yield sys.stdout
