"""Faults of the run itself: signals, killed processes, leases that others left, two runs at once, a
clock that jumps."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from harness import REPOSITORY, STUB, Fault, Observed, fill, kill, marked, small_disk
from project import ONE_SERVER, SLOW, Project, Run

from pytest_gpubench.host.leases.owners import this_place

_MEASURING = {"GPUBENCH_STUB_TOKEN_TIME": "2"}


def _ended(run: Run, event: float, finished: dict[str, str] | None = None) -> Observed:
    """Wait for pytest's end and say what the cut case's record says."""
    seen = run.end(finished=finished)
    seen.seconds = time.monotonic() - event
    failure = run.failure()
    if failure is not None:
        seen.cause, seen.whose = failure["cause"], failure["failure_class"]
    return seen


def _signalled(number: signal.Signals) -> Callable[[Path], Observed]:
    def inject(folder: Path) -> Observed:
        run = Project(folder).start(*ONE_SERVER, env=SLOW)
        finished = run.until_second_case()
        return _ended(run, kill(psutil.Process(run.process.pid), number), finished)

    return inject


def _signalled_at_start(number: signal.Signals) -> Callable[[Path], Observed]:
    def inject(folder: Path) -> Observed:
        run = Project(folder).start(*ONE_SERVER, env={"GPUBENCH_STUB_LOAD": "60"})
        run.until_logged("Initializing a V1 LLM engine")
        return _ended(run, kill(psutil.Process(run.process.pid), number))

    return inject


def _ctrl_c_on_full_disk(folder: Path) -> Observed:
    with small_disk(folder / "disk", 4) as disk:
        run = Project(folder).start(*ONE_SERVER, results=disk / "results", env=SLOW)
        finished = run.until_second_case()
        fill(disk)
        seen = _ended(run, kill(psutil.Process(run.process.pid), signal.SIGINT), finished)
    seen.note = "the interrupt is not lost with the record"
    return seen


def _ctrl_c_twice(folder: Path) -> Observed:
    """The second one comes while the server, which ignores SIGTERM, is being stopped."""
    run = Project(folder).start(*ONE_SERVER, fault="ignore-sigterm", env=SLOW)
    finished = run.until_second_case()
    process = psutil.Process(run.process.pid)
    event = kill(process, signal.SIGINT)
    run.until(
        "the end of the load worker", lambda: not run.processes("pytest_gpubench.load.worker")
    )
    time.sleep(1.0)
    with contextlib.suppress(psutil.NoSuchProcess):
        kill(process, signal.SIGINT)
    return _ended(run, event, finished)


def _killed(folder: Path) -> Observed:
    run = Project(folder).start(*ONE_SERVER, env=SLOW)
    finished = run.until_second_case()
    event = kill(psutil.Process(run.process.pid))
    run.process.wait()
    return _gone(run, folder, event, finished)


def _killed_at_start(folder: Path) -> Observed:
    run = Project(folder).start(*ONE_SERVER, env={"GPUBENCH_STUB_LOAD": "60"})
    run.until_logged("Initializing a V1 LLM engine")
    event = kill(psutil.Process(run.process.pid))
    run.process.wait()
    return _gone(run, folder, event, {})


def _gone(run: Run, folder: Path, event: float, finished: dict[str, str]) -> Observed:
    """Time until the server's tree has ended by itself; then the next run must find a free host."""
    while marked(folder) and time.monotonic() - event < 30:
        time.sleep(0.05)
    seen = Observed(seconds=time.monotonic() - event, exit_code=run.process.returncode)
    if left := marked(folder):
        seen.problems.append(f"still there after 30 s: {left}")
    if (now := run.measured()) != finished:
        seen.problems.append(f"finished results were {sorted(finished)}, are {sorted(now)}")
    leases = [path.name for path in (folder / "leases").glob("*.lease")]
    following = _next_run(folder, seen)
    seen.note = (
        f"all processes ended by themselves; {len(leases)} stale leases, removed by the "
        f"next run ({following:.0f} s)"
    )
    return seen


def _next_run(folder: Path, seen: Observed) -> float:
    """A run after the fault must be as any other; returns its seconds."""
    begin = time.monotonic()
    run = Project(folder).start(
        "-m", "tiny and not mtp and c1", name="next", results=folder / "next"
    )
    after = run.end()
    if after.exit_code != 0 or len(run.measured()) != 1:
        seen.problems.append(
            f"the next run ended with exit code {after.exit_code}: {run.text()[-600:]}"
        )
    return time.monotonic() - begin


