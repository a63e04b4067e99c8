"""Which cases share a server, what the server is called, and which fresh starts of it are
planned."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import fields, replace

from pytest_gpubench.dialects.registry import dialect_of
from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.model.frozen import FrozenMap, canonical_json, is_whole
from pytest_gpubench.model.policies import SharingPolicy
from pytest_gpubench.model.specs import Launch, ServerSpec
from pytest_gpubench.model.workload import Workload
from pytest_gpubench.recipes.expansion import Resolved

SAME_IN_A_GROUP = frozenset({"framework", "model", "hardware", "topology", "revision", "command"})
"""Fields of a server spec that the group's name says, or that no `when` changes; a model is told
apart where a `when` does change it."""


def share(
    points: Iterable[Resolved], policy: SharingPolicy
) -> list[tuple[str, ServerSpec, list[Resolved]]]:
    """Group the points of one recipe under servers.

    Returns:
        KEY, spec and points of every server, in the order of their first point. The spec carries
        the maximum of each capacity over all its points.
    """
    groups: dict[str, dict[ServerSpec, list[Resolved]]] = {}
    # by identity: many points have one object, and comparing specs is slow
    known: dict[tuple[int, str], list[Resolved]] = {}
    for point in points:
        load = _load(point.workload, policy)
        members = known.get((id(point.served), load))
        if members is None:
            parts = groups.setdefault(
                f"{point.served.identity.label}-{point.served.spec.topology.label}{load}", {}
            )
            members = parts.setdefault(_without_capacities(point.served.spec), [])
            known[id(point.served), load] = members
        members.append(point)
    servers = []
    for name, parts in groups.items():
        same = SAME_IN_A_GROUP
        if len({reduced.model for reduced in parts}) > 1:
            same -= {"model"}
        for reduced, members in parts.items():
            key = name if len(parts) == 1 else f"{name}-{_digest(reduced, same)}"
            servers.append((key, _with_maxima(members), members))
    return servers


def _load(workload: Workload, policy: SharingPolicy) -> str:
    """What of the workload the policy fixes, as a part of the KEY."""
    if policy == "parallelism":
        return ""
    return f"-{workload.shape if policy == 'shape' else workload.label}"


def _is_capacity(framework: str, flag: str, value: object) -> bool:
    if flag not in dialect_of(framework).flags.capacities:
        return False
    return is_whole(value)


def _without_capacities(spec: ServerSpec) -> ServerSpec:
    """The spec with the capacities blanked, not dropped: a capacity that only some cases set is a
    difference."""
    return replace(
        spec,
        serve=FrozenMap(
            {
                flag: None if _is_capacity(spec.framework, flag, value) else value
                for flag, value in spec.serve.items()
            }
        ),
    )


def _with_maxima(members: list[Resolved]) -> ServerSpec:
    first = members[0].served.spec
    flags = [
        member.serve
        for member in {id(member.served): member.served.spec for member in members}.values()
    ]
    maxima = {
        flag: max(int(str(serve[flag])) for serve in flags)
        for flag, value in first.serve.items()
        if _is_capacity(first.framework, flag, value)
    }
    return replace(first, serve=FrozenMap(dict(first.serve) | maxima))


def _digest(spec: ServerSpec, same: frozenset[str] = SAME_IN_A_GROUP) -> str:
    """Six hex digits of what tells the parts of a split group apart: every field that points of one
    group can differ in."""
    draft = spec.speculative
    values = {item.name: getattr(spec, item.name) for item in fields(spec) if item.name not in same}
    values["speculative"] = draft and {**draft.config(), "options": draft.options}
    return hashlib.sha256(canonical_json(values).encode()).hexdigest()[:6]


MAX_LAUNCHES = 100
ABBA = ("a", "b", "b", "a")
"""Order of the arms of one block: a drift that is linear in time cancels."""


def parse_launches(text: str) -> tuple[int, int]:
    """Certain and reserve launches of ``3`` (3, 0) or ``1..3`` (1, 2).

    Raises:
        GpubenchError: for anything else.
    """
    match = re.fullmatch(r"\s*(\d{1,4})\s*(?:\.\.\s*(\d{1,4})\s*)?", text, re.ASCII)
    certain, most = 0, 0
    if match:
        certain, most = int(match[1]), int(match[2] or match[1])
    if not 1 <= certain <= most <= MAX_LAUNCHES:
        raise GpubenchError(
            f"launches '{text}': write a number such as 3, or a range such as 1..3, up "
            f"to {MAX_LAUNCHES}"
        )
    return certain, most - certain


def plan_launches(
    servers: Iterable[str], launches: str | Callable[[str], str] = "1", *, against: bool = False
) -> tuple[Launch, ...]:
    """Every launch of every server, server by server, in the order in which they run.

    Args:
        servers: KEYs.
        launches: ``3``: three; ``1..3``: one certain and two in reserve; or what says so of a
            server.
        against: two engines are compared; each launch becomes a block of the arms A B B A.

    Raises:
        GpubenchError: if ``launches`` is not understood.
    """

    def said(server: str) -> str:
        return launches if isinstance(launches, str) else launches(server)

    return tuple(
        launch
        for server in servers
        for launch in _of_server(server, *parse_launches(said(server)), against)
    )


def _of_server(server: str, certain: int, reserve: int, against: bool) -> list[Launch]:
    planned = []
    counts = dict.fromkeys(("", "a", "b"), 0)
    for block in range(certain + reserve):
        for arm in ABBA if against else ("",):
            counts[arm] += 1
            planned.append(Launch(server, counts[arm], arm, reserve=block >= certain))
    return planned
