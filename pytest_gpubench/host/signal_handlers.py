"""Other handlers of signals, for a while."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import TypeAlias

Handler: TypeAlias = Callable[[int, FrameType | None], object] | signal.Handlers


@contextlib.contextmanager
def handled(handlers: Mapping[signal.Signals, Handler]) -> Iterator[None]:
    """Within the block these signals have these handlers; outside the main thread, which alone is
    told of signals, nothing changes."""
    before = {}
    try:
        for number, handler in handlers.items():
            before[number] = signal.signal(number, handler)
    except ValueError:  # not the main thread: the embedding program owns the signals
        pass
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
