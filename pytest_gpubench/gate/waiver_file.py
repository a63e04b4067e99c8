"""``waivers.yaml`` of the baselines folder: what may stand there, and what is wrong with it."""

from __future__ import annotations

import os
import re
import stat
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BeforeValidator

from pytest_gpubench.dialects.registry import frameworks
from pytest_gpubench.gate.waivers import NO_WAIVERS, Waiver, Waivers, read_version
from pytest_gpubench.model.cases import SourcePosition
from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.metrics import METRICS
from pytest_gpubench.model.printing import counted, for_terminal
from pytest_gpubench.recipes.checking import check_section
from pytest_gpubench.recipes.fields import Section, Text, fail
from pytest_gpubench.recipes.problems import ProblemLog, did_you_mean, join_path, one_of, shown
from pytest_gpubench.recipes.yaml_tree import Node, read_tree

FILE = "waivers.yaml"
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_WHAT = "a list of known bugs, each with `case`, `bug` and `until`"


def _checked_text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > 500:
        raise fail(f"must be text of 1 to 500 characters, not {shown(value)}; quote a number")
    return value


def _metric(value: Any) -> str:
    name = _checked_text(value)
    if name not in METRICS:
        raise fail(f"no metric is named {shown(value)}{did_you_mean(name, METRICS)}")
    return name


def _bug(value: Any) -> str:
    address = _checked_text(value)
    try:
        parts = urlsplit(address)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
        secret = parts.password is not None or bool(parts.username)
    except ValueError:
        usable = secret = False
    if secret:
        raise fail("has a user or password, which records and reports would show; leave it out")
    if not usable or any(letter.isspace() for letter in address):
        raise fail("must be the address of the bug (https://...), so that others can find it")
    return address


def _until(value: Any) -> date:
    try:
        if isinstance(value, str) and _DATE.fullmatch(value):
            return date.fromisoformat(value)
    except ValueError:
        pass
    raise fail(f"must be a day such as 2027-01-31, the last on which it holds, not {shown(value)}")


def _versions(value: Any) -> FrozenMap:
    known = frameworks()
    if not isinstance(value, dict) or not value:
        raise fail(f"must be a map from an engine to a version such as {{{known[0]}: '0.33'}}")
    for engine, version in value.items():
        if engine not in known:
            raise fail(f"no engine is named {shown(engine)}; write {one_of(known)}")
        if not isinstance(version, str) or read_version(version) is None:
            raise fail(f"the version of {engine} must be text such as '0.33', not {shown(version)}")
    return FrozenMap(value)


class WaiverKeys(Section):
    """A known bug, and the failures that are waived for it."""

    case: Text
    """A case id, or a glob of them; the start of a server is `SERVER:init`."""
    bug: Annotated[str, BeforeValidator(_bug)]
    """Address of the bug."""
    until: Annotated[date, BeforeValidator(_until)]
    """Last day (UTC) on which it holds."""
    metric: Annotated[str, BeforeValidator(_metric)] | None = None
    """The metric that may fail (all that are gated)."""
    reason: Text | None = None
    """Why it is waived, in a sentence."""
    until_version: Annotated[Any, BeforeValidator(_versions)] = None
    """Engine to the version from which on it does not hold, quoted: `{ENGINE: '0.33'}`."""
    strict: bool = False
    """Whether a case fails in which nothing that is waived fails any more."""


def read_waivers(folder: Path, today: date | None = None) -> Waivers:
    """The waivers of a baselines folder; none where it has no such file.

    Args:
        today: the day on which they hold or not (UTC); the clock's if not given.

    Raises:
        GpubenchError: with every problem of the file, at its line and key.
    """
    path = folder / FILE
    try:
        data = _content(path)
    except FileNotFoundError:
        other = path.with_suffix(".yml")
        if other.exists():
            raise GpubenchError(f"nobody reads {other}: call it {FILE}") from None
        return NO_WAIVERS
    except OSError as error:
        raise GpubenchError(
            f"the waivers {path} cannot be read: {(error.strerror or str(error)).lower()}; "
            "restore the file or remove it"
        ) from None
    name = _name(path)
    log = ProblemLog([name])
    entries = _entries(name, data, log)
    if len(log):
        lines = [f"{counted(len(log), 'problem')} in {name}:"]
        lines += [f"  {problem}" for problem in log.sorted()]
        raise GpubenchError(for_terminal("\n".join(lines)))
    return Waivers(entries, today or datetime.now(UTC).date())


def _entries(name: str, data: bytes, log: ProblemLog) -> tuple[Waiver, ...]:
    root = read_tree(name, data, log)
    if root is None or root.value is None:
        if not len(log):
            words = f"the file is empty; write {_WHAT}, or remove it"
            log.add(SourcePosition(name, 1, 1), "", words)
        return ()
    if not isinstance(root.value, list):
        log.add(root.at, "", f"must be {_WHAT}")
        return ()
    found = []
    for index, item in enumerate(root.items):
        path = join_path("waivers", index)
        if not isinstance(item.value, dict):
            words = f"must be a map with `case`, `bug` and `until`, not {_kind(item)}"
            log.add(item.at, path, words)
        elif check_section(WaiverKeys, item, path, log):
            found.append(_waiver(item))
    return tuple(found)


def _kind(item: Node) -> str:
    return "a list" if isinstance(item.value, list) else shown(item.value)


def _waiver(item: Node) -> Waiver:
    given = {key: value for key, value in item.plain().items() if value is not None}
    keys = WaiverKeys.model_validate(given).model_dump(exclude_none=True)
    reason = " ".join(keys.pop("reason", "").split())
    return Waiver(f"{item.at.file}:{item.at.line}", reason=reason, **keys)


def _content(path: Path) -> bytes:
    """A pipe would be waited for."""
    kind = path.stat().st_mode
    if not stat.S_ISREG(kind):
        raise OSError(0, "it is no file" if stat.S_ISDIR(kind) else "it is no plain file")
    return path.read_bytes()


def _name(path: Path) -> str:
    """As it would be typed here; records name no folder of a machine."""
    relative = os.path.relpath(path)
    return path.name if relative.startswith(os.pardir) else relative
