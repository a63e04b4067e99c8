"""The experiments are scripts, in no package that is installed."""

from __future__ import annotations

import sys
from pathlib import Path

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
sys.path += [str(EXPERIMENTS / name) for name in ("demo_pair", "gate", "hardware")]
