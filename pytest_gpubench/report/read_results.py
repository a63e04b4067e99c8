"""Result folders to typed runs. Files come from anywhere: what is unreadable is left out, told."""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pytest_gpubench.model.cases import Identity
from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.model.printing import listed
from pytest_gpubench.report.record import CaseRecord, Record, StartRecord, record_adapter
from pytest_gpubench.report.records import SCHEMA_VERSION, is_attachment
from pytest_gpubench.report.results import (
    CaseResult,
    InitResult,
    LeftOut,
    Loaded,
    Result,
    Run,
    RunEnd,
    Versions,
)

MAX_FILE_BYTES = 64 * 2**20
MAX_TEXT = 20_000
"""Characters of one text; the rest of it is left out."""
_OWN_KINDS = ("matrix", "submission", "task", "walk")
"""Our own files beside records: not results, and nothing to complain of."""
_IDENTITY_WORDS = 4
_HUGE = re.compile(rb"\d[eE]\+?\d{3}|\d{300}")
"""What may be a number beyond every float: JSON has no word for infinity, but 1e999 becomes it."""


class _UnreadableError(Exception):
    """The file is no record of ours; the text says why."""


def load_results(folders: Sequence[Path]) -> Loaded:
    """Read every record below the given folders: run folders, parents of run folders, or anything
    above.

    A record is ``RUN/SERVER/(init|WORKLOAD)/LAUNCH.json``, wherever RUN is; links are not followed.
    A run that is found twice (a folder and its parent were given) counts once.

    Raises:
        GpubenchError: if a given folder does not exist: a mistyped name must not look like a run
            without results.
    """
    cases: dict[Path, list[CaseResult]] = {}
    inits: dict[Path, list[InitResult]] = {}
    ends: dict[Path, RunEnd] = {}
    left_out: list[LeftOut] = []
    for path in _files(folders):
        try:
            record, notes = _read(path)
            if record.get("kind") in _OWN_KINDS:
                continue
            left_out += [LeftOut(path, note) for note in notes]
            if record.get("kind") == "run":
                ends[path.parent] = _run_end(record)
                continue
            result = _typed(path, record)
        except _UnreadableError as error:
            left_out.append(LeftOut(path, str(error)))
            continue
        run = path.parents[2]
        if isinstance(result, CaseResult):
            cases.setdefault(run, []).append(result)
        else:
            inits.setdefault(run, []).append(result)
    runs = []
    for path in sorted({*cases, *inits, *ends}, key=lambda path: (path.name, str(path))):
        measured = sorted(cases.get(path, []), key=lambda one: (one.finished, one.case))
        started = sorted(inits.get(path, []), key=lambda one: (one.finished, one.server))
        end = ends.get(path)
        spent = end.spent if end else None
        runs.append(Run(path.name, tuple(measured), tuple(started), end, spent))
    return Loaded(tuple(runs), tuple(left_out))


def read_whole(path: Path) -> Mapping[str, Any]:
    """All of a record as plain data, with the parts that typed results leave out (series, engine,
    host); safe as ``load_results``.

    Empty where the file cannot be read any more.
    """
    try:
        return _read(path)[0]
    except _UnreadableError:
        return {}


def _files(folders: Sequence[Path]) -> Iterator[Path]:
    seen: set[Path] = set()
    for folder in folders:
        if not folder.exists():
            raise GpubenchError(
                f"{folder} does not exist; give a results folder or one of its runs"
            )
        top = folder.resolve()
        for parent, names, files in os.walk(top):
            names[:] = sorted(name for name in names if not is_attachment(name))
            for name in sorted(files):
                path = Path(parent, name)
                if name.endswith(".json") and not name.startswith(".") and path not in seen:
                    seen.add(path)
                    yield path
        if top.is_file() and top not in seen:
            seen.add(top)
            yield top


def _read(path: Path) -> tuple[dict[str, Any], list[str]]:
    """The JSON object of a file, cleaned, and what was left out of it."""
    try:
        # Not blocking: a named pipe would wait for a writer that never comes.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise _UnreadableError("is no regular file")
            if status.st_size > MAX_FILE_BYTES:
                raise _UnreadableError(
                    f"has {status.st_size / 2**20:.0f} MiB; a record has at most "
                    f"{MAX_FILE_BYTES // 2**20}"
                )
            data = file.read()
    except OSError as error:
        raise _UnreadableError(f"cannot be read: {error.strerror}") from None
    cleaner = _Cleaner()
    try:
        parsed = json.loads(data.decode("utf-8"), parse_constant=cleaner.constant)
        if not isinstance(parsed, dict):
            raise _UnreadableError("is no record: a record is a JSON object")
        if cleaner.needed(data):
            parsed = cleaner.clean(parsed, "")
    except UnicodeDecodeError:
        raise _UnreadableError("is not UTF-8 text") from None
    except RecursionError:
        raise _UnreadableError("is nested too deeply for a record") from None
    except json.JSONDecodeError as error:
        where = "is cut off or no JSON" if data.strip() else "is empty"
        raise _UnreadableError(f"{where} ({error.msg.lower()}, line {error.lineno})") from None
    except ValueError:
        raise _UnreadableError("holds a number that is too long to read") from None
    return parsed, cleaner.notes()


