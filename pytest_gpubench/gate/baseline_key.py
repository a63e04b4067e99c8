"""What makes two measurements comparable (the key), what may differ between them because it is
under test (the axis), and which server of another state of the recipes stands for which."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeAlias

from pytest_gpubench.dialects.registry import DEFAULT
from pytest_gpubench.load.datasets import comparable
from pytest_gpubench.model.cases import Case, RecipeBook
from pytest_gpubench.model.frozen import Frozen, FrozenMap, canonical_json, thaw
from pytest_gpubench.model.secrets import hide_named
from pytest_gpubench.model.specs import ServerSpec, Topology

IN_KEY = frozenset({"hardware", "topology", "model", "revision"})
"""Fields of a server spec that `comparison_key` holds; of a draft it holds what
`Speculative.config` says."""
_AS_ALWAYS = {"framework": DEFAULT, "image": ""}
_PLAIN = ("framework", "image")
"""Names of the axis whose text is recorded as it is, not as JSON."""


def comparison_key(
    case: Case | None,
    spec: ServerSpec,
    *,
    device: str,
    commits: Mapping[str, str | None],
    measurement_version: int,
    policy: str,
    shared_host: bool = False,
    compile_cache: str | None = None,
) -> FrozenMap:
    """The key: numbers are compared only where all of it is equal. Flat: field to value.

    Not in it, since it is what a benchmark tests: the engine's version, flags, image, driver.

    Args:
        case: None for the start of a server.
        device: product name of the accelerator, or of the CPU with the number of cores that the run
        may use.
        commits: repository to commit of the weights that ran.
        shared_host: whether other servers ran on the host at the same time.
        compile_cache: ``cold`` or ``warm``, for the start of a server.
    """
    key: dict[str, Any] = {
        "hardware": spec.hardware,
        "device": device,
        "gpus": spec.topology.gpus,
        "model": spec.model,
        "revisions": dict(commits) or spec.revision,
        "speculative": canonical_json(spec.speculative.config()) if spec.speculative else "",
        "server_per": policy,
        "shared_host": shared_host,
        "measurement_version": measurement_version,
    }
    key |= {f"topology.{name}": value for name, value in asdict(spec.topology).items()}
    if case is None:
        key["compile_cache"] = compile_cache
    else:
        key["precision"] = case.identity.precision
        key |= {f"workload.{name}": value for name, value in comparable(case.workload).items()}
        if case.evaluation is not None:
            key |= {f"evaluation.{name}": it for name, it in case.evaluation.asked().items()}
    return FrozenMap(key)


def measurement_axis(spec: ServerSpec, record: Mapping[str, Any]) -> FrozenMap:
    """The axis, from a record as plain JSON data; shown when a verdict is not a plain PASS."""
    engine, host = record.get("engine") or {}, record.get("host") or {}
    git, versions = record.get("git") or {}, record.get("versions") or {}
    client = (record.get("measurement") or {}).get("client") or {}
    axis: dict[str, Any] = {
        "engine": engine.get("version"),
        "attention": engine.get("attention_backend"),
        "host": host.get("hostname"),
        "kernel": host.get("kernel"),
        "driver": host.get("driver"),
        "commit": git.get("commit"),
        "pytest-gpubench": versions.get("pytest-gpubench"),
        "openai": versions.get("openai"),
        "client.priority": client.get("priority") or None,
        "aiperf": client.get("aiperf"),
    }
    axis |= dict(_server_axis(spec))
    return FrozenMap({name: value for name, value in axis.items() if value is not None})


def _server_axis(spec: ServerSpec) -> Iterator[tuple[str, str]]:
    """Every field of a server that the key does not hold, without secrets; a new field is in it by
    itself.

    What was not recorded by earlier releases is left out where it is as it always was: a baseline
        of then shows no difference.
    """
    for item in fields(spec):
        value = getattr(spec, item.name)
        if item.name in IN_KEY or value == _AS_ALWAYS.get(item.name, ()):
            continue
        if item.name == "speculative":
            yield from (
                _entry(f"speculative.{name}", option)
                for name, option in (value.options if value else {}).items()
            )
        elif isinstance(value, Mapping):
            yield from (_entry(f"{item.name}.{name}", one) for name, one in value.items())
        elif value is not None:
            yield _entry(item.name, value)


def _entry(name: str, value: Frozen) -> tuple[str, str]:
    shown = hide_named(name, thaw(value))
    return name, shown if name in _PLAIN else canonical_json(shown)


def key_digest(key: FrozenMap) -> str:
    """Twelve hex digits, equal for equal keys."""
    return hashlib.sha256(canonical_json(key).encode()).hexdigest()[:12]


def differences(before: FrozenMap, now: FrozenMap) -> tuple[str, ...]:
    """What differs between two keys or two axes, each as ``field: old before, new now``."""
    names = dict.fromkeys([*before, *now])
    return tuple(
        f"{name}: {_shown(before.get(name))} before, {_shown(now.get(name))} now"
        for name in names
        if canonical_json(before.get(name)) != canonical_json(now.get(name))
    )


def _shown(value: object) -> str:
    if value in (None, ""):
        return "nothing"
    return value if isinstance(value, str) else canonical_json(value)


NO_COUNTERPART = "no-counterpart"
"""Cause of a failure: the other state of the recipes has nothing to compare with."""
_Place: TypeAlias = tuple[str, Topology, str]
"""Recipe, parallelism and what is asked of a server: not its KEY, which an edit may change."""


@dataclass(frozen=True, slots=True)
class Counterparts:
    """What another state of the recipes has for the servers and cases of this one."""

    servers: Mapping[str, ServerSpec]
    """By KEY here the server that answers the same cases there; absent where there is none."""
    unlike: Mapping[str, str]
    """By id of a case here, why it cannot be compared: a clause about the other state."""

    def never(self, server: str, cases: tuple[Case, ...]) -> str:
        """Why a server has no counterpart, empty where it has one."""
        if server in self.servers:
            return ""
        return next((self.unlike[case.id] for case in cases if case.id in self.unlike), "")


def counterparts(first: RecipeBook, second: RecipeBook) -> Counterparts:
    """Match the cases of a book with those of another state of its recipes.

    A case matches one of the same recipe, parallelism and workload; model, flags, environment,
    draft and command may differ, since they are what is compared.
    """
    there = {_place(case): case for case in second.cases}
    servers: dict[str, ServerSpec] = {}
    owner: dict[str, str] = {}
    unlike: dict[str, str] = {}
    for case in first.cases:
        other = there.get(_place(case))
        reason = "there is no such case" if other is None else _unlike(first, case, second, other)
        if (
            other is not None
            and not reason
            and owner.setdefault(case.server, other.server) != (other.server)
        ):
            reason = (
                f"its server is {other.server} there, that of the cases before it "
                f"{owner[case.server]}; give each case its own with --gpubench-server-per=point"
            )
        if reason:
            unlike[case.id] = reason
        elif other is not None:
            servers[case.server] = second.server(other.server)
    return Counterparts(servers, unlike)


def _place(case: Case) -> _Place:
    return case.recipe, case.topology, case.label


def _unlike(first: RecipeBook, case: Case, second: RecipeBook, other: Case) -> str:
    if case.runnable and not other.runnable:
        return f"it is not run there: {other.why_not}"
    before, now = first.server(case.server).hardware, second.server(other.server).hardware
    if before != now:
        return f"it is for other hardware: {before} here, {now} there"
    if case.workload == other.workload and case.evaluation == other.evaluation:
        return ""
    found = differences(_asked(case), _asked(other))
    return f"it asks for other work: {'; '.join(found)}" if found else ""


def _asked(case: Case) -> FrozenMap:
    asked = case.evaluation.asked() if case.evaluation else {}
    return FrozenMap({**comparable(case.workload), **asked})
