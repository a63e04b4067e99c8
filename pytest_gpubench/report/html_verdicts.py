"""The summary: what needs a person first, then what was compared with what, with intervals, and how
another set of results differs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from pytest_gpubench.dialects.registry import common_rules
from pytest_gpubench.gate.waivers import Told
from pytest_gpubench.gate.wording import interval, percent, size
from pytest_gpubench.model.failures import Failure
from pytest_gpubench.model.metrics import METRICS
from pytest_gpubench.model.printing import counted
from pytest_gpubench.model.verdicts import Change, MetricVerdict, Status
from pytest_gpubench.report.html_cases import case_link
from pytest_gpubench.report.html_geometry import Scale
from pytest_gpubench.report.html_markup import (
    ABSENT,
    Child,
    Markup,
    badge,
    clip,
    join,
    link,
    more,
    section,
    shown,
    table,
    table_row,
    tag,
)
from pytest_gpubench.report.merge_runs import Row
from pytest_gpubench.report.results import InitResult, Versions
from pytest_gpubench.report.views import (
    CaseView,
    failed_first,
    open_rows,
    other_counts,
    status_counts,
)

_MOST_ROWS = 200
_LEFT_OUT = "rows are left out here; the CSV export has them all"
_WORDS = {
    Status.FAIL: "broken limits, regressions, failures",
    Status.INVALID: "measurements that do not count",
    Status.INCONCLUSIVE: "more evidence needed",
    Status.WAIVED: "known bugs, waived",
    Status.PASS: "within every limit",
    Status.UNGATED: "nothing to compare with",
}


def verdict_counts(views: Sequence[CaseView], rows: Sequence[Row]) -> Markup:
    """One tile per status, and one per kind of what is no measured case and needs a person."""
    tiles = [
        tag(
            "li",
            badge(status),
            tag("strong", f"{number:,}"),
            tag("span", _WORDS[status], class_="muted"),
            class_="tile",
        )
        for status, number in status_counts(views).items()
    ]
    for words in other_counts(rows):
        number, _, what = words.partition(" ")
        parts = (tag("strong", number), tag("span", what, class_="muted"))
        tiles.append(tag("li", badge(Status.FAIL), *parts, class_="tile"))
    return tag("ul", tiles, class_="tiles", aria_label="Verdicts")


def attention(views: Sequence[CaseView], rows: Sequence[Row], link_of: dict[int, str]) -> Markup:
    """What needs a person, with reasons; a word where there is nothing.

    Args:
        rows: of a merge; those that no view stands for come first: starts, cases that did not run,
            ratios, other tests.
        link_of: anchors of views' details, by their ``id()``.
    """
    found = failed_first(views)
    others = open_rows(rows)
    if not found and not others:
        doubtful = sum(bool(view.doubts) for view in views)
        words = (
            f"No case failed. The times of {counted(doubtful, 'case')} are in doubt: the "
            "details say why."
        )
        lead = words if doubtful else "No case failed, and every measurement counts."
        return section("attention", "Nothing needs attention", lead=lead)
    lines = []
    for row in others[:_MOST_ROWS]:
        why = _why(row.reason, row.failure.remedy if row.failure else "", row.failure)
        lines.append(table_row((row.name, badge(row.status), why)))
    for view in found[:_MOST_ROWS]:
        why = _why(view.reason, view.remedy, view.last.failure)
        lines.append(table_row((case_link(view, link_of), badge(view.status), why), view.tags))
    parts = other_counts(rows)
    if found:
        parts.append(
            f"{counted(len(found), 'case')} {'needs' if len(found) == 1 else 'need'} attention"
        )
    head = ("Case", "Verdict", "Why, and what next")
    return section(
        "attention",
        ", ".join(parts),
        table(head, lines, class_="reasons", caption="Cases that need attention"),
        more(max(len(found), len(others)) - _MOST_ROWS, _LEFT_OUT),
    )


def _why(reason: str, remedy: str, failure: Failure | None) -> Markup:
    evidence = failure.evidence if failure else ()
    return join(
        tag("p", clip(reason, 800)),
        tag("p", clip(remedy, 800), class_="muted") if remedy else None,
        tag(
            "details",
            tag("summary", "Evidence"),
            tag("pre", clip("\n".join(evidence), 6000), tabindex=0),
        )
        if evidence
        else None,
    )


def waivers(told: Sequence[Told]) -> Markup | None:
    """What is waived for a known bug, what has expired, what is needed no longer."""
    if not told:
        return None
    items = [
        tag("li", clip(one.words, 800), " (", link(one.bug, "bug"), ")")
        for one in told[:_MOST_ROWS]
    ]
    return section(
        "waivers",
        "Known bugs",
        tag("ul", items, class_="left-out", tabindex=0),
        more(len(told) - _MOST_ROWS, _LEFT_OUT),
        lead="Failures that waivers.yaml of the baselines folder expects, and what became of them.",
    )


def ratios(rows: Sequence[Row]) -> Markup | None:
    """Gates across cases, as a merge with a matrix has judged them."""
    found = [row for row in rows if row.kind == "ratio"]
    if not found:
        return None
    lines = [
        (row.name.removeprefix("ratio "), badge(row.status), clip(row.reason, 800))
        for row in found[:_MOST_ROWS]
    ]
    head = ("Ratio", "Verdict", "Why")
    return section(
        "ratios",
        "Ratios",
        table(head, lines, class_="reasons", caption="Ratios across cases"),
        more(len(found) - _MOST_ROWS, _LEFT_OUT),
    )


def intervals(views: Sequence[CaseView]) -> Markup | None:
    """What gates compared: change, interval, tolerance, worst first; what held is folded."""
    found = [
        (view, one, one.change)
        for view in views
        if view.last.verdict
        for one in view.last.verdict.metrics
        if one.change is not None
    ]
    if not found:
        return None
    order = list(Status)
    found.sort(key=lambda compared: (order.index(compared[1].status), compared[2].estimate))
    reach = max(
        max(abs(change.low), abs(change.high), one.tolerance or 0) for _, one, change in found
    )
    edge = min(max(reach, 0.02), 0.5) * 1.05
    scale = Scale("linear", -edge, edge, 4, 196)
    within = (Status.PASS, Status.UNGATED)
    open_ones = [compared for compared in found if compared[1].status not in within]
    held = [compared for compared in found if compared[1].status in within]
    lead = (
        f"A bar is the 95% interval of the change, from -{scale.high:.0%} to +{scale.high:.0%}, "
        "its dot the estimate; the shaded side is what the tolerance does not allow."
    )
    summary = f"{len(held):,} {'comparison' if len(held) == 1 else 'comparisons'} within tolerance"
    return section(
        "intervals",
        "Compared with before",
        _comparisons(open_ones, scale) if open_ones else None,
        tag("details", tag("summary", summary), _comparisons(held, scale)) if held else None,
        lead=lead,
    )


def _comparisons(found: Sequence[tuple[CaseView, MetricVerdict, Change]], scale: Scale) -> Markup:
    head = ("Case", "Verdict", "Metric", "Interval", "Change", "From, to")
    rows = [_row(*compared, scale) for compared in found[:_MOST_ROWS]]
    return join(
        table(head, rows, class_="numbers intervals", caption="Changes with intervals"),
        more(len(found) - _MOST_ROWS, _LEFT_OUT),
    )


def _row(view: CaseView, one: MetricVerdict, change: Change, scale: Scale) -> Markup:
    moved = _delta(percent(change.estimate), f"{percent(change.low)} to {percent(change.high)}")
    sides = _delta(shown(one.metric, change.now), f"from {shown(one.metric, change.before)}")
    bar = _bar(one, change, scale)
    return table_row((view.id, badge(one.status), one.metric, bar, moved, sides), view.tags)


def _delta(words: str, small: str) -> Markup:
    return tag("span", words, tag("small", small), class_="delta")


def _bar(one: MetricVerdict, change: Change, scale: Scale) -> Markup:
    metric = METRICS.get(one.metric)
    lower_is_better = metric is not None and metric.direction == "lower"
    zone = None
    if one.tolerance is not None:
        edge = scale(one.tolerance if lower_is_better else -one.tolerance)
        left, right = (edge, 200.0) if lower_is_better else (0.0, edge)
        zone = tag("rect", x=left, y=0, width=max(right - left, 0), height=18, class_="zone")
    words = interval(change)
    words += f", tolerance {size(one.tolerance)}" if one.tolerance is not None else ""
    return tag(
        "svg",
        zone,
        tag("line", x1=scale(0), x2=scale(0), y1=0, y2=18, class_="axis"),
        tag("line", x1=scale(change.low), x2=scale(change.high), y1=9, y2=9, class_="interval"),
        tag("circle", cx=scale(change.estimate), cy=9, r=3.5, class_="estimate"),
        viewBox="0 0 200 18",
        class_=f"bar {one.status.value.lower()}",
        role="img",
        aria_label=words,
    )


_METRICS = (
    "output_tput_per_gpu",
    "interactivity",
    "ttft_p50",
    "tpot_p50",
    "acceptance_length",
    "energy_per_output_token",
)
_MOST_CHANGES = 400


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
        for pair in common[:_MOST_CHANGES]
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
        more(len(common) - _MOST_CHANGES, "rows are left out"),
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
        gone, fresh = _flags_of(other) - _flags_of(init), _flags_of(init) - _flags_of(other)
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


def _flags_of(init: InitResult) -> set[str]:
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
