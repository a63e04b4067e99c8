"""Which cases share a server, and what the server is called."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace

from pytest_gpubench.domain.frozen import FrozenMap, canonical_json
from pytest_gpubench.domain.specs import ServerSpec, SharingPolicy
from pytest_gpubench.recipes.resolving import Resolved

CAPACITIES = ("max-model-len", "max-num-batched-tokens", "max-num-seqs", "max-cudagraph-capture-size")
"""Flags of which a shared server gets the maximum; any other difference splits the group."""


def share(points: Iterable[Resolved], policy: SharingPolicy) -> list[tuple[str, ServerSpec, list[Resolved]]]:
    """Group the points of one recipe under servers.

    Returns:
        KEY, spec and points of every server, in the order of their first point. The spec carries the maximum of each capacity
        over all its points.
    """
    groups: dict[str, dict[ServerSpec, list[Resolved]]] = {}
    for point in points:
        parts = groups.setdefault(_group(point, policy), {})
        parts.setdefault(_without_capacities(point.spec), []).append(point)
    servers = []
    for name, parts in groups.items():
        for reduced, members in parts.items():
            key = name if len(parts) == 1 else f"{name}-{_digest(reduced)}"
            servers.append((key, _with_maxima(members), members))
    return servers


def _group(point: Resolved, policy: SharingPolicy) -> str:
    fixed = {"parallelism": "", "shape": f"-{point.workload.shape}", "point": f"-{point.workload.label}"}
    return f"{point.identity.label}-{point.spec.topology.label}{fixed[policy]}"


def _is_capacity(flag: str, value: object) -> bool:
    return flag in CAPACITIES and isinstance(value, int) and not isinstance(value, bool)


def _without_capacities(spec: ServerSpec) -> ServerSpec:
    """The spec with the capacities blanked, not dropped: a capacity that only some cases set is a difference."""
    return replace(
        spec, serve=FrozenMap({flag: None if _is_capacity(flag, value) else value for flag, value in spec.serve.items()})
    )


def _with_maxima(members: list[Resolved]) -> ServerSpec:
    first = members[0].spec
    maxima = {
        flag: max(int(str(member.spec.serve[flag])) for member in members)
        for flag, value in first.serve.items()
        if _is_capacity(flag, value)
    }
    return replace(first, serve=FrozenMap(dict(first.serve) | maxima))


def _digest(spec: ServerSpec) -> str:
    """Six hex digits of what tells the parts of a split group apart."""
    draft = spec.speculative
    values = {
        "serve": spec.serve,
        "env": spec.env,
        "speculative": draft and {**draft.vllm_config(), "options": draft.options},
        "requires": spec.requires,
        "extra_args": spec.extra_args,
        "image": spec.image,
    }
    return hashlib.sha256(canonical_json(values).encode()).hexdigest()[:6]
