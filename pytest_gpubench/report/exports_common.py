"""What the exports share: the requests of a measurement, statistics as other tools name them, files of an export."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_gpubench.domain.failures import GpubenchError
from pytest_gpubench.domain.frozen import FrozenMap, thaw
from pytest_gpubench.host.bounded import TooLongError, bounded_lines, open_regular
from pytest_gpubench.load.plan import RequestRecord
from pytest_gpubench.report.loaded import CaseResult, LeftOut

MAX_LINE = 64 * 2**20
"""Bytes of one request, unpacked: one of 128,000 tokens has some 4 MiB."""
MAX_UNPACKED = 4 * 2**30
"""Bytes of all requests of a case, unpacked."""
_BEYOND = 2**63


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
        with open_regular(path) as packed, gzip.open(packed, "rb") as lines:
            records = [_request(line) for line in bounded_lines(lines, MAX_LINE, MAX_UNPACKED) if line.strip()]
    except TooLongError as error:
        raise NotExportedError(f"its requests are left out ({path.name}): {error}") from None
    except FileNotFoundError:
        raise NotExportedError(f"its requests are not there ({path.name}): copy the whole results folder") from None
    except (OSError, EOFError, zlib.error, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise NotExportedError(f"its requests cannot be read ({path.name}): {type(error).__name__}") from None
    measured = [record for record in records if record.phase == "measured" and record.ok]
    if not measured or any(record.first_token_ns is None or record.last_token_ns is None for record in measured):
        raise NotExportedError("none of its requests was answered, or not to the end")
    return measured


def _request(line: bytes) -> RequestRecord:
    record = RequestRecord.from_json(json.loads(line, parse_constant=_no_constant))
    stamps = (record.due_ns, record.send_ns, record.first_token_ns, record.last_token_ns, record.end_ns)
    counts = (record.prompt_tokens, record.completion_tokens, *record.chunk_ns, *record.chunk_tokens)
    if not all(value is None or (type(value) is int and abs(value) < _BEYOND) for value in (*stamps, *counts)):
        raise ValueError("a stamp or a count that is none")
    return record


def _no_constant(word: str) -> float:
    raise ValueError(word)


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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        plain = thaw(document) if isinstance(document, FrozenMap) else document
        path.write_text(json.dumps(plain, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise GpubenchError(f"the export {path} could not be written: {error.strerror}; choose another folder") from error
