"""What the exports share: the requests of a measurement, statistics as other tools name them, files of an export."""

from __future__ import annotations

import gzip
import itertools
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_gpubench.domain.frozen import FrozenMap, thaw
from pytest_gpubench.host import files
from pytest_gpubench.load.plan import RequestRecord
from pytest_gpubench.report.loaded import CaseResult, LeftOut

MOST_REQUESTS = 2_000_000


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote, and what it could not."""

    written: tuple[Path, ...]
    left_out: tuple[LeftOut, ...]


class NotExportedError(Exception):
    """A case that cannot be exported; the text says why."""


def measured_requests(result: CaseResult) -> list[RequestRecord]:
    """The measured requests of a case that answered.

    Raises:
        NotExportedError: if they were not kept or cannot be read.
    """
    path = result.requests_path
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            records = [RequestRecord.from_json(json.loads(line)) for line in itertools.islice(lines, MOST_REQUESTS) if line.strip()]
    except FileNotFoundError:
        raise NotExportedError(f"its requests are not there ({path.name}): copy the whole results folder") from None
    except (OSError, EOFError, zlib.error, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise NotExportedError(f"its requests cannot be read ({path.name}): {type(error).__name__}") from None
    measured = [record for record in records if record.phase == "measured" and record.ok]
    if not measured or any(record.first_token_ns is None or record.last_token_ns is None for record in measured):
        raise NotExportedError("none of its requests was answered, or not to the end")
    return measured


def statistics_ms(name: str, values: Sequence[float], percentiles: Sequence[float]) -> dict[str, float]:
    """``mean_``, ``median_``, ``std_`` and ``p.._{name}_ms`` of values in seconds; nothing without values."""
    import numpy as np

    if not len(values):
        return {}
    numbers = np.asarray(values, dtype=np.float64) * 1000
    found = {f"mean_{name}_ms": float(numbers.mean()), f"median_{name}_ms": float(np.median(numbers))}
    found[f"std_{name}_ms"] = float(numbers.std())
    for percentile in percentiles:
        found[f"p{percentile:g}_{name}_ms"] = float(np.percentile(numbers, percentile))
    return found


def model_of(record: Mapping[str, Any], result: CaseResult) -> str:
    """The repository that was served, from the command line that ran; the model prefix where there is none."""
    argv = [word for word in record.get("argv") or () if isinstance(word, str)]
    for flag in ("--model", "serve"):
        if flag in argv[:-1]:
            return argv[argv.index(flag) + 1]
    commits = record.get("commits")
    return next(iter(commits), result.identity.model) if isinstance(commits, Mapping) else result.identity.model


def file_name(result: CaseResult) -> str:
    """A name for the case's file that any file system takes."""
    label = f"{result.case}-{result.launch.label}" if result.launch.index > 1 or result.launch.arm else result.case
    return re.sub(r"[^A-Za-z0-9._-]+", "_", label)[:200]


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a document.

    Raises:
        GpubenchError: if the disk refuses it.
    """
    plain = thaw(document) if isinstance(document, FrozenMap) else document
    text = json.dumps(plain, indent=1, allow_nan=False) + "\n"
    files.write_text(path, text, what="the export", remedy="choose another folder")
