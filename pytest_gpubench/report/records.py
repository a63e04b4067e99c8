"""Result records: JSON files, written whole and atomically the moment a case ends."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, is_dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any, get_args

from pytest_gpubench.model.cases import Case
from pytest_gpubench.model.client_tools import ToolName
from pytest_gpubench.model.failures import BenchmarkError, Failure, GpubenchError
from pytest_gpubench.model.frozen import canonical_json
from pytest_gpubench.model.secrets import hide_in
from pytest_gpubench.model.specs import Launch, ServerSpec

SCHEMA_VERSION = 2
"""Of records; ``record`` has what they hold. Readers take every earlier one."""
RUN_FILE = "run.json"
"""In a run's folder: how the run ended (``results.RunEnd``)."""
MEASUREMENT_VERSION = 2
"""Rises whenever the way of measuring changes: numbers of different versions are not comparable.
2: slots are handed over from the warm-up to the measurement."""
_REMEDY = "free space or choose another folder with --gpubench-results"


def requests_name(launch: Launch, number: int = 1) -> str:
    """Name of the file of a round's per-request records, beside the record of the case."""
    return _of_round(launch, number, "requests.jsonl.gz")


def _of_round(launch: Launch, number: int, end: str) -> str:
    return f"{launch.label}{f'.round-{number}' if number > 1 else ''}.{end}"


def is_attachment(name: str) -> bool:
    """Whether a folder beside records holds files of others, not records."""
    return name.endswith((".evaluation", *(f".{tool}" for tool in get_args(ToolName))))


@dataclass(frozen=True, slots=True)
class RunFolder:
    """``results/<run>``: where one pytest run leaves its records."""

    path: Path

    @classmethod
    def create(cls, results: Path, run: str | None = None) -> RunFolder:
        """The folder's path; nothing is created on disk before the first record."""
        stamp = run or f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"
        return cls(results / stamp)

    def server(self, launch: Launch) -> Path:
        """Folder of a server's records and logs."""
        return self.path / launch.server

    def init_record(self, launch: Launch) -> Path:
        return self.server(launch) / "init" / f"{launch.label}.json"

    def server_log(self, launch: Launch) -> Path:
        return self.server(launch) / "init" / f"{launch.label}.log"

    def case_record(self, launch: Launch, case: Case) -> Path:
        return self.server(launch) / case.label / f"{launch.label}.json"

    def requests_file(self, launch: Launch, case: Case, number: int = 1) -> Path:
        """Of one round."""
        return self.server(launch) / case.label / requests_name(launch, number)

    def tool_files(self, launch: Launch, case: Case, number: int = 1) -> Path:
        """Folder of what a tool wrote in a round that measured in place of our client."""
        name = case.workload.tool.name if case.workload.tool else "tool"
        return self.server(launch) / case.label / _of_round(launch, number, name)

    def answers_file(self, launch: Launch, case: Case) -> Path:
        return self.server(launch) / case.label / f"{launch.label}.answers.jsonl.gz"

    def evaluation(self, launch: Launch, case: Case) -> Path:
        """Folder of an evaluation while it runs; it stays where the evaluation failed."""
        return self.server(launch) / case.label / f"{launch.label}.evaluation"


def write_record(
    path: Path,
    record: Mapping[str, Any],
    *,
    what: str = "the record",
    remedy: str = _REMEDY,
) -> None:
    """Write a record, or another document, whole or not at all, without the secrets of this
    environment.

    Raises:
        GpubenchError: if the disk refuses it, with path and reason.
    """
    from pytest_gpubench.host import files  # collecting needs no host room

    shown = hide_in(plain(record), os.environ)
    text = json.dumps(shown, indent=1, ensure_ascii=False, allow_nan=False)
    files.write_text(path, text + "\n", what=what, remedy=remedy)


def try_to_write(path: Path, record: Mapping[str, Any]) -> Failure | None:
    """Write a record; why it could not be written, or None."""
    try:
        write_record(path, record)
    except GpubenchError as error:
        return _unwritten(error)
    return None


def _unwritten(error: GpubenchError) -> Failure:
    return Failure("record-unwritten", "infrastructure", str(error))


def json_object(path: Path) -> dict[str, Any] | None:
    """The JSON object of a file; None where it cannot be read or holds none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def records_of(run: Path, subject: str) -> list[dict[str, Any]]:
    """The records of a case or of the start of a server (``KEY:init``) in a run's folder, in the
    order of its launches.

    Raises:
        GpubenchError: if the folder or one of them cannot be read.
    """
    server, _, workload = subject.partition(":")
    if not run.is_dir():
        raise GpubenchError(
            f"{run} is no folder; give a run's folder, such as results/20261125T120000Z-ab12"
        )
    records = []
    for path in sorted((run / server / workload).glob("launch-*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise GpubenchError(
                f"the record {path} cannot be read ({error}); leave it out or measure again"
            ) from None
        if not isinstance(record, dict):
            raise GpubenchError(f"the record {path} is not one of ours; measure again")
        records.append(record)
    return sorted(records, key=lambda record: int((record.get("launch") or {}).get("index", 0)))


def write_requests(path: Path, requests: Iterable[Mapping[str, Any]]) -> None:
    """Write per-request records as gzipped JSON lines, whole or not at all.

    Raises:
        BenchmarkError: if the disk refuses it, with path and reason.
    """
    from pytest_gpubench.host import files

    how: dict[str, Any] = {"encoding": "utf-8", "errors": "backslashreplace", "compresslevel": 6}
    try:
        with (
            files.writing(path, what="the record", remedy=_REMEDY) as raw,
            gzip.open(raw, "wt", **how) as file,
        ):
            for request in requests:
                file.write(_line(request) + "\n")
    except GpubenchError as error:
        raise BenchmarkError(_unwritten(error)) from error


def _line(request: Mapping[str, Any]) -> str:
    try:
        text = json.dumps(request, ensure_ascii=False, allow_nan=False)
        text.encode()
    except UnicodeEncodeError:  # rare, and cleaning each of millions of stamps is not free
        return json.dumps(plain(request), ensure_ascii=False, allow_nan=False)
    return text


def as_utf8(text: str) -> str:
    """The text, with what UTF-8 cannot hold written out: a byte of another encoding in a name as
    ``\\xe9``."""
    try:
        text.encode()
    except UnicodeEncodeError:
        pass
    else:
        return text
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half of a pair that stands for no byte
        return text.encode("utf-8", "backslashreplace").decode()


def plain(value: Any) -> Any:
    """JSON data, of built-in types only, of dataclasses, frozen maps, enumerations, paths and
    tuples; all text is valid UTF-8."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str):
        return as_utf8(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, Mapping):
        return {as_utf8(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return as_utf8(str(value)) if isinstance(value, Path) else value


def fingerprint(
    spec: ServerSpec,
    case: Case,
    engine_version: str,
    device: str,
    commits: Mapping[str, str | None],
) -> str:
    """Sixteen hex digits that are equal where two measurements are of the same thing.

    Covers the server spec, the workload, the engine's version, the device's product name, the
    commits of the weights that ran and the version of our way of measuring. The recipe's name is
    not part of it.
    """
    from pytest_gpubench.load.datasets import comparable  # collecting needs no load room

    parts = {
        "spec": plain(spec),
        "workload": comparable(case.workload),
        "engine": engine_version,
        "device": device,
        "commits": dict(commits),
        "measurement": MEASUREMENT_VERSION,
    }
    if case.evaluation is not None:
        parts["evaluation"] = case.evaluation.asked()
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()[:16]
