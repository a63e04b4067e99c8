"""An engine that says what a real one once said, line by line, and then neither exits nor answers.

python replay_engine.py LOG [any flags of a server]
"""

from __future__ import annotations

import sys
import time
from pathlib import Path


def main() -> None:
    """Print the log up to its first illegal memory access and the traceback around it, then
    hang."""
    lines = Path(sys.argv[1]).read_text().splitlines()
    last = next(number for number, line in enumerate(lines) if "illegal memory access" in line)
    for line in lines[: last + 8]:
        print(line, flush=True)
        time.sleep(0.002)
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()
