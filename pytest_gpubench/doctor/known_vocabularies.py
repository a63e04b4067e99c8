"""What versions of vLLM take, as each said of itself.

``experiments/doctor/vocabularies.py`` makes the file.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

from packaging.version import Version

from pytest_gpubench.engines.interpreter import Vocabulary, vocabulary_from

Kind: TypeAlias = Literal["flags", "variables"]
FILE = Path(__file__).with_name("vocabularies.json")


def known_vocabulary(version: Version) -> Vocabulary | None:
    """What a version takes; None for one that was not asked, and for one that was never released:
    between two releases anything may be."""
    name = f"{version.major}.{version.minor}"
    if version.is_prerelease or name not in known_versions():
        return None
    return _vocabulary(name)


def known_versions() -> tuple[str, ...]:
    """The versions that were asked, oldest first: ``0.26`` is each release of 0.26."""
    return tuple(_document()["versions"])


def newest_vocabulary() -> Vocabulary:
    """What the newest version that was asked takes."""
    return _vocabulary(known_versions()[-1])


def versions_with(kind: Kind, name: str) -> tuple[str, ...]:
    """The versions that have a flag or a variable."""
    return tuple(
        version for version in known_versions() if name in getattr(_vocabulary(version), kind)
    )


def known_choices(flag: str) -> frozenset[str]:
    """The values that any of the versions takes for a flag; empty where all take any."""
    return frozenset().union(
        *(_vocabulary(version).choices.get(flag, ()) for version in known_versions())
    )


@functools.cache
def _vocabulary(version: str) -> Vocabulary:
    document = _document()
    answer = {kind: _of(version, document[kind]) for kind in ("flags", "variables")}
    choices = {flag: _of(version, spans) for flag, spans in document["choices"].items()}
    return vocabulary_from(version, {**answer, "choices": {k: v for k, v in choices.items() if v}})


def _of(version: str, spans: Mapping[str, str]) -> Iterable[str]:
    return [
        name
        for versions, names in spans.items()
        if version in versions.split()
        for name in names.split()
    ]


@functools.cache
def _document() -> Mapping[str, Any]:
    document: Mapping[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return document
