"""The matrix: a selection cut into jobs, each with its servers and the ``-m`` expression that
selects exactly their cases. Pure."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pytest_gpubench.gate.ratios import RatioPoint, ratio_points
from pytest_gpubench.host.files import open_regular
from pytest_gpubench.model.cases import Case, RecipeBook, lowest_of_servers
from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.model.grouping import grouped
from pytest_gpubench.model.hardware import Hardware, platform_of
from pytest_gpubench.model.metrics import METRICS
from pytest_gpubench.model.workload import SESSIONS, Workload

MATRIX_VERSION = 1
MAX_JOBS = 256
"""GitHub's limit for one matrix."""
START_MINUTES = {"cpu": 5.0, "cuda": 30.0, "rocm": 30.0, "hpu": 30.0}
"""For one start of a server, by platform: reading weights, compiling, capturing graphs."""
SLOW_TPOT = {"cpu": 0.25, "cuda": 0.06, "rocm": 0.06, "hpu": 0.06}
"""Seconds per output token of a slow server: a time limit must hold for slow ones."""
SLOW_PREFILL = {"cpu": 1e3, "cuda": 2e4, "rocm": 2e4, "hpu": 2e4}
"""Prompt tokens per second of a slow server, all requests together."""
TOOL_PREPARES_S, TRACE_S = 1800.0, 3600.0
"""For a tool that reads a trace, and for a trace without a duration: its length is not known."""
MARGIN = 1.5
LEAST_MINUTES = 30
_MAX_MATRIX = 2**28
"""Bytes of a file that are read; of a longer one the rest is missing, so that it is no JSON."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something of the selection that no job runs, with the reason."""

    what: str
    reason: str


@dataclass(frozen=True, slots=True)
class Job:
    """One entry: servers that one machine runs one after the other."""

    name: str
    runner: str
    hardware: str
    image: str
    gpus: int
    timeout_minutes: int
    """The estimate with its margin."""
    selection: str
    """For ``-m``."""
    servers: tuple[str, ...]
    cases: tuple[str, ...]
    """Ids of the cases that must report."""
    canary: bool = False
    """Whether it belongs to the stage before all others."""


def jobs_of(
    book: RecipeBook,
    cases: Sequence[Case],
    *,
    launches: int = 1,
    most: int = MAX_JOBS,
    canary: bool = False,
) -> tuple[list[Job], list[Skipped]]:
    """One job per server, packed where there would be more than ``most``; and what no job runs.

    Servers are packed only with servers of the same runner, image and number of GPUs.

    Args:
        book: everything declared; a server of which all cases are selected is named as a whole.
        launches: fresh starts of every server, for the time limit.
        canary: the lowest concurrency of every server is a job of its own, in a stage before.

    Raises:
        GpubenchError: if not even packing stays below the limit.
    """
    skipped = [
        Skipped(case.id, f"not runnable: {case.why_not}") for case in cases if not case.runnable
    ]
    runnable = [case for case in cases if case.runnable]
    first = lowest_of_servers(runnable) if canary else frozenset[str]()
    jobs: list[Job] = []
    for before in (True, False) if canary else (False,):
        stage = [case for case in runnable if (case.id in first) is before]
        part, too_big = _jobs(book, stage, frozenset() if before else first, launches, most)
        jobs += [
            replace(job, name=f"{job.name}, canary", canary=True) if before else job for job in part
        ]
        skipped += too_big
    return jobs, skipped


def _jobs(
    book: RecipeBook,
    cases: Sequence[Case],
    elsewhere: frozenset[str],
    launches: int,
    most: int,
) -> tuple[list[Job], list[Skipped]]:
    wanted = grouped(cases, lambda case: case.server)
    skipped: list[Skipped] = []
    fitting = []
    for server, own in wanted.items():
        spec = book.server(server)
        reason = _too_big(book.hardware(spec.hardware), spec.topology.gpus)
        if reason:
            skipped += [Skipped(case.id, reason) for case in own]
        else:
            fitting.append((own[0].runner, server, spec))
    alike = grouped(fitting, lambda it: (it[0], it[2].hardware, it[2].image, it[2].topology.gpus))
    groups = {kind: [server for _, server, _ in found] for kind, found in alike.items()}
    size = _pack_size([len(servers) for servers in groups.values()], most)
    jobs = []
    for (runner, hardware, image, gpus), servers in groups.items():
        for part in _parts(servers, size):
            minutes = sum(
                _minutes(hardware, [case.workload for case in wanted[server]], launches)
                for server in part
            )
            jobs.append(
                Job(
                    name=part[0] if len(part) == 1 else f"{part[0]} and {len(part) - 1} more",
                    runner=runner,
                    hardware=hardware,
                    image=image,
                    gpus=0 if platform_of(hardware) == "cpu" else gpus,
                    timeout_minutes=max(LEAST_MINUTES, math.ceil(minutes * MARGIN)),
                    selection=" or ".join(
                        _selection(server, wanted[server], book.cases_of(server), elsewhere)
                        for server in part
                    ),
                    servers=tuple(part),
                    cases=tuple(case.id for server in part for case in wanted[server]),
                )
            )
    return jobs, skipped


