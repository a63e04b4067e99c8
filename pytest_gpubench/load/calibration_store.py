"""Calibrations of a host, kept in one file per host under the results folder."""

from __future__ import annotations

import json
import platform
import re
from pathlib import Path

from pytest_gpubench.domain.failures import GpubenchError
from pytest_gpubench.host import files
from pytest_gpubench.load.calibrate import host_name, software_name
from pytest_gpubench.load.calibration import Calibration

SCHEMA_VERSION = 1


def file_of(results: Path) -> Path:
    """Where this host's calibrations are."""
    return results / "calibration" / f"{re.sub(r'[^A-Za-z0-9._-]', '_', platform.node()) or 'host'}.json"


def stored(results: Path, workers: int | None = None) -> tuple[Calibration, ...]:
    """The calibrations that hold for this host and this client, as it is now.

    Args:
        workers: only those with so many client processes; None: all.

    Raises:
        GpubenchError: if the file is there and cannot be used.
    """
    host, software = host_name(), software_name()
    mine = [one for one in _read(file_of(results)) if (one.host, one.software) == (host, software)]
    return tuple(one for one in mine if workers in (None, one.workers))


def store(results: Path, calibrations: tuple[Calibration, ...]) -> Path:
    """Add calibrations; a new one takes the place of an older one of the same point on the same host and client.

    Raises:
        GpubenchError: if the file cannot be used or written.
    """
    path = file_of(results)
    kept = {_point(one): one for one in (*_read(path), *calibrations)}
    text = json.dumps(
        {"schema": SCHEMA_VERSION, "calibrations": [one.to_json() for one in kept.values()]}, indent=1, allow_nan=False
    )
    files.write_text(path, text + "\n", what="the calibration", remedy="choose another --results")
    return path


def _point(one: Calibration) -> tuple[object, ...]:
    return one.host, one.software, one.conc, one.workers, round(one.asked_rate)


def _read(path: Path) -> tuple[Calibration, ...]:
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise GpubenchError(f"the calibration {path} cannot be read: {reason}; delete it, then run gpubench calibrate") from error
    try:
        document = json.loads(text)
        version = document["schema"]
        if version == SCHEMA_VERSION:
            return tuple(Calibration.from_json(entry) for entry in document["calibrations"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise GpubenchError(f"the calibration {path} is damaged; delete it, then run gpubench calibrate") from error
    raise GpubenchError(
        f"the calibration {path} has version {version!r}, this release knows {SCHEMA_VERSION}; delete it and calibrate"
    )
