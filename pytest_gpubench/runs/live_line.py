"""The live line of a run: what it says while a server starts, is warmed up and measured."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TypeAlias

from pytest_gpubench.engines.process import LaunchProgress
from pytest_gpubench.load.protocol import Progress
from pytest_gpubench.model.cases import Case
from pytest_gpubench.model.printing import for_terminal
from pytest_gpubench.report.numbers import seconds

_WINDOW = 6.0
"""Seconds over which the rate is taken."""
_WORDS = {"prompts": "making prompts", "warmup": "warm-up", "measured": "measuring"}


@dataclass
class LiveCase:
    """What is known of the running case; ``now`` is any monotonic clock in seconds. Safe to feed
    from two threads."""

    label: str
    conc: int = 1
    duration: float | None = None
    """Seconds after which no request is sent, where the workload has such a limit."""
    counted: tuple[str, ...] = ()
    """Metrics whose sum grows with every output token."""
    _stage: str = ""
    _done: int = 0
    _total: int = 0
    _since: float = 0.0
    _counts: deque[tuple[float, float]] = field(default_factory=deque)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def progress(self, stage: str, done: int, total: int, now: float) -> None:
        """The load generator's progress."""
        with self._lock:
            if stage != self._stage:
                self._stage, self._since = stage, now
            self._done, self._total = done, total

    def page(self, text: str, now: float) -> None:
        """A page of ``/metrics``: its token counter gives the rate."""
        wanted = [name.rstrip("}").partition("{") for name in self.counted]
        found = [
            line.rpartition(" ")[2]
            for line in text.splitlines()
            if any(line.startswith(name) and label in line for name, _, label in wanted)
        ]
        try:
            count = sum(map(float, found))
        except ValueError:
            return
        if not found:
            return
        with self._lock:
            if self._counts and count < self._counts[-1][1]:
                self._counts.clear()  # the engine started again
            self._counts.append((now, count))
            while len(self._counts) > 2 and now - self._counts[0][0] > _WINDOW:
                self._counts.popleft()

    def text(self, now: float, width: int = 80) -> str:
        """The line, no longer than the terminal is wide."""
        with self._lock:
            parts = [_WORDS.get(self._stage, "starting")]
            if self._total:
                parts[0] += f" {self._done:,}/{self._total:,}"
            elif self._done:  # of a trace that a tool replays
                parts[0] += f" {self._done:,}"
            rate, left = self._rate(now), self._left(now)
        if rate is not None:
            parts.append(f"{rate:,.0f} tok/s")
        if left is not None and left >= 0.5:
            parts.append(f"about {seconds(round(left))} left")
        words = "  ".join(parts)
        room = width - len(words) - 3
        if room < 12:
            return words[: max(0, width - 1)]
        label = self.label if len(self.label) <= room else f"…{self.label[-(room - 1) :]}"
        return f"{label}  {words}"

    def _rate(self, now: float) -> float | None:
        if (
            self._stage == "prompts"
            or len(self._counts) < 2
            or now - self._counts[-1][0] > 2 * _WINDOW
        ):
            return None
        (start, low), (end, high) = self._counts[0], self._counts[-1]
        return (high - low) / (end - start) if end > start else None

    def _left(self, now: float) -> float | None:
        """None while there is too little to go by: a wrong number is worse than none."""
        if self._stage != "measured":
            return None
        spent = now - self._since
        if not self._total:
            return None if self.duration is None else max(0.0, self.duration - spent)
        if self._done >= self._total or spent <= 0:
            return None
        # The first answers of a closed loop all come at once, after one whole latency.
        known = self._done >= max(2 * self.conc, 3) or self._done >= self._total / 2
        by_count = spent / self._done * (self._total - self._done) if known else None
        by_time = max(0.0, self.duration - spent) if self.duration is not None else None
        return min((left for left in (by_count, by_time) if left is not None), default=None)


_EVERY = 1.0
"""Seconds between updates: the line must not take time from the client that is measured beside
it."""


Line: TypeAlias = Callable[[int], str]
"""Given the terminal's columns, a line that is no longer."""


class Showing:
    """A case that is being shown; with no drawing function it only swallows what it is told."""

    def __init__(
        self,
        live: LiveCase,
        draw: Callable[[Line], None] | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
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
            self._draw(functools.partial(self._live.text, now))

    def page(self, text: str) -> str:
        """A page of ``/metrics``, which is handed on as it came."""
        if self._draw is not None:
            self._live.page(text, self._clock())
        return text


Shows = Callable[[Case], AbstractContextManager[Showing]]
ShowsLaunch = Callable[[str], AbstractContextManager[Callable[[LaunchProgress], None] | None]]
"""Given a server's key, what is told how far its launch is; None where nobody looks."""


@contextlib.contextmanager
def nothing(case: Case) -> Iterator[Showing]:
    """What shows nothing."""
    yield Showing(LiveCase(case.id), None)


@contextlib.contextmanager
def launch_unseen(_server: str) -> Iterator[None]:
    """What shows nothing of a launch."""
    yield None


def launch_text(server: str, progress: LaunchProgress, width: int = 80) -> str:
    """The line of a launch, no longer than the terminal is wide: compilers that run, which can take
    minutes without a word in the log; else the log's newest line."""
    doing = progress.line
    if progress.compilers:
        doing = f"compiling kernels ({', '.join(progress.compilers)})"
    # A progress bar's line holds all its states; a log is anybody's text. In ASCII a character is a
    # column wide: a line that wraps would leave a trace.
    doing = for_terminal(doing.rpartition("\r")[2]).encode("ascii", "replace").decode()
    text = f"{server}  {progress.stage}, {progress.elapsed:.0f} s  {doing}"
    return text[: max(0, width - 1)].rstrip()
