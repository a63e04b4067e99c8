"""Faults on the metal: killed engines and a killed pytest give their memory back; running out of
memory has names."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
from context import Context, cases_of, job_of
from fleet import Outcome, fleet, gpus_now, say

from pytest_gpubench.engines.engine import Engine
from pytest_gpubench.host.gpus.inventory import Gpu
from pytest_gpubench.report.records import plain

_GIB = 1 << 30
_POLL = 0.05
_PATIENCE = 30.0
_BEFORE_CAPTURE = re.compile(r"kernel_warmup\.py|autotuner|Capturing")
"""Lines between the allocation of the KV cache and the capture of graphs."""
_RANK = re.compile(r"Worker_?(DP|TP|PP|EP)?\d*")
"""What the processes of a server's ranks call themselves."""


def memory() -> float:
    """GiB in use on all GPUs."""
    return sum(gpu.memory_used for gpu in gpus_now()) / _GIB


def until(condition: Callable[[], Any], limit: float = _PATIENCE) -> float | None:
    """Seconds until a condition held; None: it did not."""
    started = time.monotonic()
    while time.monotonic() - started < limit:
        if condition():
            return round(time.monotonic() - started, 2)
        time.sleep(_POLL)
    return None


def kill_engines(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """SIGKILL the worker of the first server and the API server of the second; both are then
    stopped."""
    rows = []
    for what, outcome in zip(("worker (EngineCore)", "API server"), outcomes, strict=False):
        if outcome.engine is not None:
            rows.append(_kill(what, outcome.engine))
            say(f"killed: {rows[-1]}")
    return rows


def kill_rank(context: Context) -> None:
    """SIGKILL one rank of a server on as many GPUs as the host has, of two, four and eight."""
    book = context.book()
    count = max((count for count in (1, 2, 4, 8) if count <= len(context.gpus)), default=1)
    wanted = f"m3mini-bf16-{context.hardware}-vllm-mtp-tp{count}"
    if context.hardware == "cpu":
        wanted = "tiny-bf16-cpu-vllm-tp1"
    case = next(case for case in book.cases if case.server == wanted)
    job = job_of(book, case, context.gpus)
    with fleet([job], context.folder("rank"), context.cache) as crowd:
        outcome = crowd[job.name].result()
        row = outcome.told()
        if outcome.engine is not None:
            row["kill"] = _kill("last rank", outcome.engine)
            say(f"killed: {row['kill']}")
    context.write("rank", {**row, "memory_gib_after": memory()})


def _victim(what: str, api: psutil.Process) -> psutil.Process:
    if what == "API server":
        return api
    ranks = [each for each in api.children(recursive=True) if _RANK.search(_title(each))]
    if what == "last rank" and ranks:
        return max(ranks, key=lambda each: _title(each))
    return _core(api)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join([process.name(), *process.cmdline()])
    except psutil.Error:
        return ""


def _kill(what: str, engine: Engine) -> dict[str, Any]:
    before = memory()
    process = engine.process
    assert process is not None  # we started it
    api = psutil.Process(process.pid)
    victim = _victim(what, api)
    title = _title(victim)[:80]
    tree = {each.pid for each in process.tree()}
    victim.kill()
    noticed = until(lambda: engine.alive() is not None)
    failure = engine.alive()
    report = engine.stop()
    gone = until(lambda: not any(psutil.pid_exists(pid) for pid in tree))
    lower = until(lambda: memory() < before - 0.5) if gpus_now() else None
    return {
        "killed": what,
        "title": title,
        "noticed_s": noticed,
        "failure": plain(failure),
        "stop_s": round(report.seconds, 2) if report else None,
        "processes_gone_s": gone,
        "memory_before_gib": round(before, 2),
        "memory_after_gib": round(memory(), 2),
        "memory_lower_s": lower,
    }


def _core(api: psutil.Process) -> psutil.Process:
    """The process that computes: the child that is no helper of multiprocessing's."""
    children = api.children(recursive=True)
    named = [
        child for child in children if "EngineCore" in " ".join([child.name(), *child.cmdline()])
    ]
    return (named or sorted(children, key=lambda child: -child.memory_info().rss))[0]


def step(context: Context) -> None:
    """Out of memory at capture, and SIGKILL of pytest in the middle of a case; a later step shows
    that the next run starts."""
    result: dict[str, Any] = {"level_gib": memory()}
    result["pytest"] = _kill_pytest(context)
    context.write("faults", result)
    if context.hardware != "cpu":
        result["capture"] = _out_of_memory_at_capture(context)
        result["level_after_capture_gib"] = memory()
        context.write("faults", result)


def _out_of_memory_at_capture(context: Context) -> dict[str, Any]:
    book = context.book()
    (case,) = cases_of(book, f"tiny-bf16-{context.hardware}-vllm-mtp-capture")
    job = job_of(book, case, context.gpus)
    words = [sys.executable, str(Path(__file__).with_name("balloon.py"))]
    with (
        subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as balloon,
        fleet([job], context.folder("faults"), context.cache) as crowd,
    ):
        assert balloon.stdin is not None  # it was asked for
        assert balloon.stdout is not None
        future = crowd[job.name]
        ready = balloon.stdout.readline().strip()
        log = context.folder("faults") / f"{job.name}.log"
        seen = until(
            lambda: (
                future.done()
                or (log.is_file() and _BEFORE_CAPTURE.search(log.read_text("utf-8", "replace")))
            ),
            300.0,
        )
        balloon.stdin.write("now\n")
        balloon.stdin.flush()
        taken = balloon.stdout.readline().strip()
        told = future.result().told()
        balloon.stdin.close()
    return {"balloon": ready, "taken": taken, "seen_s": seen, **told}


def _kill_pytest(context: Context) -> dict[str, Any]:
    """SIGKILL while requests are in flight: nobody is left to stop the engine but its guard."""
    level = memory()
    recipe = (
        "tiny-bf16-cpu-vllm-mtp"
        if context.hardware == "cpu"
        else f"tiny-bf16-{context.hardware}-vllm-mtp"
    )
    process = context.pytest_process(
        "faults", "-k", f"test_throughput and {recipe}-tp1", name="killed"
    )
    root = psutil.Process(process.pid)

    def measuring() -> bool:
        return process.poll() is not None or any(
            "gpubench.load.worker" in " ".join(_cmdline(each)) and _connected(each)
            for each in _tree(root)
        )

    seconds = until(measuring, 300.0)
    time.sleep(1.0)  # prompts are made first; wherever it is hit, it must leave nothing
    ended = process.poll()
    tree = {each.pid: " ".join(_cmdline(each))[:80] for each in _tree(root)}
    used = memory()
    root.kill()
    process.wait()
    gone = until(lambda: not [pid for pid in tree if _lives(pid)], 60.0)
    back = until(lambda: memory() <= level + 0.25, 60.0)
    say(f"pytest killed: {len(tree)} processes gone after {gone} s, memory back after {back} s")
    return {
        "measuring_after_s": seconds,
        "ended_before": ended,
        "processes": len(tree),
        "processes_gone_s": gone,
        "left": [words for pid, words in tree.items() if _lives(pid)],
        "memory_gib": {"before": level, "measuring": used, "after": memory()},
        "memory_back_s": back,
    }


def _tree(root: psutil.Process) -> list[psutil.Process]:
    try:
        return root.children(recursive=True)
    except psutil.Error:
        return []


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _connected(process: psutil.Process) -> bool:
    try:
        return bool(process.net_connections("tcp"))
    except psutil.Error:
        return False


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def level_of(gpus: Sequence[Gpu]) -> list[float]:
    """GiB in use per GPU."""
    return [round(gpu.memory_used / _GIB, 2) for gpu in gpus]
