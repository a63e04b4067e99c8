"""The live line on a terminal: shown below pytest's own line while a server starts, is warmed up
and measured, and gone without a trace afterwards."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TextIO

import pytest

from pytest_gpubench.dialects.registry import dialect_of
from pytest_gpubench.engines.process import LaunchProgress
from pytest_gpubench.model.cases import Case
from pytest_gpubench.model.printing import for_terminal
from pytest_gpubench.runs.live_line import (
    Line,
    LiveCase,
    Showing,
    Shows,
    ShowsLaunch,
    launch_text,
    nothing,
)


class Screen:
    """Draws one line below the cursor and takes it away again.

    With ``control`` (a terminal that was not told to be plain) the cursor returns to where it was;
    without it the line stands in a line of its own, drawn with carriage returns and spaces only.
    """

    def __init__(
        self,
        opened: Callable[[], AbstractContextManager[TextIO]],
        *,
        control: bool,
        columns: Callable[[], int] = lambda: shutil.get_terminal_size().columns,
    ) -> None:
        self._opened = opened
        self._control = control
        self._columns = columns
        self._drawn = 0
        self._shown = False

    def draw(self, line: Line) -> None:
        """Show the line in place of the last one."""
        # Of a terminal that is gone SIGHUP tells; until then a case is measured as before.
        with contextlib.suppress(OSError), self._opened() as file:
            # Asked in here: to who asks while pytest captures, every terminal has 80 columns.
            width = self._columns()
            text = line(width)[: width - 1]
            # Down and up again, so that there is a line below even at the bottom of the screen;
            # then remember the place.
            start = "\r" if self._shown or not self._control else "\x1bD\x1b[1A\x1b7\r\n"
            file.write(start + text + " " * max(0, self._drawn - len(text)))
            file.flush()
            self._drawn, self._shown = len(text), True

    def clear(self) -> None:
        """Leave no trace."""
        if self._shown:
            with contextlib.suppress(OSError), self._opened() as file:
                file.write("\r" + " " * self._drawn + "\r" + ("\x1b8" if self._control else ""))
                file.flush()
        self._drawn, self._shown = 0, False


def shows_of(config: pytest.Config) -> Shows:
    """How this run shows its cases: nothing without a terminal, in a worker of xdist, under ``-q
    -q`` and with ``TERM=dumb``."""
    reporter = _terminal(config)
    if reporter is None:
        return nothing

    @contextlib.contextmanager
    def show(case: Case) -> Iterator[Showing]:
        with _screen(config, reporter) as screen:
            rate = dialect_of(case.identity.framework).counters.rate
            live = LiveCase(case.id, case.workload.conc, case.workload.duration, rate)
            yield Showing(live, screen.draw)

    return show


def launches_of(config: pytest.Config) -> ShowsLaunch:
    """How this run shows the launches of its servers: where it shows its cases."""

    @contextlib.contextmanager
    def show(server: str) -> Iterator[Callable[[LaunchProgress], None] | None]:
        # Not asked before: the pool of servers can be older than the terminal's reporter.
        reporter = _terminal(config)
        if reporter is None:
            yield None
            return
        with _screen(config, reporter) as screen:
            yield lambda progress: screen.draw(functools.partial(launch_text, server, progress))

    return show


def _terminal(config: pytest.Config) -> pytest.TerminalReporter | None:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    unseen = (
        reporter is None
        or config.get_verbosity() <= -2
        or hasattr(config, "workerinput")
        or not reporter.isatty
        or os.environ.get("TERM") == "dumb"
    )
    return None if unseen else reporter


@contextlib.contextmanager
def _screen(config: pytest.Config, reporter: pytest.TerminalReporter) -> Iterator[Screen]:
    control = bool(reporter.hasmarkup)
    if not control:
        reporter.ensure_newline()
    reporter.flush()
    screen = Screen(lambda: _uncaptured(config), control=control)
    try:
        yield screen
    finally:
        screen.clear()


@contextlib.contextmanager
def _uncaptured(config: pytest.Config) -> Iterator[TextIO]:
    capture = config.pluginmanager.get_plugin("capturemanager")
    with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
        yield sys.stdout


def say(config: pytest.Config, text: str) -> None:
    """A line for the person at the terminal, now, whatever pytest captures; from a worker of xdist
    it goes to stderr."""
    text = for_terminal(text)
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    with _uncaptured(config):
        if hasattr(config, "workerinput"):  # a worker's reporter writes to nowhere
            print(f"\ngpubench: {text}", file=sys.stderr, flush=True)
        elif reporter is not None:
            reporter.ensure_newline()
            reporter.write_line(f"gpubench: {text}")
            reporter.flush()
