"""The gate's policy: which metrics are gated, and by how much they may worsen."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import partial

from pytest_gpubench.model.acceptance_curves import published_length, thinks
from pytest_gpubench.model.frozen import Frozen, FrozenMap
from pytest_gpubench.model.metrics import ACCEPTANCE, METRICS
from pytest_gpubench.model.specs import Speculative
from pytest_gpubench.model.workload import Workload
from pytest_gpubench.recipes.gates import AcceptanceGateKeys, read_gate

GOLDEN_DATASET = "SPEED-Bench coding"
GOLDEN_TOLERANCE = 0.10
"""Where the recipe names none: another data set or precision moves it by several percent."""


@dataclass(frozen=True, slots=True)
class Limit:
    """One bound on one metric, in its unit; ``None``: no bound on that side."""

    metric: str
    at_least: float | None = None
    at_most: float | None = None

    @property
    def declared(self) -> bool:
        """Whether there is a bound at all."""
        return self.at_least is not None or self.at_most is not None

    def violation(self, value: float) -> str | None:
        """The sentence that names a broken bound, or None."""
        unit = METRICS[self.metric].unit
        if self.at_least is not None and value < self.at_least:
            return (
                f"{self.metric} is {value:.4g} {unit}, the recipe demands at least "
                f"{self.at_least:.4g} {unit}"
            )
        if self.at_most is not None and value > self.at_most:
            return (
                f"{self.metric} is {value:.4g} {unit}, the recipe allows at most "
                f"{self.at_most:.4g} {unit}"
            )
        return None


RANDOM_DATASET = "random"


@dataclass(frozen=True, slots=True)
class MetricPolicy:
    """How one metric is gated."""

    metric: str
    tolerance: float | None = None
    """Share by which it may be worse than the baseline; None: not compared."""
    absolute: float = 0.0
    """In the metric's unit: a worsening counts only if it is larger than this as well."""
    limit: Limit | None = None
    """Declared bounds; they need no baseline."""
    golden: float | None = None
    """Acceptance length that others measured for this draft."""
    golden_tolerance: float = GOLDEN_TOLERANCE
    """Share by which the metric may be below ``golden``."""
    declared: bool = False
    """Whether the recipe asks for the comparison; only then is it told that it cannot be judged."""
    refused: str = ""
    """Why the metric cannot be gated in this case, empty if it can."""
    refused_remedy: str = ""

    @property
    def min_requests(self) -> int:
        """Measured requests below which the metric is reported, never gated."""
        return METRICS[self.metric].gated_from

    def log_limit(self, before: float) -> float:
        """Worsening on the log scale from which a change counts: beyond the tolerance and beyond
        the absolute guard.

        5% worse is 0.95 of a throughput and 1.05 of a latency. ``before`` is the old value, above
        zero.
        """
        share = max(self.tolerance or 0.0, self.absolute / before)
        if METRICS[self.metric].direction == "higher":
            return -math.log1p(-share) if share < 1 else math.inf
        return math.log1p(share)


def _usual(name: str) -> MetricPolicy:
    return MetricPolicy(name, METRICS[name].tolerance, METRICS[name].guard)


DEFAULTS: tuple[MetricPolicy, ...] = (
    _usual("output_tput_per_gpu"),
    _usual("tpot_p50"),
    _usual("ttft_p50"),
    replace(_usual("ttft_p99"), tolerance=0.40),
    _usual(ACCEPTANCE),
    _usual("engine_init"),
)
"""Gated unasked, where there is a baseline; throughput not beside its own reciprocal."""


def policies(
    gates: FrozenMap,
    workload: Workload | None = None,
    speculative: Speculative | None = None,
    model: str = "",
) -> tuple[MetricPolicy, ...]:
    """The policy of a case: the defaults with its recipe's ``gates`` laid over them.

    A percentage replaces the tolerance and keeps the guard; a map replaces what it names;
    ``at-least`` and ``at-most`` stand beside the comparison; ``false`` takes a metric out;
    ``golden: true`` looks the acceptance length of the draft (and the ``model``, where that drafts
    itself) up. ``workload`` None means the start of a server, of which only ``engine_init`` is
    gated.
    """
    names = [policy.metric for policy in DEFAULTS] + [
        name for name in gates if name not in {one.metric for one in DEFAULTS}
    ]
    found = (
        _policy(name, gates.get(name), workload, partial(_published, speculative, model))
        for name in names
        if gates.get(name) is not False
    )
    return tuple(
        policy
        for policy in found
        if policy and (policy.metric == "engine_init") == (workload is None)
    )


