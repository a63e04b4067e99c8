"""The fault suite itself: whole, and not blind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SUITE = Path(__file__).parents[2] / "experiments" / "faults"

_BLIND = """
import subprocess, sys
from pathlib import Path
import harness, run

harness.SETTLE_SECONDS = 0.5
folder = Path(sys.argv[1])

def inject(folder):
    subprocess.Popen(["sleep", "60"], env=harness.own_environment(folder), start_new_session=True)
    while not harness.marked(folder):
        pass  # in the middle of its exec it has no environment yet
    (folder / "leases").mkdir()
    (folder / "leases" / "host.lease").touch()
    return harness.Observed("killed", "infrastructure", seconds=7.0, exit_code=1, problems=["the finished result of c is lost"])

row = run.inject(harness.Fault("x", inject, "engine-died", "engine", 2, within=5.0), folder / "wrong")
print(*row.wrong, sep="\\n")

def raise_error(folder):
    raise AssertionError("not within 60 s: a verdict")

print(*run.inject(harness.Fault("y", raise_error), folder / "broken").wrong, sep="\\n")
good = lambda folder: harness.Observed("killed", "infrastructure", seconds=4.0, exit_code=1)
print("good:", run.inject(harness.Fault("z", good, "killed", "infrastructure", 1, within=5.0), folder / "good").wrong)
"""


def test_at_least_thirty_faults_each_once() -> None:
    listed = subprocess.run(
        [sys.executable, str(SUITE / "run.py"), "--list"],
        capture_output=True,
        text=True,
        check=True,
    )
    names = listed.stdout.splitlines()
    assert len(names) >= 30
    assert len(set(names)) == len(names)


def test_the_suite_sees_what_is_wrong(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _BLIND, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=SUITE)
    assert done.stdout.splitlines() == [
        "the finished result of c is lost",
        *(
            line
            for line in done.stdout.splitlines()
            if line.startswith("left behind: process ") and line.endswith(" sleep 60")
        ),
        "left behind: lease host.lease",
        "named killed (infrastructure) instead of engine-died (engine)",
        "exit code 1 instead of 2",
        "7.0 s instead of at most 5 s",
        "AssertionError: not within 60 s: a verdict",
        "named ? () instead of none ()",
        "good: []",
    ]
    assert done.stdout.count("left behind: process ") == 1