def _strays(folder: Path) -> Observed:
    """pytest and the server's guard are killed, so nobody ends the engine's deaf core and worker:
    the next run must."""
    run = Project(folder).start(*ONE_SERVER, fault="ignore-sigterm", env=SLOW)
    finished = run.until_second_case()
    guard = run.guard()
    kill(psutil.Process(run.process.pid))
    event = kill(guard)
    run.process.wait()
    strays = [process for process in marked(folder) if "--role" in process.cmdline()]
    seen = Observed(exit_code=run.process.returncode)
    following = Project(folder).start(
        "-m", "tiny and not mtp and c1", name="next", results=folder / "next"
    )
    after = following.end()
    seen.seconds = time.monotonic() - event
    text = following.text()
    told = re.search(r"killed what run \S+ .* left behind on this host: .*", text)
    if len(strays) < 2 or told is None or after.exit_code != 0 or run.measured() != finished:
        seen.problems.append(
            f"{len(strays)} strays; the next run ended with {after.exit_code}: {text[-1500:]}"
        )
    seen.note = (
        f"{len(strays)} strays; the next run says: "
        f"{re.sub(r'[0-9]{8}T[0-9Z]+-', '', told[0]) if told else '?'}"
    )
    return seen


def _xdist_worker_killed(folder: Path) -> Observed:
    """Its server ends with it; xdist names the crashed test; the other server and the rest of this
    one go on."""
    run = Project(folder).start("-n2", "--gpubench-exclusive=no", fault="", env=SLOW)
    run.until("a finished case", run.measured)
    servers = run.until(
        "a guard",
        lambda: [
            process for process in run.processes(str(STUB)) if "--role" not in process.cmdline()
        ],
    )
    finished = run.measured()
    event = kill(psutil.Process(servers[0].ppid()).parent() or servers[0])
    seen = Observed()
    run.until("xdist's words", lambda: "crashed" in run.text())
    seen.seconds = time.monotonic() - event
    seen = run.end(seen, finished)
    outcome = re.findall(r"\d+ (?:passed|failed|errors?)", run.text().splitlines()[-1])
    seen.cause = "worker crashed" if "crashed while running" in run.text() else "?"
    seen.note = f"xdist's own words; {', '.join(outcome)}; the next run is as any other"
    if "1 failed" not in outcome or "5 passed" not in outcome:
        seen.problems.append(run.text()[-1500:])
    _next_run(folder, seen)
    return seen


def _stale_lease(content: str) -> Callable[[Path], Observed]:
    def inject(folder: Path) -> Observed:
        (folder / "leases").mkdir(mode=0o700)
        owner = {"pid": 4_000_000, "start": 1, "name": "pytest"}
        holder = {
            "unit": "host",
            "owner": owner,
            "place": this_place(),
            "run": "old",
            "server": "x",
            "since": "yesterday",
            "exclusive": True,
            "cpus": [0, 1],
            "processes": [owner],
        }
        for unit in ("host", "cpu-0-1"):
            (folder / "leases" / f"{unit}.lease").write_text(
                content or json.dumps(holder | {"unit": unit})
            )
        begin = time.monotonic()
        run = Project(folder).start("-m", "tiny and not mtp and c1")
        run.until("a server", lambda: run.processes(str(STUB)))
        seen = Observed(
            seconds=time.monotonic() - begin, note="seconds from pytest's start to the server's"
        )
        return run.end(seen)

    return inject


def _two_runs(folder: Path) -> Observed:
    """Both want the whole host: the second says whom it waits for, and goes on when the first has
    ended."""
    first = Project(folder).start(*ONE_SERVER, name="first", results=folder / "first", env=SLOW)
    first.until("a server", lambda: first.processes(str(STUB)))
    second = Project(folder).start(*ONE_SERVER, name="second", results=folder / "second", env=SLOW)
    event = time.monotonic()
    second.until("the second run's words", lambda: "waits: " in second.text())
    seen = Observed(seconds=time.monotonic() - event)
    together = 0
    while first.process.poll() is None:
        together += bool(first.processes(str(STUB)) and second.processes(str(STUB)))
        time.sleep(0.1)
    seen = second.end(seen)
    seen.note = (
        f"it says who is in the way, then both are measured: {len(first.measured())} and "
        f"{len(second.measured())} cases"
    )
    if together or first.process.returncode or len(first.measured()) + len(second.measured()) != 4:
        seen.problems.append(
            f"{together} times both servers at once; first run: {first.process.returncode}"
        )
    return seen


