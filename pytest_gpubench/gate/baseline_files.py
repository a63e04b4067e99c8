"""One JSON file per case, kept in git; read with suspicion, written under a lock and whole."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

from filelock import FileLock, Timeout
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from pytest_gpubench.gate.baseline_key import key_digest
from pytest_gpubench.gate.baselines import Baseline, LaunchEntry
from pytest_gpubench.host import files
from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.model.frozen import FrozenMap, canonical_json, freeze, thaw

SCHEMA_VERSION = 2
"""Of what is written: 2 knows rounds. 1 is read as well."""
_LOCK_TIMEOUT_S = 60.0
_AS_ALWAYS: dict[str, Any] = {"answers": "", "rounds": 1, "noise": {}}
_Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    run: str
    launch: str
    date: str
    key: str
    metrics: dict[str, _Finite]
    requests: int
    axis: dict[str, Any]
    anchors: dict[str, str]
    answers: str = ""
    rounds: Annotated[int, Field(ge=1)] = 1
    noise: dict[str, Annotated[_Finite, Field(ge=0)]] = Field(default_factory=dict)
    digest: str


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    schema_: Annotated[int, Field(alias="schema")]
    case: str
    keys: dict[str, dict[str, Any]]
    launches: list[_Entry]


def baseline_path(folder: Path, hardware: str, case: str) -> Path:
    """Where a case's baseline lies: ``FOLDER/HARDWARE/SERVER/WORKLOAD.json``."""
    server, _, workload = case.partition(":")
    return folder / hardware / server / f"{workload}.json"


def read_baseline(path: Path, case: str) -> Baseline | None:
    """The baseline of a case, None where there is no file.

    Raises:
        GpubenchError: if the file cannot be read, is truncated or corrupt, was changed by hand, is
            of another case, or was written by a newer version: one sentence, and nothing is
            touched.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if path.is_symlink():  # its level is lost, which is not to have none
            raise _unusable(path, f"is a link to {path.readlink()}, which is not there") from None
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise _unusable(path, f"cannot be read ({error})") from None
    return _parse(path, text, case)


def update_baseline(path: Path, case: str, change: Callable[[Baseline], Baseline]) -> Baseline:
    """Change a baseline file; returns what it holds now.

    The file is read again under a lock before it is replaced as a whole, so that two runs that
    update at once both stay.

    Raises:
        GpubenchError: as ``read_baseline``; or if the lock cannot be had in a minute, or the file
            cannot be written.
    """
    with _locked(path):
        before = read_baseline(path, case)
        after = change(before or Baseline(case))
        if before is None or after != before:
            text = baseline_text(after)
            files.write_text(path, text, what="the baseline", remedy="it is as it was")
    return after


def baseline_text(baseline: Baseline) -> str:
    """Sorted keys, one line per launch, so that a diff reads well and a merge keeps both sides."""
    keys = ",\n".join(
        f"  {json.dumps(name)}: {_line(thaw(key))}" for name, key in sorted(baseline.keys.items())
    )
    launches = ",\n".join(f"  {_line(_entry_json(baseline, entry))}" for entry in baseline.launches)
    case = json.dumps(baseline.case)
    return (
        f'{{\n "case": {case},\n "keys": {{\n{keys}\n }},\n "launches": [\n{launches}\n '
        f'],\n "schema": {SCHEMA_VERSION}\n}}\n'
    )


def _line(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)


def _entry_json(baseline: Baseline, entry: LaunchEntry) -> dict[str, Any]:
    said = _said({item.name: thaw(getattr(entry, item.name)) for item in fields(entry)})
    return said | {"digest": _digest(baseline.case, said)}


def _said(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is as always: earlier releases did not know it."""
    return {name: it for name, it in entry.items() if it != _AS_ALWAYS.get(name, ...)}


def _digest(case: str, said: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json({"case": case, **said}).encode()).hexdigest()[:16]


def _parse(path: Path, text: str, case: str) -> Baseline:
    try:
        plain = json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise _unusable(
            path, f"is not JSON ({where}: {error.msg}), so it is truncated or corrupt"
        ) from None
    except (ValueError, RecursionError):
        raise _unusable(path, "is not JSON that this program writes") from None
    version = plain.get("schema") if isinstance(plain, dict) else None
    if isinstance(version, int) and not isinstance(version, bool) and version > SCHEMA_VERSION:
        raise GpubenchError(
            f"the baseline {path} was written by a newer pytest-gpubench (schema {version}, this "
            f"one reads {SCHEMA_VERSION}); upgrade pytest-gpubench"
        )
    try:
        file = _File.model_validate(plain)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the top level"
        raise _unusable(path, f"is damaged at {where} ({first['msg'].lower()})") from None
    _check(path, file, case)
    return Baseline(file.case, FrozenMap(file.keys), tuple(_entry(one) for one in file.launches))


def _entry(one: _Entry) -> LaunchEntry:
    said = one.model_dump(exclude={"digest"})
    values: dict[str, Any] = {name: freeze(value) for name, value in said.items()}
    return LaunchEntry(**values)


def _check(path: Path, file: _File, case: str) -> None:
    if not 1 <= file.schema_ <= SCHEMA_VERSION:
        raise _unusable(path, f"has the unknown schema {file.schema_}")
    if file.case != case:
        raise _unusable(path, f"is of the case {file.case}, not of {case}")
    for name, key in file.keys.items():
        if key_digest(FrozenMap(key)) != name:
            raise _unusable(path, f"was changed by hand: the key {name} is not what was recorded")
    seen: set[tuple[str, str, str]] = set()
    for entry in file.launches:
        identity = (entry.key, entry.run, entry.launch)
        if entry.digest != _digest(file.case, _said(entry.model_dump(exclude={"digest"}))):
            raise _unusable(
                path,
                f"was changed by hand: {entry.launch} of run {entry.run} is not what was measured",
            )
        if entry.key not in file.keys:
            raise _unusable(path, f"lacks the key {entry.key} of {entry.launch} of run {entry.run}")
        if identity in seen:
            raise _unusable(path, f"holds {entry.launch} of run {entry.run} twice")
        if any(value <= 0 for value in entry.metrics.values()) or not _is_date(entry.date):
            raise _unusable(path, f"holds an impossible value in {entry.launch} of run {entry.run}")
        seen.add(identity)


_DATE = TypeAdapter(AwareDatetime)


def _is_date(text: str) -> bool:
    try:
        _DATE.validate_python(text)
    except ValidationError:
        return False
    return True


def _unusable(path: Path, what: str) -> GpubenchError:
    return GpubenchError(
        f"the baseline {path} {what}; restore it (git checkout -- {path}) or record a new one"
    )


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    digest = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"gpubench-{os.getuid()}" / "baselines"
    lock = FileLock(folder / f"{digest}.lock", timeout=_LOCK_TIMEOUT_S, mode=0o600)
    reason = ""
    try:
        files.make_private_folder(folder)
        reason = next(filter(None, map(files.not_private, (folder.parent, folder))), "")
        if not reason:
            lock.acquire()
    except Timeout:
        raise GpubenchError(
            f"the baseline {path} was not updated: another process held {lock.lock_file} for "
            f"{_LOCK_TIMEOUT_S:.0f} s; run the update again"
        ) from None
    except (OSError, NotImplementedError) as error:
        reason = str(getattr(error, "strerror", None) or error)
    if reason:
        raise GpubenchError(
            f"the baseline {path} was not updated: the lock {lock.lock_file} cannot be taken: "
            f"{reason}; mend that, or set TMPDIR to a folder of yours, and run the update again"
        )
    try:
        yield
    finally:
        lock.release()
