"""The gate's words: numbers as a person reads them, a sentence per finding, a section a verdict."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_gpubench.model.metrics import METRICS
from pytest_gpubench.model.verdicts import Change, MetricVerdict, Status

_LABEL_WIDTH = 11

_DIGITS = ((999.95, 0), (100, 1), (10, 2))
"""From which size on so many digits stand behind the point."""


def quantity(metric: str, value: float) -> str:
    """A value with its unit, four significant digits: ``41.20 ms``, ``1,234 tok/s/GPU``."""
    unit = METRICS[metric].unit
    if unit == "s" and abs(value) < 1:
        value, unit = value * 1000, "ms"
    digits = next((digits for least, digits in _DIGITS if abs(value) >= least), 3)
    return f"{value:,.{digits}f} {unit}"


def percent(share: float) -> str:
    """A signed share: ``+9.8%``."""
    return f"{share * 100:+.1f}%"


def size(share: float) -> str:
    """An unsigned share: ``9.8%``, ``5%``."""
    value = abs(share) * 100
    return f"{round(value, 1 if value >= 1 else 2):g}%"


def count(number: int, word: str) -> str:
    """``1 launch``, ``3 launches``."""
    if number == 1:
        return f"1 {word}"
    return f"{number} {word}{'es' if word.endswith('ch') else 's'}"


def interval(change: Change) -> str:
    """``+9.8%, 95% interval +7.6% to +12.0%``."""
    return (
        f"{percent(change.estimate)}, 95% interval {percent(change.low)} to {percent(change.high)}"
    )


def moved(metric: str, change: Change, versus: str) -> str:
    """What happened to a metric, with numbers: the start of most reasons."""
    verb = "rose" if change.estimate > 0 else "fell"
    return (
        f"{metric} {verb} by {size(change.estimate)} against {versus}, from "
        f"{quantity(metric, change.before)} to {quantity(metric, change.now)} (95% interval "
        f"{percent(change.low)} to {percent(change.high)})"
    )


def section(headline: str, metrics: Sequence[MetricVerdict], notes: Sequence[str]) -> str:
    """The verdict for a failure report: what is not settled in full, the rest a line each."""
    ranked = sorted(metrics, key=lambda one: list(Status).index(one.status))
    lines = [headline]
    brief = [
        one for one in ranked if one.status in (Status.PASS, Status.UNGATED) and not one.improved
    ]
    for one in ranked:
        if one not in brief:
            lines += ["", *_full(one)]
    if brief:
        lines += ["", *(f"{one.status.value}  {one.reason}" for one in brief)]
    if notes:
        lines += ["", *(f"note: {note}" for note in notes)]
    return "\n".join(lines)


_SIDES = {
    "baseline": ("baseline", "now"),
    "anchor": ("anchor", "now"),
    "engine": ("engine A", "engine B"),
}


def _full(one: MetricVerdict) -> list[str]:
    lines = [f"{one.status.value}  {one.reason}"]
    if one.change is not None:
        change = one.change
        old, new = _SIDES.get(one.against, ("before", "now"))
        for side, value, launches in (
            (old, change.before, change.launches_before),
            (new, change.now, change.launches_now),
        ):
            lines.append(_row(side, f"{quantity(one.metric, value)} ({count(launches, 'launch')})"))
        lines.append(_row("change", interval(change)))
        if one.tolerance is not None:
            lines.append(_row("tolerance", f"{size(one.tolerance)} worse"))
        varies, finds = size(change.spread), size(change.detectable)
        words = f"one launch varies by {varies}; {finds} worse would be found"
        lines.append(_row("resolution", words))
    if one.remedy:
        lines.append(_row("next", one.remedy))
    return lines


def _row(label: str, text: str) -> str:
    return f"      {label:<{_LABEL_WIDTH}}{text}"
