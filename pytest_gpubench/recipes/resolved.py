"""What a point of the search space resolves to."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_gpubench.model.cases import Identity
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.specs import ServerSpec
from pytest_gpubench.model.workload import Workload
from pytest_gpubench.recipes.rows import Point


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """All of a point but its load, before sharing. Points that differ in nothing but an unread concurrency have one object."""

    identity: Identity
    spec: ServerSpec
    max_model_len: int
    runnable: bool
    why_not: str
    gates: FrozenMap


@dataclass(frozen=True, slots=True)
class Resolved:
    """A point with its own server, before sharing."""

    point: Point
    workload: Workload
    served: Served
