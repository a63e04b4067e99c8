"""What reading weights ahead saves of a start: pairs of starts from a cold page cache.

    python experiments/hardware/read_ahead.py MODEL_FOLDER --command "python -m vllm.entrypoints.cli.main serve"

Each round starts the server without and with, in turns (A B B A); before each start the model's
weights are dropped from the page cache.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import tempfile
from pathlib import Path

from pytest_gpubench.engines.lifecycle import EngineSettings, start_engine
from pytest_gpubench.host.hub.local import reading_ahead, weight_paths
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.specs import ServerSpec, Topology


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--command", required=True, type=shlex.split)
    parser.add_argument("--hardware", default="cpu")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    paths = weight_paths(options.model)
    serve = {"dtype": "bfloat16", "max-model-len": 512, "enforce-eager": True}
    spec = ServerSpec("vllm", str(options.model), options.hardware, Topology(), FrozenMap(serve))
    size = sum(path.stat().st_size for path in paths) / 2**30
    print(f"{size:.2f} GiB of weights, load average {os.getloadavg()[0]:.1f}")
    print("| Read ahead | ready after, s | weights, s |\n|---|---|---|")
    for ahead in [False, True, True, False] * options.rounds:
        for path in paths:
            _drop(path)
        with tempfile.TemporaryDirectory() as folder:
            settings = EngineSettings(
                tuple(options.command),
                Path(folder, "log"),
                extra_env={"VLLM_CPU_KVCACHE_SPACE": "1"},
            )
            with reading_ahead(paths) if ahead else contextlib.nullcontext():
                engine = start_engine(spec, settings)
            told = engine.phases
            engine.stop()
        words = "yes" if ahead else "no"
        print(f"| {words} | {told['ready']:.1f} | {told.get('weights', 0):.2f} |", flush=True)


def _drop(path: Path) -> None:
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    main()
