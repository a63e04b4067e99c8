"""The loopback engine on a host whose speed wanders: by launch (normal, 0.5%) and by day
(GATE_DAY=0.01: 1% slower).

    python wandering_engine.py [FLAGS]

GATE_STRETCH=0.03 makes every gap between tokens 3% longer. It stands for an engine where the
machine at hand is too restless for the difference that is to be found; client, plugin and gate are
the real ones.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

STUB = Path(__file__).resolve().parents[2] / "tests" / "stub_engine.py"
TTFT, TOKEN_TIME, LAUNCH_SPREAD = 0.05, 0.004, 0.005


def main() -> None:
    """Become the engine, with the speed of this launch."""
    day, stretch = (float(os.environ.get(name, "0")) for name in ("GATE_DAY", "GATE_STRETCH"))
    launch = random.SystemRandom().gauss(0.0, LAUNCH_SPREAD)
    speed = (1 + day) * (1 + launch)
    print(f"this launch: {launch:+.3%}, this day: {day:+.1%}, planted: {stretch:+.1%}", flush=True)
    os.environ["GPUBENCH_STUB_TTFT"] = str(TTFT * speed)
    os.environ["GPUBENCH_STUB_TOKEN_TIME"] = str(TOKEN_TIME * speed * (1 + stretch))
    os.execv(sys.executable, [sys.executable, str(STUB), "serve", *sys.argv[1:]])


if __name__ == "__main__":
    main()
