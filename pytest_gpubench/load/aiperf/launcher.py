"""Starts AIPerf with the server's key, which would stand in its command line otherwise.

Run by the interpreter that AIPerf is installed in: ``PYTHON launcher.py profile --...``. The key is
taken out of the environment and handed to AIPerf's own parser within the process; neither this
process nor those that AIPerf starts have it among their arguments. It imports nothing of ours.
"""

from __future__ import annotations

import os
import sys

KEY = "GPUBENCH_TOOL_API_KEY"


def main() -> None:
    """AIPerf's own command line, by its own name."""
    del sys.path[0]  # the folder of this file, whose names would hide others
    key = os.environ.pop(KEY, "")
    sys.argv = ["aiperf", *sys.argv[1:], *([f"--api-key={key}"] if key else [])]
    from aiperf.cli import app  # type: ignore[import-not-found]

    sys.exit(app())


if __name__ == "__main__":  # the processes that AIPerf starts import this file, too
    main()
