"""The one line that tells how far the running case is: phase, requests, tokens per second now, time left."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field

from pytest_gpubench.report.numbers import seconds

_TOKENS = "vllm:generation_tokens_total"
_WINDOW = 6.0
"""Seconds over which the rate is taken."""
_WORDS = {"prompts": "making prompts", "warmup": "warm-up", "measured": "measuring"}


@dataclass
class LiveCase:
    """What is known of the running case; ``now`` is any monotonic clock in seconds. Safe to feed from two threads."""

    label: str
    conc: int = 1
    duration: float | None = None
    """Seconds after which no request is sent, where the workload has such a limit."""
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
        found = [line.rpartition(" ")[2] for line in text.splitlines() if line.startswith(_TOKENS)]
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
            rate, left = self._rate(now), self._left(now)
        if rate is not None:
            parts.append(f"{rate:,.0f} tok/s")
        if left is not None:
            parts.append(f"about {seconds(round(left))} left")
        words = "  ".join(parts)
        room = width - len(words) - 3
        if room < 12:
            return words[: max(0, width - 1)]
        label = self.label if len(self.label) <= room else f"…{self.label[-(room - 1) :]}"
        return f"{label}  {words}"

    def _rate(self, now: float) -> float | None:
        if self._stage == "prompts" or len(self._counts) < 2 or now - self._counts[-1][0] > 2 * _WINDOW:
            return None
        (start, low), (end, high) = self._counts[0], self._counts[-1]
        return (high - low) / (end - start) if end > start else None

    def _left(self, now: float) -> float | None:
        """None while there is too little to go by: a wrong number is worse than none."""
        if self._stage != "measured" or not self._total:
            return None
        spent = now - self._since
        if self._done >= self._total or spent <= 0:
            return None
        # The first answers of a closed loop all come at once, after one whole latency.
        known = self._done >= max(2 * self.conc, 3) or self._done >= self._total / 2
        by_count = spent / self._done * (self._total - self._done) if known else None
        by_time = max(0.0, self.duration - spent) if self.duration is not None else None
        return min((left for left in (by_count, by_time) if left is not None), default=None)
