"""Two sets of results beside each other: how far each metric moved, and what else changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from pytest_gpubench.dialects.registry import common_rules
from pytest_gpubench.gate.wording import percent
from pytest_gpubench.model.metrics import METRICS
from pytest_gpubench.model.printing import counted
from pytest_gpubench.report.html_markup import (
    ABSENT,
    Child,
    Markup,
    more,
    section,
    table,
    table_row,
    tag,
)
from pytest_gpubench.report.numbers import shown
from pytest_gpubench.report.results import InitResult, Versions
from pytest_gpubench.report.views import CaseView

_METRICS = (
    "output_tput_per_gpu",
    "interactivity",
    "ttft_p50",
    "tpot_p50",
    "acceptance_length",
    "energy_per_output_token",
)
_MOST_ROWS = 400


@dataclass(frozen=True, slots=True)
class Pair:
    """A case in both sets."""

    before: CaseView
    now: CaseView

    def change(self, metric: str) -> float | None:
        """Share by which the metric moved; None where one side lacks it."""
        before, now = self.before.metrics.get(metric), self.now.metrics.get(metric)
        return now / before - 1 if before and now is not None else None


def pairs(before: Sequence[CaseView], now: Sequence[CaseView]) -> list[Pair]:
    """Cases that both sets measured, in the order of ``now``."""
    old = {view.id: view for view in before}
    return [
        Pair(old[view.id], view)
        for view in now
        if view.id in old and view.metrics and old[view.id].metrics
    ]


def difference(
    before: Sequence[CaseView],
    now: Sequence[CaseView],
    starts_before: Sequence[InitResult],
    starts: Sequence[InitResult],
    name: str,
) -> Markup:
    """The section about what changed against another set of results."""
    common = pairs(before, now)
    common.sort(key=lambda pair: pair.change(_METRICS[0]) or 0.0)
    columns = [
        metric for metric in _METRICS if any(pair.change(metric) is not None for pair in common)
    ]
    rows = [
        table_row((pair.now.id, *(_cell(pair, metric) for metric in columns)), pair.now.tags)
        for pair in common[:_MOST_ROWS]
    ]
    fresh = {view.id for view in now} - {view.id for view in before}
    gone = {view.id for view in before} - {view.id for view in now}
    lead = (
        f"{counted(len(common), 'case')} of this report against {name}, worst throughput first. "
        "These are differences of two "
        "measurements, not verdicts: only a gate knows how much of them is noise."
    )
    notes = [f"{counted(len(fresh), 'case')} only here"] if fresh else []
    if gone:
        names = ", ".join(sorted(gone)[:8]) + (" …" if len(gone) > 8 else "")
        notes.append(f"{counted(len(gone), 'case')} only there: {names}")
    return section(
        "difference",
        "Against the other run",
        tag("p", "; ".join(notes), class_="note") if notes else None,
        _what_changed(before, now, starts_before, starts),
        table(("Case", *columns), rows, class_="numbers sortable", caption="Changes per case")
        if rows
        else None,
        more(len(common) - _MOST_ROWS, "rows are left out"),
        lead=lead,
    )


def _cell(pair: Pair, metric: str) -> Child:
    change = pair.change(metric)
    if change is None:
        return ABSENT
    direction = METRICS[metric].direction
    better = change > 0 if direction == "higher" else change < 0
    word = "better" if better else "worse"
    if abs(change) < 0.005 or direction == "neutral":
        word = "same"
    sign = {"better": "▲", "worse": "▼", "same": "="}[word]
    words = (
        f"{shown(metric, pair.before.metrics[metric]).split()[0]} → "
        f"{shown(metric, pair.now.metrics[metric])}"
    )
    return tag(
        "span",
        tag("span", f"{sign} {percent(change)}", class_=word),
        tag("small", words),
        class_="delta",
        title=word,
    )


def _what_changed(
    before: Sequence[CaseView],
    now: Sequence[CaseView],
    starts_before: Sequence[InitResult],
    starts: Sequence[InitResult],
) -> Markup | None:
    rows: list[tuple[Child, ...]] = []
    for field in fields(Versions):
        old, new = _versions(before, field.name), _versions(now, field.name)
        if old != new:
            rows.append((field.name, old or ABSENT, new or ABSENT))
    commands_before = {init.server: init for init in starts_before}
    for init in starts:
        other = commands_before.get(init.server)
        if other is None:
            continue
        gone, fresh = _words(other) - _words(init), _words(init) - _words(other)
        if gone or fresh:
            rows.append(
                (init.server, " ".join(sorted(gone)) or ABSENT, " ".join(sorted(fresh)) or ABSENT)
            )
    if not rows:
        return None
    head = ("What changed", "Before", "Now")
    return table(head, rows, class_="changes", caption="What changed besides numbers")


def _versions(views: Sequence[CaseView], name: str) -> str:
    values = {str(getattr(view.last.versions, name))[:60] for view in views}
    return ", ".join(sorted(values - {""}))


def _words(init: InitResult) -> set[str]:
    """Flags with their values and environment, without what differs in every start."""
    found: list[str] = []
    for word in init.argv:
        if word.startswith("--") or not found:
            found.append(word)
        else:
            found[-1] += f" {word}"
    chance = ("--port ", "--served-model-name ", "--host ")
    ours = common_rules().env
    return {word for word in found[1:] if not word.startswith(chance)} | {
        f"{name}={value}" for name, value in init.env.items() if name not in ours
    }
