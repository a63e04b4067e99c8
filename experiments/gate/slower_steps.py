"""A vLLM plugin that makes every step of the engine longer by a share: a loss that is really lost,
where a proxy that holds answers back is partly made up for by an emptier batch.

    python experiments/gate/slower_steps.py FOLDER

writes it into FOLDER; an engine started with FOLDER on PYTHONPATH loads it. Before each step it
reads the share from the file that SLOWER_STEPS names (0.05: 5% longer), so one server can be
measured as it is and slowed. On a GPU the device itself waits, after the step's kernels; on a CPU
the process does.
"""

from __future__ import annotations

import sys
from pathlib import Path

_PLUGIN = '''
import os
import time


def install():
    """Wrap the model runner of this process, whichever it has."""
    if not os.environ.get("SLOWER_STEPS"):
        return
    from vllm.v1.worker import gpu_model_runner

    runner = gpu_model_runner.GPUModelRunner
    run = runner.execute_model
    if getattr(run, "slowed", False):
        return

    def share():
        try:
            with open(os.environ["SLOWER_STEPS"]) as file:
                return float(file.read())
        except (OSError, ValueError):
            return 0.0

    state = {"mean": 0.0}

    def slowed(self, *arguments, **named):
        import torch

        extra = share()
        if self.device.type != "cuda":
            began = time.perf_counter()
            made = run(self, *arguments, **named)
            time.sleep(extra * (time.perf_counter() - began))
            return made
        before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        before.record()
        made = run(self, *arguments, **named)
        after.record()
        last = state.pop("events", None)
        if last is not None and last[1].query():
            took = last[0].elapsed_time(last[1]) / 1e3
            state["mean"] = took if not state["mean"] else 0.8 * state["mean"] + 0.2 * took
        state["events"] = (before, after)
        if extra:
            torch.cuda._sleep(int(extra * state["mean"] * CLOCK_HZ))
        return made

    slowed.slowed = True
    runner.execute_model = slowed


CLOCK_HZ = 1.98e9
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