def _host_stays_busy(folder: Path) -> Observed:
    first = Project(folder).start(
        *ONE_SERVER, name="first", results=folder / "first", env=_MEASURING
    )
    first.until("a server", lambda: first.processes(str(STUB)))
    second = Project(folder).start(
        *ONE_SERVER, "--gpubench-start-timeout=3", name="second", results=folder / "second"
    )
    seen = second.observe(
        second.until("its words", lambda: time.monotonic() if "waits: " in second.text() else None)
    )
    if first.process.poll() is not None:
        seen.problems.append("the first run was disturbed")
    first.process.send_signal(signal.SIGINT)
    first.process.wait(30)
    return seen


_JUMPING = """
import os, time

_FLAG, _time, _time_ns = os.environ["GPUBENCH_CLOCK_JUMP"], time.time, time.time_ns


def _jump():
    if not os.path.exists(_FLAG):
        return 0
    open(f"{_FLAG}-{os.getpid()}", "w").close()
    return -86400


time.time = lambda: _time() + _jump()
time.time_ns = lambda: _time_ns() + _jump() * 10**9
"""


def _clock_jump(folder: Path) -> Observed:
    """In every Python process of the run, engine included, the wall clock jumps back by a day in
    the middle of the second case."""
    (folder / "clock").mkdir()
    (folder / "clock" / "sitecustomize.py").write_text(_JUMPING)
    flag = folder / "clock" / "jumped"
    path = f"{folder / 'clock'}:{REPOSITORY}"
    run = Project(folder).start(
        *ONE_SERVER, env=SLOW | {"PYTHONPATH": path, "GPUBENCH_CLOCK_JUMP": str(flag)}
    )
    finished = run.until_second_case()
    flag.touch()
    event = time.monotonic()
    seen = run.end(finished=finished)
    seen.seconds = time.monotonic() - event
    before, after = (json.loads(metrics) for _, metrics in sorted(run.measured().items()))
    shift = after["tpot_p50"] / before["tpot_p50"] - 1
    seen.note = f"both cases pass; TPOT before and across the jump differs by {shift:+.1%}"
    if len(list(flag.parent.glob("jumped-*"))) < 2:
        seen.problems.append("fewer than two processes saw the jump")
    if abs(shift) > 0.2 or not 0 < after["e2e_p99"] < 60 or not 0 < after["duration"] < 60:
        seen.problems.append(f"{after}")
    return seen


FAULTS = (
    Fault("SIGINT during a start", _signalled_at_start(signal.SIGINT), exit_code=2, within=15.0),
    Fault("SIGTERM during a start", _signalled_at_start(signal.SIGTERM), exit_code=2, within=15.0),
    Fault(
        "SIGINT while measuring", _signalled(signal.SIGINT), "interrupted", "client", 2, within=15.0
    ),
    Fault(
        "SIGTERM while measuring",
        _signalled(signal.SIGTERM),
        "interrupted",
        "client",
        2,
        within=15.0,
    ),
    Fault(
        "Ctrl-C twice, server ignores SIGTERM",
        _ctrl_c_twice,
        "interrupted",
        "client",
        2,
        within=15.0,
    ),
    Fault("SIGINT while the disk is full", _ctrl_c_on_full_disk, exit_code=2, within=15.0),
    Fault("SIGKILL of pytest during a start", _killed_at_start, exit_code=-9, within=15.0),
    Fault(
        "SIGKILL of pytest while measuring",
        _killed,
        exit_code=-9,
        within=15.0,
        may_leave="gpubench-load-",
    ),
    Fault(
        "SIGKILL of pytest and of the guard (strays)",
        _strays,
        exit_code=-9,
        within=60.0,
        may_leave="gpubench-load-",
    ),
    Fault(
        "xdist worker killed",
        _xdist_worker_killed,
        "worker crashed",
        "",
        1,
        within=15.0,
        may_leave="gpubench-load-",
    ),
    Fault("stale lease of a dead run", _stale_lease(""), exit_code=0, within=20.0),
    Fault(
        "lease file cut off by a power failure",
        _stale_lease('{"unit": "host", "ow'),
        exit_code=0,
        within=20.0,
    ),
    Fault("two runs at once on one host", _two_runs, exit_code=0, within=20.0),
    Fault(
        "a host that stays busy (start timeout 3 s)",
        _host_stays_busy,
        "host-busy",
        "infrastructure",
        1,
        within=12.0,
    ),
    Fault("wall clock jumps back by a day", _clock_jump, exit_code=0, within=60.0),
)