class _Cleaner:
    """Replaces what JSON should not hold and cuts what no page can show."""

    def __init__(self) -> None:
        self._constants = False
        self._numbers: dict[str, None] = {}
        self._texts: dict[str, None] = {}

    def constant(self, word: str) -> float:
        self._constants = True
        return float(word)

    def needed(self, data: bytes) -> bool:
        """Most files need no second look, which would cost more than reading them."""
        return (
            self._constants
            or _HUGE.search(data) is not None
            or max(map(len, data.split(b"\n"))) > MAX_TEXT
        )

    def clean(self, value: Any, where: str) -> Any:
        if isinstance(value, dict):
            return {
                self.clean(key, where): self.clean(
                    item, f"{where}.{key[:80]}" if where else key[:80]
                )
                for key, item in value.items()
            }
        if isinstance(value, list):
            return [self.clean(item, where) for item in value]
        if isinstance(value, float) and not math.isfinite(value):
            self._numbers[where] = None
            return None
        if isinstance(value, str) and len(value) > MAX_TEXT:
            self._texts[where] = None
            return (
                f"{value[:MAX_TEXT]} ... ({len(value) - MAX_TEXT:,} more characters are left out)"
            )
        return value

    def notes(self) -> list[str]:
        numbers, texts = listed(list(self._numbers), 5), listed(list(self._texts), 5)
        notes = [f"numbers that are not finite are left out: {numbers}"] if self._numbers else []
        if self._texts:
            notes.append(f"texts are cut after {MAX_TEXT:,} characters: {texts}")
        return notes


@cache
def _end_adapter() -> TypeAdapter[RunEnd]:
    return TypeAdapter(RunEnd)


def _typed(path: Path, record: Mapping[str, Any]) -> CaseResult | InitResult:
    schema = record.get("schema")
    if record.get("kind") not in ("case", "engine-init") or not isinstance(schema, int):
        raise _UnreadableError("is no record of pytest-gpubench")
    if schema > SCHEMA_VERSION:
        raise _UnreadableError(
            f"was written by a newer pytest-gpubench (schema {schema}, this one reads "
            f"{SCHEMA_VERSION}); update"
        )
    if schema < 1 or len(path.parents) < 4:
        raise _UnreadableError(f"has schema {schema}, which no release of pytest-gpubench wrote")
    try:
        parsed = record_adapter().validate_python(record)
    except ValidationError as error:
        raise _UnreadableError(f"is no whole record: {_first_fault(error, 1)}") from None
    except RecursionError:
        raise _UnreadableError("is nested too deeply for a record") from None
    if (parsed.server, parsed.launch.label) != (path.parents[1].name, path.stem):
        raise _UnreadableError(
            f"says that it is {parsed.launch.label[:80]} of {parsed.server[:200]}, "
            "where it does not lie"
        )
    own: dict[str, Any] = {
        "path": path,
        "run": path.parents[2].name,
        "versions": _versions(parsed),
        "hostname": str(parsed.host.get("hostname") or ""),
    }
    if isinstance(parsed, StartRecord):
        own["argv"] = tuple(parsed.argv or ())
        own["env"] = {name: value or "" for name, value in parsed.env.items()}
        return InitResult(**_shared(InitResult, parsed) | own)
    own["identity"] = parsed.identity or _identity_by_name(parsed)
    own |= {"policy": parsed.server_per, "device": _device(parsed)}
    return CaseResult(**_shared(CaseResult, parsed) | own)


def _shared(kind: type[Result], record: Record) -> dict[str, Any]:
    """What a result has under the same name as its record."""
    names = {item.name for item in fields(kind)} & type(record).model_fields.keys()
    return {name: getattr(record, name) for name in names}


def _identity_by_name(record: CaseRecord) -> Identity:
    """Of records of schema 1, which had none: a recipe's name spells its fields."""
    words = record.recipe.split("-")
    if len(words) < _IDENTITY_WORDS:
        raise _UnreadableError(f"is no whole record: '{record.recipe[:80]}' is no name of a recipe")
    spec = "mtp" if "mtp" in record.tags else ""
    variant = "-".join(word for word in words[_IDENTITY_WORDS:] if word != "mtp")
    return Identity(words[0], words[1], record.hardware or words[2], words[3], spec, variant)


def _run_end(record: Mapping[str, Any]) -> RunEnd:
    try:
        return _end_adapter().validate_python(record)
    except ValidationError as error:
        raise _UnreadableError(f"does not say how the run ended: {_first_fault(error)}") from None


def _first_fault(error: ValidationError, begin: int = 0) -> str:
    """Where, without the first parts of the path, and what."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"][begin:][: 4 + begin])
    return f"{where}: {first['msg'].lower()}"


def _versions(record: Record) -> Versions:
    return Versions(
        engine=str(record.engine.get("version") or ""),
        plugin=str(record.versions.get("pytest-gpubench") or ""),
        driver=str(record.host.get("driver") or ""),
        commit=str(record.git.get("commit") or ""),
    )


def _device(record: CaseRecord) -> str:
    gpus, cpu = record.host.get("gpus"), record.host.get("cpu")
    known = gpus if isinstance(gpus, list) and record.hardware != "cpu" else []
    names = {str(gpu.get("name")) for gpu in known if isinstance(gpu, dict)}
    model = str(cpu.get("model") or "") if isinstance(cpu, dict) else ""
    return ", ".join(sorted(names)) or model
