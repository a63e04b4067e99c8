"""Ratios: gates between two cases of one run (``ratios``). Both sides see the same host in the same
hour, so its noise cancels."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pytest_gpubench.gate import wording
from pytest_gpubench.gate.bounds import usable
from pytest_gpubench.gate.evidence import LaunchEvidence
from pytest_gpubench.model.cases import Case
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.verdicts import MetricVerdict, Status, Verdict

_NAMES = ("isl", "osl", "conc", "tp", "ep", "pp", "dp_attn")


@dataclass(frozen=True, slots=True, repr=False)
class RatioPoint:
    """One gate: ``metric`` of one case over that of another, with its bounds."""

    name: str
    point: str
    """What both sides share: ``1k1k-c1``, or ``tp8:1k1k-c1``."""
    metric: str
    of: str
    """Case id of the numerator."""
    over: str
    """Case id of the denominator."""
    at_least: float | None = None
    at_most: float | None = None

    def __repr__(self) -> str:
        # Two ratios may share a label; with the numerator it is unique, as Allure's history needs
        # it.
        return f"{self.label}:{self.of}"

    @property
    def label(self) -> str:
        """Id of its test item."""
        return f"{self.name}:{self.point}"


def ratio_points(ratios: Iterable[FrozenMap], cases: Sequence[Case]) -> tuple[RatioPoint, ...]:
    """Every pair of cases that the declared ratios speak of, in the order of the declarations and
    of the cases.

    ``of`` and ``over`` name a recipe, a server KEY, or tags joined by dashes. Cases pair up at the
    same workload, and at the same topology where several would fit. ``at`` narrows: tags
    (``1k1k-c1``), or a map of names to values (``{conc: 1}``).
    """
    points: list[RatioPoint] = []
    cases = [case for case in cases if case.evaluation is None]
    for ratio in ratios:
        over = [case for case in _named(str(ratio["over"]), cases) if _at(ratio.get("at"), case)]
        for case in _named(str(ratio["of"]), cases):
            partner = _partner(case, over) if _at(ratio.get("at"), case) else None
            if partner is not None:
                points.append(_point(ratio, case, partner))
    return tuple(points)


def unmatched(ratios: Iterable[FrozenMap], cases: Sequence[Case]) -> tuple[str, ...]:
    """Ratios that no two cases of the recipes satisfy, each as a sentence: a misspelt side would
    otherwise pass in silence."""
    words = []
    for ratio in ratios:
        if not ratio_points([ratio], cases):
            side = next(
                (side for side in ("of", "over") if not _named(str(ratio[side]), cases)), None
            )
            why = (
                f"no case matches {side}: {ratio[side]}"
                if side
                else "no workload is common to both sides, `at` included"
            )
            words.append(f"the ratio {ratio['name']} judges nothing: {why}")
    return tuple(words)


def judge_ratio(
    point: RatioPoint, of: Sequence[LaunchEvidence], over: Sequence[LaunchEvidence]
) -> Verdict:
    """The verdict on one ratio from the launches of both sides in the same run: geometric means
    over launches.

    A ratio is a declared bound, so the point estimate decides; its spread is told where there are
    launches to see it.
    """
    sides = [
        [one.metrics[point.metric] for one in side if not one.invalid and usable(one, point.metric)]
        for side in (of, over)
    ]
    if not all(sides):
        missing = point.of if not sides[0] else point.over
        reason = f"{point.metric} of {missing} was not measured in this run"
        return Verdict(
            Status.INCONCLUSIVE, reason, "select both sides, and see why the case has no result"
        )
    above, below = (statistics.geometric_mean(side) for side in sides)
    ratio = above / below
    quantities = (
        f"{wording.quantity(point.metric, above)} over {wording.quantity(point.metric, below)}"
    )
    words = f"{point.metric} of {point.of} is {ratio:.3f} times that of {point.over} ({quantities})"
    spread = _spread(sides)
    if spread is not None:
        words += f", give or take {wording.size(spread)}"
    broken = _broken(point, ratio)
    status = Status.FAIL if broken else Status.PASS
    reason = f"{words}; the recipe {broken or 'is satisfied'}"
    code = "limit-broken" if broken else "limit-held"
    result = MetricVerdict(point.metric, status, code, reason, against="ratio")
    return Verdict(
        status, reason, metrics=(result,), section=wording.section(status.value, [result], [])
    )


def _broken(point: RatioPoint, ratio: float) -> str:
    if point.at_least is not None and ratio < point.at_least:
        return f"demands at least {point.at_least:g} times"
    if point.at_most is not None and ratio > point.at_most:
        return f"allows at most {point.at_most:g} times"
    return ""


def _spread(sides: Sequence[Sequence[float]]) -> float | None:
    """Standard error of the ratio as a share, None where a side has a single launch."""
    if any(len(side) < 2 for side in sides):
        return None
    return math.sqrt(
        sum(statistics.variance([math.log(value) for value in side]) / len(side) for side in sides)
    )


def _named(text: str, cases: Sequence[Case]) -> list[Case]:
    by_recipe = [case for case in cases if case.recipe == text]
    by_server = [case for case in cases if case.server == text]
    wanted = set(text.split("-"))
    return by_recipe or by_server or [case for case in cases if wanted <= set(case.tags)]


def _at(at: object, case: Case) -> bool:
    if at is None:
        return True
    if isinstance(at, Mapping):
        values = {
            name: getattr(case.workload if name in ("isl", "osl", "conc") else case.topology, name)
            for name in _NAMES
        }
        return all(values.get(str(name).replace("-", "_")) == value for name, value in at.items())
    return set(str(at).split("-")) <= set(case.tags)


def _partner(case: Case, over: Sequence[Case]) -> Case | None:
    same_load = [
        one for one in over if one.workload.label == case.workload.label and one.id != case.id
    ]
    if len(same_load) > 1:
        same_load = [one for one in same_load if one.topology == case.topology]
    return same_load[0] if len(same_load) == 1 else None


def _point(ratio: FrozenMap, case: Case, partner: Case) -> RatioPoint:
    same = case.topology == partner.topology
    return RatioPoint(
        name=str(ratio["name"]),
        point=f"{case.topology.label}:{case.workload.label}" if same else case.workload.label,
        metric=str(ratio["metric"]),
        of=case.id,
        over=partner.id,
        at_least=_bound(ratio.get("at-least")),
        at_most=_bound(ratio.get("at-most")),
    )


def _bound(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
