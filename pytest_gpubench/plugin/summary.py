"""What the terminal says when a run ends: the table of cases."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pytest_gpubench.model.printing import for_terminal
from pytest_gpubench.plugin.outcomes import Outcome
from pytest_gpubench.report.terminal import Row

if TYPE_CHECKING:
    from pytest_gpubench.engines.against import Against


def rows(outcomes: Sequence[Outcome], places: Mapping[str, tuple[int, float]]) -> list[Row]:
    """A line per start of a server and per measured case (and arm, where two engines are compared), in the
    order of ``places``.

    Metrics are geometric means over the launches; the last verdict counts.
    """
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        if (outcome.case and outcome.metrics) or outcome.start:
            groups.setdefault((outcome.start or outcome.case, outcome.arm), []).append(outcome)
    ordered = sorted(groups, key=lambda group: (places[group[0]], group[1]))
    return [_row(groups[group]) for group in ordered]


def _row(launches: Sequence[Outcome]) -> Row:
    last = launches[-1]
    point = f"{last.point} ({last.arm})" if last.arm else last.point
    told = [launch.verdict for launch in launches if launch.verdict]
    verdict = "FAIL" if last.outcome == "failed" and not told else next(reversed(told), "-")
    tentative = frozenset(name for launch in launches for name in launch.tentative)
    names = dict.fromkeys(name for launch in launches for name in launch.metrics)
    metrics = {name: _mean([launch.metrics[name] for launch in launches if name in launch.metrics]) for name in names}
    return Row(last.recipe, point, metrics, verdict, last.note, tentative)


def against_lines(against: Against | None, outcomes: Sequence[Outcome]) -> list[str]:
    """What the two engines of a comparison are; nothing where there is one engine or nothing was measured."""
    if against is None or not any(outcome.arm == "b" and outcome.metrics for outcome in outcomes):
        return []
    return ["", f"(a) is the engine of the recipes, (b) the one of --gpubench-against: {against.text}"]


def ratio_lines(outcomes: Sequence[Outcome]) -> list[str]:
    """A line per ratio that was judged."""
    judged = [outcome for outcome in outcomes if outcome.sides and outcome.verdict]
    lines = [for_terminal(f"{outcome.verdict}: {outcome.subject}: {outcome.note}") for outcome in judged]
    return ["", *lines] if lines else []


def _mean(values: Sequence[float]) -> float:
    return statistics.geometric_mean(values) if min(values) > 0 else statistics.fmean(values)