def narrowed(
    found: tuple[MetricPolicy, ...], only: Collection[str], *, start: bool = False
) -> tuple[MetricPolicy, ...]:
    """The policies of some metrics; one that the recipe does not gate gets its usual tolerance.

    Args:
        only: names of metrics; empty: all that are gated.
        start: whether the subject is the start of a server.
    """
    if not only:
        return found
    kept = tuple(policy for policy in found if policy.metric in only)
    known = {policy.metric for policy in kept}
    missing = (name for name in only if name not in known and (name == "engine_init") == start)
    return (*kept, *(replace(_usual(name), declared=True) for name in dict.fromkeys(missing)))


def _policy(
    name: str,
    written: Frozen,
    workload: Workload | None,
    published: Callable[[Workload], float | None],
) -> MetricPolicy | None:
    default = next((policy for policy in DEFAULTS if policy.metric == name), None)
    if written is None:
        return default and _acceptance_checked(default, workload)
    gate = read_gate(name, written)
    if gate is None:
        return None
    base = default or _usual(name)
    policy = replace(base, tolerance=base.tolerance if default else None)
    golden = gate.golden if isinstance(gate, AcceptanceGateKeys) else None
    if not golden and (gate.tolerance is not None or gate.absolute is not None):
        policy = replace(policy, tolerance=gate.tolerance or base.tolerance, declared=True)
    if gate.absolute is not None:
        policy = replace(policy, absolute=gate.absolute)
    bounds = Limit(name, gate.at_least, gate.at_most)
    if bounds.declared:
        policy = replace(policy, limit=bounds)
    if golden:
        policy = _with_golden(policy, golden, gate.tolerance, workload, published)
    return _acceptance_checked(policy, workload)


def _with_golden(
    policy: MetricPolicy,
    golden: float | None,
    tolerance: float | None,
    workload: Workload | None,
    published: Callable[[Workload], float | None],
) -> MetricPolicy:
    if golden is True:  # as published
        golden = published(workload) if workload is not None else None
    if golden is None:
        words = "no golden acceptance length is known for this draft"
        return replace(
            policy,
            declared=True,
            refused=words,
            refused_remedy="write it as a number: {golden: 2.8}",
        )
    return replace(policy, golden=golden, golden_tolerance=tolerance or GOLDEN_TOLERANCE)


def _acceptance_checked(policy: MetricPolicy, workload: Workload | None) -> MetricPolicy | None:
    if policy.metric != ACCEPTANCE or workload is None or workload.dataset != RANDOM_DATASET:
        return policy
    if not policy.declared and policy.limit is None and policy.golden is None:
        return None
    words = "random tokens say nothing about acceptance, so it is reported, not gated"
    return replace(
        policy,
        declared=True,
        refused=words,
        refused_remedy="name a text dataset in `client`, or remove the gate",
    )


def policy_document(found: tuple[MetricPolicy, ...]) -> dict[str, dict[str, object]]:
    """What ``--gpubench-plan`` shows of gates: metric to settings, unset ones left out."""
    return {policy.metric: _settings(policy) for policy in found}


def _settings(policy: MetricPolicy) -> dict[str, object]:
    shown: dict[str, object] = {
        "tolerance": f"{policy.tolerance * 100:g}%" if policy.tolerance is not None else None,
        "absolute": policy.absolute or None,
        "at-least": policy.limit.at_least if policy.limit else None,
        "at-most": policy.limit.at_most if policy.limit else None,
        "golden": f"{policy.golden:g} -{policy.golden_tolerance * 100:g}%"
        if policy.golden is not None
        else None,
        "min-requests": policy.min_requests if policy.min_requests > 1 else None,
        "not-gated": policy.refused or None,
    }
    return {"unit": METRICS[policy.metric].unit} | {
        key: value for key, value in shown.items() if value is not None
    }


def _published(draft: Speculative | None, model: str, workload: Workload) -> float | None:
    if draft is None:
        return None
    return published_length(draft, model, thinking=thinks(workload.chat_template_kwargs))
