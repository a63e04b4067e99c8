"""Processes of ours: other handlers of signals for a while, and what a child is started with."""

from __future__ import annotations

import contextlib
import os
import signal
import site
from collections.abc import Callable, Container, Iterator, Mapping
from pathlib import Path
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


def environment_for_ours(without: Container[str] = ()) -> dict[str, str]:
    """This process's environment for a child of the same Python, which finds this package in it,
    also where that is a checkout.

    Args:
        without: variables that are not passed on.
    """
    environment = {name: value for name, value in os.environ.items() if name not in without}
    root = str(Path(__file__).parents[2])
    if root not in (*site.getsitepackages(), site.getusersitepackages()):
        given = os.environ.get("PYTHONPATH")
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (given, root)))
    return environment
