"""A vLLM plugin that makes every step of the engine longer by a share: a loss that is really lost,
where a proxy that holds answers back is partly made up for by an emptier batch.

    python experiments/gate/slower_steps.py FOLDER

writes it into FOLDER; an engine started with FOLDER on PYTHONPATH loads it. Before each step it
reads the share from the file that SLOWER_STEPS names (0.05: 5% longer), so one server can be
measured as it is and slowed: it waits a share of what steps of such a batch took from one start to
the next. On a GPU both the device and the process wait: with asynchronous scheduling the slower of
the two sets the pace, and a wait of the other is lost in its idle time. "0.05 device" makes the
device alone wait, which is such a wait where the host is the slower one.
"""

from __future__ import annotations

import sys
from pathlib import Path

_PLUGIN = '''
import collections
import os
import statistics
import time

CLOCK_HZ = 1.98e9  # of the counter that torch.cuda._sleep waits for: Hopper under load
KEPT = 32


class Host:
    """Time on a CPU: the process waits."""

    def stamp(self):
        return time.perf_counter()

    def passed(self, stamp):
        return True

    def between(self, one, other):
        return other - one

    def wait(self, seconds, device_only=False):
        time.sleep(seconds)


class Cuda:
    """Time on a GPU's stream: the device waits."""

    def __init__(self):
        from torch import cuda

        self.cuda = cuda

    def stamp(self):
        event = self.cuda.Event(enable_timing=True)
        event.record()
        return event

    def passed(self, stamp):
        return stamp.query()

    def between(self, one, other):
        return one.elapsed_time(other) / 1e3

    def wait(self, seconds, device_only=False):
        self.cuda._sleep(int(seconds * CLOCK_HZ))
        until = time.perf_counter() + (0.0 if device_only else seconds)
        while time.perf_counter() < until:  # sleep() would be later by a tenth of a millisecond
            pass


class Steps:
    """How long steps take, from one start to the next and without what was added, by the size of
    their batch."""

    def __init__(self, clock):
        self.clock = clock
        self.seen = collections.defaultdict(lambda: collections.deque(maxlen=KEPT))
        self.open = collections.deque()  # (stamp of the start, size, seconds added) of a step

    def begin(self, tokens, share, device_only):
        while len(self.open) > 1 and self.clock.passed(self.open[1][0]):
            start, size, added = self.open.popleft()
            self.seen[size].append(self.clock.between(start, self.open[0][0]) - added)
        # Steps that read prompts are longer than steps that write: a doubling is a class.
        size = tokens.bit_length()
        # The median: a wait for the next request is no part of a step.
        added = share * statistics.median(self.seen[size]) if self.seen[size] else 0.0
        self.open.append((self.clock.stamp(), size, added))
        if added > 0:
            self.clock.wait(added, device_only)


def install():
    """Wrap the worker of this process: its steps, whichever runner makes them."""
    if not os.environ.get("SLOWER_STEPS"):
        return
    from vllm.v1.worker.worker_base import WorkerWrapperBase

    run = WorkerWrapperBase.execute_model
    if getattr(run, "slowed", False):
        return
    kept = []

    def share():
        try:
            with open(os.environ["SLOWER_STEPS"]) as file:
                words = file.read().split()
            return float(words[0]), "device" in words
        except (OSError, ValueError, IndexError):
            return 0.0, False

    def slowed(self, scheduler_output):
        if not kept:
            kept.append(Steps(Cuda() if self.worker.device.type == "cuda" else Host()))
        tokens = scheduler_output.total_num_scheduled_tokens
        if tokens:
            kept[0].begin(tokens, *share())
        return run(self, scheduler_output)

    slowed.slowed = True
    WorkerWrapperBase.execute_model = slowed
'''
_POINTS = "[vllm.general_plugins]\nslower_steps = slower_steps_plugin:install\n"


def write_plugin(folder: Path) -> None:
    """Write plugin and entry point into a folder."""
    about = folder / "slower_steps-0.0.0.dist-info"
    about.mkdir(parents=True, exist_ok=True)
    (folder / "slower_steps_plugin.py").write_text(_PLUGIN)
    (about / "entry_points.txt").write_text(_POINTS)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: slower-steps\nVersion: 0.0.0\n")


if __name__ == "__main__":
    write_plugin(Path(sys.argv[1]))
