"""Python's garbage collector and thousands of cases: they are no garbage, and looking through them
again and again costs."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused() -> Iterator[None]:
    """No collections while many objects are made that all stay."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def spare_what_stays() -> None:
    """Leave modules and recipes, which live as long as the process, out of later collections and of
    the one at exit.

    Once per process: where several runs share one (pytester), a second call would also keep the
        garbage of the first.
    """
    if not gc.get_freeze_count():
        gc.freeze()
