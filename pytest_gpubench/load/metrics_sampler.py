"""Looks at ``/metrics`` while the load runs: in the parent's process, so that the measuring loop never waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

WATCHED = (
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
    "vllm:num_preemptions_total",
    "vllm:generation_tokens_total",
)
"""What is kept of a page; the rest, some 100 kB, is dropped at once."""


_MAX_PAGE = 2**20
"""Characters of a page that are kept: a server of 64 engines has some 40,000."""


class Sampler:
    """Fetches the page every ``interval`` seconds from ``start`` to ``stop``; a page that cannot be had is left out."""

    def __init__(self, fetch: Callable[[], str], interval: float) -> None:
        self._fetch = fetch
        self._interval = interval
        self._pages: list[tuple[int, str]] = []
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics-sampler", daemon=True)
        self._started = False

    def start(self) -> None:
        """Begin; later calls do nothing."""
        if not self._started:
            self._started = True
            self._thread.start()

    def stop(self) -> tuple[tuple[int, str], ...]:
        """End, and return the pages with the times (``monotonic_ns``) at which they were asked for."""
        self._leave.set()
        if self._started:
            self._thread.join(timeout=10)
        return tuple(self._pages)

    def _run(self) -> None:
        while not self._leave.is_set():
            asked_ns = time.monotonic_ns()
            try:
                page = self._fetch()
            except Exception:  # noqa: BLE001  # a busy or dying server: whoever watches the server says so
                page = ""
            kept = "\n".join(line for line in page.splitlines() if line.startswith(WATCHED))
            if kept and len(kept) <= _MAX_PAGE:
                self._pages.append((asked_ns, kept + "\n"))
            self._leave.wait(max(0.0, self._interval - (time.monotonic_ns() - asked_ns) / 1e9))
