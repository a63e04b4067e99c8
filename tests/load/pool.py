"""Load workers that the tests of this process share, as the cases of a run do: each imports for
most of a second."""

from __future__ import annotations

import atexit

from pytest_gpubench.load.workers import WorkerPool

POOL = WorkerPool()
atexit.register(POOL.close)
