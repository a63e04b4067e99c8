"""Does the engine that runs agree with the recipe? Pure; one sentence per deviation, and what could
not be seen is said, too."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pytest_gpubench.dialects.engine_facts import Check, EngineFacts, some_names
from pytest_gpubench.dialects.registry import dialect_of
from pytest_gpubench.engines.interpreter import check_version
from pytest_gpubench.model.frozen import Frozen
from pytest_gpubench.model.specs import ServerSpec

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_SNAPSHOT = re.compile(r"models--([A-Za-z0-9][\w.-]*?)--([\w.-]+?)/snapshots/")


@dataclass(frozen=True, slots=True)
class EngineCheck:
    """What the comparison of a recipe with a running engine gave."""

    deviations: tuple[str, ...]
    """Sentences; empty if everything that can be seen is as asked."""
    unseen: tuple[str, ...]
    """Sentences about checks that could not be made: the engine did not say."""
    checked: tuple[str, ...]
    """Names of the checks that were made and hold."""

    @property
    def ok(self) -> bool:
        return not self.deviations


def check_engine(spec: ServerSpec, facts: EngineFacts, *, served_name: str) -> EngineCheck:
    """Compare what runs with what the recipe asked for.

    Only what the recipe states is compared: a flag that it leaves to the engine has no wrong value.
    """
    deviations: list[str] = []
    unseen: list[str] = []
    checked: list[str] = []
    for check in _checks(spec, facts, served_name):
        if check.running is None:
            unseen.append(
                check.unseen
                or (
                    f"{check.name}: not visible in this engine's log and metrics (asked "
                    f"for: {_show(check.asked)})."
                )
            )
        elif check.holds:
            checked.append(check.name)
        else:
            deviations.append(
                f"{check.name}: {check.source} {_show(check.asked)}, the engine runs "
                f"with {_show(check.running)}."
            )
    # Variables that the engine does not know: those of the recipe were asked for in vain, the
    # host's are only noted.
    asked = [name for name, value in spec.env.items() if value is not None]
    unknown = [name for name in facts.unknown_variables if name in asked]
    foreign = [name for name in facts.unknown_variables if name not in asked]
    deviations += [
        f"environment variable {name}: the recipe sets it, the engine does not know it."
        for name in unknown
    ]
    if foreign:
        unseen.append(
            "environment variables of this host that the engine does not know: "
            f"{some_names(foreign)}."
        )
    if asked and not unknown and facts.version is not None:
        checked.append("environment variables")
    if spec.requires and facts.version is None:
        unseen.append("engine version: the engine does not say which it is.")
    elif spec.requires and facts.version is not None:
        known = dialect_of(spec.framework).distributions
        problems = check_version(spec.requires, facts.version, known)
        deviations += problems
        if not problems:
            checked.append("engine version")
    return EngineCheck(tuple(deviations), tuple(unseen), tuple(checked))


def _served_repository(spec: ServerSpec, root: str | None) -> str | None:
    """The repository that is served, as far as a path or a name tells it; None: it cannot be
    told."""
    if root is None or root == spec.model:
        return root
    snapshot = _SNAPSHOT.search(root)
    if snapshot is not None:
        return f"{snapshot[1]}/{snapshot[2]}"
    if _REPOSITORY.fullmatch(root) and _REPOSITORY.fullmatch(spec.model):
        return root
    return None


def _checks(spec: ServerSpec, facts: EngineFacts, served_name: str) -> Iterator[Check]:
    running_name: str | None = served_name
    if served_name not in facts.served_names:
        running_name = some_names(facts.served_names) or None
    yield Check("served name", served_name, running_name)
    if facts.owned_by is not None:
        running = facts.owned_by
        if running in dialect_of(spec.framework).owners:
            running = spec.framework
        yield Check("engine", spec.framework, running)
    repository = _served_repository(spec, facts.served_root)
    if repository is not None:
        yield Check("served model", spec.model, repository)
    yield from dialect_of(spec.framework).checks(spec, facts)


def _show(value: Frozen | object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)
