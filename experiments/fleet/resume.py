"""Kills a sweep of the tiny recipes in the middle and lets it go on with ``--gpubench-reuse``.

    python experiments/fleet/resume.py FOLDER [AFTER]

Starts the real CPU engine on every tiny CPU recipe, sends SIGKILL to pytest once AFTER case records
(default 4) are written, runs the same selection again and says what was measured twice and what was
lost (nothing, or the exit code is 1).
"""

from __future__ import annotations

import collections
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

from pytest_gpubench.report.read_results import load_results

SELECTION = ["benchmarks", "-k", "tiny and cpu", "-q", "--no-header"]


def main() -> int:
    """Run the experiment; the exit code is 0 where nothing was measured twice and nothing lost."""
    folder, after = Path(sys.argv[1]).resolve(), int(sys.argv[2]) if len(sys.argv) > 2 else 4
    results = folder / "results"
    command = [sys.executable, "-m", "pytest", *SELECTION, f"--gpubench-results={results}"]
    plan = folder / "plan.json"
    subprocess.run([*command, f"--gpubench-plan={plan}"], check=True, stdout=subprocess.DEVNULL)
    wanted = {case["id"] for case in json.loads(plan.read_text())["cases"] if case["runnable"]}
    first = subprocess.Popen(command)
    while first.poll() is None and len(list(results.glob("*/*/*-c*/launch-1.json"))) < after:
        time.sleep(0.2)
    first.send_signal(signal.SIGKILL)
    print(f"killed: {first.wait()}", flush=True)
    kept = [
        case.case for case in load_results([results]).cases() if case.verdict or case.measurement
    ]
    second = subprocess.run(
        [*command, "--gpubench-reuse", f"--gpubench-report={folder / 'report.html'}"], check=False
    )
    loaded = load_results([results])
    measured = collections.Counter(
        case.case for case in loaded.cases() if not case.reused_from and case.measurement
    )
    last = max(loaded.runs, key=lambda run: run.name)
    reused = [case.case for case in last.cases if case.reused_from]
    twice = [case for case, count in measured.items() if count > 1]
    lost = sorted(wanted - {case.case for case in last.cases})
    print(
        f"cases {len(wanted)}, before the kill {len(kept)}, reused {len(reused)}, "
        f"second run's exit code {second.returncode}"
    )
    print(
        f"starts of servers: {sum(1 for _ in loaded.inits())}; measured twice: {twice}; "
        f"lost: {lost}"
    )
    return 1 if twice or lost or set(reused) != set(kept) or second.returncode else 0


if __name__ == "__main__":
    sys.exit(main())
