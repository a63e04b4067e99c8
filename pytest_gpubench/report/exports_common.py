"""What the exports share: the requests of a measurement, statistics as other tools name them, files
of an export."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_gpubench.host import files
from pytest_gpubench.host.files import TooLongError, bounded_lines, open_regular
from pytest_gpubench.load.protocol import RequestRecord
from pytest_gpubench.model.frozen import FrozenMap, thaw
from pytest_gpubench.model.grouping import grouped
from pytest_gpubench.report.merge_runs import attempts_that_count
from pytest_gpubench.report.results import CaseResult, LeftOut

_LONGEST_NAME = 190
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
    passed_over: int = 0
    """Other launches and attempts of the same cases, for which nobody asked."""


class NotExportedError(Exception):
    """A case that cannot be exported; the text says why."""


def measured_requests(result: CaseResult, number: int = 1) -> list[RequestRecord]:
    """The measured requests of one round of a case that answered.

    Raises:
        NotExportedError: if they were not kept or cannot be read.
    """
    path = result.requests_path(number)
    try:
        with open_regular(path) as packed, gzip.open(packed, "rb") as lines:
            records = [
                _request(line)
                for line in bounded_lines(lines, MAX_LINE, MAX_UNPACKED)
                if line.strip()
            ]
    except TooLongError as error:
        raise NotExportedError(f"its requests are left out ({path.name}): {error}") from None
    except FileNotFoundError:
        raise NotExportedError(
            f"its requests are not there ({path.name}): copy the whole results folder"
        ) from None
    except (
        OSError,
        EOFError,
        zlib.error,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RecursionError,
    ) as error:
        raise NotExportedError(
            f"its requests cannot be read ({path.name}): {type(error).__name__}"
        ) from None
    measured = [record for record in records if record.phase == "measured" and record.ok]
    if not measured or any(
        record.first_token_ns is None or record.last_token_ns is None for record in measured
    ):
        raise NotExportedError("none of its requests was answered, or not to the end")
    return measured


def _request(line: bytes) -> RequestRecord:
    record = RequestRecord.from_json(json.loads(line, parse_constant=_no_constant))
    numbers = (
        *(record.due_ns, record.send_ns, record.first_token_ns, record.last_token_ns),
        *(record.end_ns, record.prompt_tokens, record.completion_tokens),
        *record.chunk_ns,
        *record.chunk_tokens,
    )
    if not all(value is None or (type(value) is int and abs(value) < _BEYOND) for value in numbers):
        raise ValueError("a stamp or a count that is none")
    return record


def _no_constant(word: str) -> float:
    raise ValueError(word)


def statistics_ms(
    name: str, values: Sequence[float], percentiles: Sequence[float]
) -> dict[str, float]:
    """``mean_``, ``median_``, ``std_`` and ``p.._{name}_ms`` of values in seconds; nothing without
    values."""
    import numpy as np

    if not len(values):
        return {}
    numbers = np.asarray(values, dtype=np.float64) * 1000
    return {
        f"mean_{name}_ms": float(numbers.mean()),
        f"median_{name}_ms": float(np.median(numbers)),
        f"std_{name}_ms": float(numbers.std()),
        **{f"p{share:g}_{name}_ms": float(np.percentile(numbers, share)) for share in percentiles},
    }


def model_of(record: Mapping[str, Any], result: CaseResult) -> str:
    """The repository that was served, from the command line that ran; the model prefix where there
    is none."""
    argv = [word for word in record.get("argv") or () if isinstance(word, str)]
    for flag in ("--model", "serve"):
        if flag in argv[:-1]:
            return argv[argv.index(flag) + 1]
    commits = record.get("commits")
    return next(iter(commits if isinstance(commits, Mapping) else ()), result.identity.model)


def export(
    results: Iterable[CaseResult],
    folder: Path,
    document_of: Callable[[CaseResult], Mapping[str, Any]],
    *,
    prefix: str = "",
    every_launch: bool = False,
) -> Exported:
    """Write ``PREFIXCASE.json`` per case, of the launch that speaks for it (``representative``).

    Args:
        document_of: what to write; raises ``NotExportedError`` for a case that is left out with
        that reason.
        every_launch: a file for every launch and every attempt instead, named apart by launch, then
            by run.

    Raises:
        GpubenchError: if the disk refuses a file.
    """
    results = [one for one in results if not one.evaluation]  # they have no load to tell of
    wanted = results if every_launch else representatives(results)
    names: set[str] = set()
    written, left_out = [], []
    for result in wanted:
        try:
            document = document_of(result)
        except NotExportedError as error:
            left_out.append(LeftOut(result.path, str(error)))
            continue
        path = folder / f"{prefix}{_new_name(result, names, every_launch=every_launch)}.json"
        write_json(path, document)
        written.append(path)
    return Exported(tuple(written), tuple(left_out), len(results) - len(wanted))


def representatives(results: Iterable[CaseResult]) -> list[CaseResult]:
    """One result per case: of the launches that count, the one with the median throughput, failed
    and INVALID ones last.

    Of two engines that were compared the recipes' own counts.
    """
    return [_representative(own) for own in grouped(results, lambda one: one.case).values()]


def _representative(found: Sequence[CaseResult]) -> CaseResult:
    counting = attempts_that_count([one for one in found if one.launch.arm != "b"] or found)
    good = [one for one in counting if "output_tput" in one.metrics and one.failure is None]
    valid = [one for one in good if one.measurement is None or not one.measurement.invalid]
    ranked = sorted(valid, key=lambda one: one.metrics["output_tput"])
    return ranked[(len(ranked) - 1) // 2] if ranked else counting[-1]


def _new_name(result: CaseResult, taken: set[str], *, every_launch: bool) -> str:
    """A name that any file system takes and that no other file of the export has, upper and lower
    case being equal."""
    label = result.case
    if every_launch and (result.launch.index > 1 or result.launch.arm):
        label += f"-{result.launch.label}"
    tries = [label, f"{label}-{result.run}"]
    for name in itertools.chain(tries, (f"{tries[1]}-{number}" for number in itertools.count(2))):
        safe = re.sub(r"[^A-Za-z0-9._-]+", "_", name)
        if len(safe) > _LONGEST_NAME:
            safe = f"{safe[:_LONGEST_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        if safe.lower() not in taken:
            taken.add(safe.lower())
            return safe
    raise AssertionError("numbers do not end")


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a document.

    Raises:
        GpubenchError: if the disk refuses it.
    """
    plain = thaw(document) if isinstance(document, FrozenMap) else document
    text = json.dumps(plain, indent=1, allow_nan=False) + "\n"
    files.write_text(path, text, what="the export", remedy="choose another folder")
