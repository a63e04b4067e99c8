"""Calibrate this host's client: the loopback server in its own process, the planned concurrency and
rate, three seconds.

What came out is kept in one file per host under the results folder.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pytest_gpubench.host import files
from pytest_gpubench.host.host_facts import cpu_model
from pytest_gpubench.host.own_processes import environment_for_ours
from pytest_gpubench.load.client_error import Calibration, compare
from pytest_gpubench.load.load_run import run_load
from pytest_gpubench.load.loopback.server import TRUTH_PATH
from pytest_gpubench.load.protocol import LoadPlan
from pytest_gpubench.model.failures import BenchmarkError, Failure, GpubenchError
from pytest_gpubench.model.workload import Workload

_TTFT = 0.05
_ISL = 64
_WAVES = 3
SCHEMA_VERSION = 1


def calibrate(
    conc: int, chunk_rate: float, *, seconds: float = 3.0, workers: int = 1
) -> Calibration:
    """Measure the client's error.

    Args:
        conc: requests in flight, as planned.
        chunk_rate: chunks per second of all streams together, as planned: output tokens per second
        where each chunk is one token.
        seconds: length of the measured part; prompts, warm-up and the server's start come on top.
        workers: client processes.

    Raises:
        BenchmarkError: if the loopback server cannot be started, or a request failed.
    """
    token_time = conc / chunk_rate
    tokens = max(2, round((seconds / _WAVES - _TTFT) / token_time))
    workload = Workload(
        _ISL,
        tokens,
        conc,
        num_prompts=_WAVES * conc,
        num_warmups=conc,
        range_ratio=1.0,
        workers=workers,
    )
    with loopback_process("--ttft", str(_TTFT), "--token-time", repr(token_time)) as url:
        result = run_load(LoadPlan(url, "loopback", workload))
        with urllib.request.urlopen(url + TRUTH_PATH, timeout=60) as response:  # noqa: S310  # ours
            truth = json.load(response)
    try:
        return compare(
            result.records,
            truth,
            result.client,
            conc=conc,
            asked_rate=chunk_rate * tokens * token_time / (_TTFT + (tokens - 1) * token_time),
            host=host_name(),
            load_average=os.getloadavg()[0],
            software=software_name(),
            made=datetime.now(UTC).isoformat(timespec="seconds"),
        )
    except ValueError as error:
        summary = (
            f"the client could not be calibrated at concurrency {conc} and "
            f"{chunk_rate:,.0f} chunks/s: {error}"
        )
        raise BenchmarkError(Failure("calibration-failed", "client", summary)) from error


@contextmanager
def loopback_process(*options: str) -> Iterator[str]:
    """A loopback server in a process of its own; yields its URL.

    Raises:
        BenchmarkError: if it does not start.
    """
    argv = [sys.executable, "-P", "-m", "pytest_gpubench.load.loopback", *options]
    with subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=environment_for_ours(),
    ) as process:
        assert process.stdout is not None  # noqa: S101  # it was asked for
        try:
            url = process.stdout.readline().strip()
            if not url:
                summary = f"the loopback server ended with exit code {process.wait()}"
                raise BenchmarkError(Failure("loopback-died", "client", summary))
            yield url
        finally:
            process.kill()


def software_name() -> str:
    """What the client is made of, as far as its speed depends on it."""
    return f"python {platform.python_version()}, uvloop {importlib.metadata.version('uvloop')}"


def host_name() -> str:
    """This host as far as a client's speed depends on it: processor and the cores that this process
    may use."""
    cores = len(os.sched_getaffinity(0))
    return f"{cpu_model()}, {cores} core{'s' if cores > 1 else ''}"


def file_of(results: Path) -> Path:
    """Where this host's calibrations are."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", platform.node()) or "host"
    return results / "calibration" / f"{name}.json"


def stored(results: Path, workers: int | None = None) -> tuple[Calibration, ...]:
    """The calibrations that hold for this host and this client, as it is now.

    Args:
        workers: only those with so many client processes; None: all.

    Raises:
        GpubenchError: if the file is there and cannot be used.
    """
    host, software = host_name(), software_name()
    return tuple(
        calibration
        for calibration in _read(file_of(results))
        if (calibration.host, calibration.software) == (host, software)
        and workers in (None, calibration.workers)
    )


def store(results: Path, calibrations: tuple[Calibration, ...]) -> Path:
    """Add calibrations; a new one takes the place of an older one of the same point on the same
    host and client.

    Raises:
        GpubenchError: if the file cannot be used or written.
    """
    path = file_of(results)
    kept = {_point(calibration): calibration for calibration in (*_read(path), *calibrations)}
    document = {
        "schema": SCHEMA_VERSION,
        "calibrations": [calibration.to_json() for calibration in kept.values()],
    }
    files.write_text(
        path,
        json.dumps(document, indent=1, allow_nan=False) + "\n",
        what="the calibration",
        remedy="choose another --results",
    )
    return path


def _point(calibration: Calibration) -> tuple[object, ...]:
    client = (calibration.host, calibration.software)
    return (*client, calibration.conc, calibration.workers, round(calibration.asked_rate))


def _read(path: Path) -> tuple[Calibration, ...]:
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError) as error:
        reason = files.unread_because(error)
        raise GpubenchError(
            f"the calibration {path} cannot be read: {reason}; delete it, then run "
            "gpubench calibrate"
        ) from error
    try:
        document = json.loads(text)
        version = document["schema"]
        if version == SCHEMA_VERSION:
            return tuple(Calibration.from_json(entry) for entry in document["calibrations"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise GpubenchError(
            f"the calibration {path} is damaged; delete it, then run gpubench calibrate"
        ) from error
    raise GpubenchError(
        f"the calibration {path} has version {version!r}, this release knows "
        f"{SCHEMA_VERSION}; delete it and calibrate"
    )
