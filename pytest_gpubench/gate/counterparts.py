"""Which server of another state of the same recipes stands for which of this one, so that the two
can be compared launch by launch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from pytest_gpubench.gate.baseline_key import differences
from pytest_gpubench.load.datasets import comparable
from pytest_gpubench.model.cases import Case, RecipeBook
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.specs import ServerSpec, Topology

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