def matrix_document(
    book: RecipeBook,
    cases: Sequence[Case],
    *,
    launches: int = 1,
    canary: bool = False,
) -> dict[str, Any]:
    """The matrix as JSON data.

    ``include`` is what GitHub's ``strategy.matrix.include`` takes; ``ratios`` and ``cases`` tell a
    merge what must have reported.
    """
    jobs, skipped = jobs_of(book, cases, launches=launches, canary=canary)
    skipped += [
        Skipped(entry.recipe, f"not supported: {entry.reason} ({entry.position})")
        for entry in book.unsupported
    ]
    runnable = [case for case in cases if case.runnable]
    return {
        "kind": "matrix",
        "schema": MATRIX_VERSION,
        "has_jobs": bool(jobs),
        "launches": launches,
        "include": [asdict(job) | {"runs_on": job.runner} for job in jobs],
        "ratios": [asdict(point) for point in ratio_points(book.ratios, book.cases, runnable)],
        "left_out": [asdict(one) for one in skipped],
    }


def _too_big(hardware: Hardware, gpus: int) -> str:
    node = hardware.gpus_per_node
    if gpus <= node or hardware.platform == "cpu":
        return ""
    return (
        f"not supported: needs {gpus} GPUs and a node of {hardware.key} has {node}; one server "
        "runs on one node"
    )


def _pack_size(counts: Sequence[int], most: int) -> int:
    """The fewest servers per job that keep the number of jobs at or below ``most``."""
    if len(counts) > most:
        raise GpubenchError(
            f"{len(counts)} kinds of jobs (runner, image, GPUs) are more than {most}: "
            "select fewer with -k or -m"
        )
    size = max(1, math.ceil(sum(counts) / most)) if counts else 1
    while sum(math.ceil(count / size) for count in counts) > most:
        size += 1
    return size


def _parts(servers: Sequence[str], size: int) -> Iterable[list[str]]:
    """Parts of nearly equal length, at most ``size`` long."""
    count = math.ceil(len(servers) / size)
    ends = [round(len(servers) * number / count) for number in range(count + 1)]
    return [list(servers[start:end]) for start, end in itertools.pairwise(ends)]


def _selection(
    server: str, cases: Sequence[Case], declared: Sequence[Case], elsewhere: frozenset[str]
) -> str:
    """The server as a whole, or its selected cases one by one; as a whole without what a stage
    before has, so that its start is judged as well. Ids are made of letters, digits, dots, dashes
    and colons."""
    own = [case.id for case in cases]
    others = [case.id for case in declared if case.id not in own]
    whole = f"gpubench(server='{server}')"
    if not others:
        return whole
    if elsewhere.issuperset(others):
        apart = " or ".join(f"gpubench(case='{case}')" for case in others)
        return f"({whole} and not ({apart}))"
    return " or ".join(f"gpubench(case='{case}')" for case in own)


def _minutes(hardware: str, workloads: Sequence[Workload], launches: int) -> float:
    platform = platform_of(hardware)
    return launches * (
        START_MINUTES[platform] + sum(_seconds(platform, workload) for workload in workloads) / 60
    )


def _seconds(platform: str, workload: Workload) -> float:
    """A case on a slow server; where a duration ends the run it may end earlier, never later."""
    if workload.traced:
        return TOOL_PREPARES_S + (workload.duration or TRACE_S)
    if workload.dataset == SESSIONS:
        return workload.duration or TRACE_S
    requests = workload.num_prompts + workload.num_warmups
    rounds = math.ceil(requests / max(1, workload.conc))
    decode = rounds * workload.osl * SLOW_TPOT[platform]
    prefill = requests * workload.isl / SLOW_PREFILL[platform]
    rate = workload.request_rate if workload.open_loop else 0.0
    return max(decode + prefill, requests / rate if rate else 0.0) + workload.ramp


def read_matrix(path: Path) -> Mapping[str, Any]:
    """The file of ``--gpubench-matrix``, or the manifest of a submission.

    Raises:
        GpubenchError: if it is neither.
    """
    try:
        with open_regular(path) as file:
            document = json.loads(file.read(_MAX_MATRIX + 1).decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise GpubenchError(
            f"--matrix {path} cannot be read: {getattr(error, 'strerror', None) or 'it is no JSON'}"
        ) from None
    if not _is_matrix(document):
        raise GpubenchError(
            f"--matrix {path} is no matrix: give the file that gpubench matrix or "
            "--gpubench-matrix wrote"
        )
    found: Mapping[str, Any] = document
    version = found.get("schema", MATRIX_VERSION)
    if found["kind"] == "matrix" and version != MATRIX_VERSION:
        raise GpubenchError(
            f"--matrix {path} was written by another pytest-gpubench (schema {version}, this one "
            f"reads {MATRIX_VERSION}): use that of the run that wrote it"
        )
    return found


def _is_matrix(document: object) -> bool:
    if not isinstance(document, dict) or document.get("kind") not in ("matrix", "submission"):
        return False
    launches = document.get("launches", 1)
    lists = {name: document.get(name, []) for name in ("include", "left_out", "ratios", "ended")}
    if "include" not in document or not all(isinstance(found, list) for found in lists.values()):
        return False
    return (
        isinstance(launches, int)
        and launches >= 1
        and all(_names_cases(entry) for entry in lists["include"])
        and all(
            isinstance(one, dict) and {"what", "reason"} <= one.keys() for one in lists["left_out"]
        )
        and all(_is_ratio(point) for point in lists["ratios"])
    )


def _names_cases(entry: object) -> bool:
    cases = entry.get("cases") if isinstance(entry, dict) else None
    return isinstance(cases, list) and all(isinstance(case, str) for case in cases)


def _is_ratio(point: object) -> bool:
    try:
        found = RatioPoint(**point) if isinstance(point, dict) else None
    except TypeError:
        return False
    if found is None or found.metric not in METRICS:
        return False
    texts = (found.name, found.point, found.of, found.over)
    bounds = (found.at_least, found.at_most)
    return all(isinstance(text, str) for text in texts) and all(
        isinstance(one, int | float | None) for one in bounds
    )
