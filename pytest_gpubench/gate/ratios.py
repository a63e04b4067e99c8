"""Ratios: gates between two cases of one run (``ratios``). Both sides see the same host in the same
hour, so its noise cancels."""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pytest_gpubench.gate import wording
from pytest_gpubench.gate.evidence import LaunchEvidence
from pytest_gpubench.model.cases import Case
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.printing import listed
from pytest_gpubench.model.verdicts import MetricVerdict, Status, Verdict

_NAMES = ("isl", "osl", "conc", "tp", "ep", "pp", "dp_attn")


@dataclass(frozen=True, slots=True, repr=False)
class RatioPoint:
    """One gate: ``metric`` of one case over that of another, with its bounds."""

    name: str
    point: str
    """What both sides share: ``1k1k-c1``, or ``tp8:1k1k-c1``; where several ratios of one name
    share that, with the numerator behind it."""
    metric: str
    of: str
    """Case id of the numerator."""
    over: str
    """Case id of the denominator."""
    at_least: float | None = None
    at_most: float | None = None

    def __repr__(self) -> str:
        # Stays the same where another ratio comes to share the name, as Allure's history needs it.
        return f"{self.name}:{self.point.removesuffix(f':{self.of}')}:{self.of}"

    @property
    def label(self) -> str:
        """Id of its test item."""
        return f"{self.name}:{self.point}"


def ratio_points(
    ratios: Iterable[FrozenMap], cases: Sequence[Case], among: Iterable[Case] | None = None
) -> tuple[RatioPoint, ...]:
    """Every pair of cases that the declared ratios speak of, in the order of the declarations and
    of the cases.

    ``of`` and ``over`` name a recipe, a server KEY, or tags joined by dashes. Cases pair up at the
    same workload, and at the same topology where several would fit. ``at`` narrows: tags
    (``1k1k-c1``), or a map of names to values (``{conc: 1}``).

    Args:
        cases: all that are declared: who is whose partner must not depend on a selection.
        among: the selected ones, of which both sides must be; None: all.
    """
    points = [
        _point(ratio, case, partners[0])
        for ratio in ratios
        for case, partners in _pairs(ratio, cases)
        if len(partners) == 1
    ]
    often = Counter(point.label for point in points)
    points = [
        one if often[one.label] == 1 else replace(one, point=f"{one.point}:{one.of}")
        for one in points
    ]
    if among is not None:
        chosen = {case.id for case in among}
        points = [one for one in points if one.of in chosen and one.over in chosen]
    return tuple(points)


def _pairs(ratio: FrozenMap, cases: Sequence[Case]) -> Iterator[tuple[Case, list[Case]]]:
    """Each case of the numerator with those that could stand below it."""
    loads = [case for case in cases if case.evaluation is None]
    above, below = (
        [case for case in _named(str(ratio[side]), loads) if _at(ratio.get("at"), case)]
        for side in ("of", "over")
    )
    for case in above:
        yield case, _partners(case, below)


def faults(ratios: Sequence[FrozenMap], cases: Sequence[Case]) -> tuple[tuple[int, str], ...]:
    """What is wrong with ratios, each by its index and as a sentence: one that no two cases of the
    recipes satisfy (a misspelt side would otherwise pass in silence), one whose denominator is
    several cases, and two that cannot be told apart."""
    first: dict[str, int] = {}
    found = []
    labels = iter(ratio_points(ratios, cases))
    for index, ratio in enumerate(ratios):
        name, pairs = ratio["name"], list(_pairs(ratio, cases))
        points = list(itertools.islice(labels, sum(len(partners) == 1 for _, partners in pairs)))
        several = next((pair for pair in pairs if len(pair[1]) > 1), None)
        if several is not None:
            among = listed([one.id for one in several[1]], 4)
            words = (
                f"{several[0].id} could stand over {among}; let `over` name one recipe or server"
            )
            found.append((index, f"the ratio {name} has several cases to choose from: {words}"))
        elif not points:
            found.append((index, f"the ratio {name} judges nothing: {_unmatched(ratio, cases)}"))
        for point in points:
            if first.setdefault(point.label, index) != index:
                words = f"judges {point.of}, as another ratio of that name does; rename one"
                found.append((index, f"the ratio {name} {words}"))
                break
    return tuple(found)


def _unmatched(ratio: FrozenMap, cases: Sequence[Case]) -> str:
    for side in ("of", "over"):
        if not _named(str(ratio[side]), cases):
            return f"no case matches {side}: {ratio[side]}"
    return "no workload is common to both sides, `at` included"


def judge_ratio(
    point: RatioPoint, of: Sequence[LaunchEvidence], over: Sequence[LaunchEvidence]
) -> Verdict:
    """The verdict on one ratio from the launches of both sides in the same run: geometric means
    over launches.

    A ratio is a declared bound, so the point estimate decides; its spread is told where there are
    launches to see it.
    """
    sides = [
        [one.metrics[point.metric] for one in side if not one.invalid and one.has(point.metric)]
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


def _partners(case: Case, over: Sequence[Case]) -> list[Case]:
    same_load = [
        one for one in over if one.workload.label == case.workload.label and one.id != case.id
    ]
    if len(same_load) > 1:
        same_load = [one for one in same_load if one.topology == case.topology]
    return same_load


def _point(ratio: FrozenMap, case: Case, partner: Case) -> RatioPoint:
    same = case.topology == partner.topology
    written = (ratio.get(name) for name in ("at-least", "at-most"))
    bounds = [float(one) if isinstance(one, int | float) else None for one in written]
    return RatioPoint(
        name=str(ratio["name"]),
        point=f"{case.topology.label}:{case.workload.label}" if same else case.workload.label,
        metric=str(ratio["metric"]),
        of=case.id,
        over=partner.id,
        at_least=bounds[0],
        at_most=bounds[1],
    )
