"""The summary: what needs a person first, then what was compared with what, with intervals."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_gpubench.gate.waivers import Told
from pytest_gpubench.gate.wording import count, percent, size
from pytest_gpubench.model.metrics import METRICS
from pytest_gpubench.model.verdicts import MetricVerdict, Status
from pytest_gpubench.report.html_geometry import Scale
from pytest_gpubench.report.html_markup import (
    Child,
    Markup,
    badge,
    clip,
    join,
    link,
    section,
    table,
    table_row,
    tag,
)
from pytest_gpubench.report.merge_runs import Row
from pytest_gpubench.report.numbers import shown
from pytest_gpubench.report.views import (
    CaseView,
    failed_first,
    open_rows,
    other_counts,
    status_counts,
)

_MOST_ROWS = 200
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
            f"No case failed. The times of {count(doubtful, 'case')} are in doubt: the "
            "details say why."
        )
        lead = words if doubtful else "No case failed, and every measurement counts."
        return section("attention", "Nothing needs attention", tag("p", lead, class_="lead"))
    lines = [table_row((row.name, badge(row.status), _why(row))) for row in others[:_MOST_ROWS]]
    lines += [
        table_row((_name(view, link_of), badge(view.status), _reason(view)), view.tags)
        for view in found[:_MOST_ROWS]
    ]
    parts = other_counts(rows)
    if found:
        parts.append(
            f"{count(len(found), 'case')} {'needs' if len(found) == 1 else 'need'} attention"
        )
    return section(
        "attention",
        ", ".join(parts),
        table(
            ("Case", "Verdict", "Why, and what next"),
            lines,
            class_="reasons",
            caption="Cases that need attention",
        ),
        _rest(max(len(found), len(others))),
    )


def _why(row: Row) -> Markup:
    failure = row.failure
    return _words(
        row.reason, failure.remedy if failure else "", failure.evidence if failure else ()
    )


def _reason(view: CaseView) -> Markup:
    return _words(view.reason, view.remedy, view.last.failure.evidence if view.last.failure else ())


def _words(reason: str, remedy: str, evidence: Sequence[str]) -> Markup:
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


def _name(view: CaseView, link_of: dict[int, str]) -> Child:
    anchor = link_of.get(id(view))
    return tag("a", view.id, href=f"#{anchor}") if anchor else view.id


def waivers(told: Sequence[Told]) -> Markup | None:
    """What is waived for a known bug, what has expired, what is needed no longer."""
    if not told:
        return None
    items = [
        tag("li", clip(one.words, 800), " (", link(one.bug, "bug"), ")")
        for one in told[:_MOST_ROWS]
    ]
    lead = "Failures that waivers.yaml of the baselines folder expects, and what became of them."
    return section(
        "waivers",
        "Known bugs",
        tag("p", lead, class_="lead"),
        tag("ul", items, class_="left-out", tabindex=0),
        _rest(len(told)),
    )


def ratios(rows: Sequence[Row]) -> Markup | None:
    """Gates across cases, as a merge with a matrix has judged them."""
    found = [row for row in rows if row.kind == "ratio"]
    if not found:
        return None
    lines = [
        table_row((row.name.removeprefix("ratio "), badge(row.status), clip(row.reason, 800)))
        for row in found[:_MOST_ROWS]
    ]
    head = ("Ratio", "Verdict", "Why")
    return section(
        "ratios",
        "Ratios",
        table(head, lines, class_="reasons", caption="Ratios across cases"),
        _rest(len(found)),
    )


def intervals(views: Sequence[CaseView]) -> Markup | None:
    """What gates compared: change, 95% interval and tolerance of every metric, worst first; what
    held is folded."""
    found = [
        (view, one)
        for view in views
        if view.last.verdict
        for one in view.last.verdict.metrics
        if one.change is not None
    ]
    if not found:
        return None
    order = list(Status)
    found.sort(
        key=lambda pair: (
            order.index(pair[1].status),
            pair[1].change.estimate if pair[1].change else 0,
        )
    )
    reach = max(
        max(abs(one.change.low), abs(one.change.high), one.tolerance or 0)
        for _, one in found
        if one.change
    )
    scale = Scale(
        "linear", -min(max(reach, 0.02), 0.5) * 1.05, min(max(reach, 0.02), 0.5) * 1.05, 4, 196
    )
    open_ones = [pair for pair in found if pair[1].status not in (Status.PASS, Status.UNGATED)]
    held = [pair for pair in found if pair not in open_ones]
    lead = (
        f"A bar is the 95% interval of the change, from -{scale.high:.0%} to +{scale.high:.0%}, "
        "its dot the estimate; the shaded "
        "side is what the tolerance does not allow."
    )
    summary = f"{len(held):,} {'comparison' if len(held) == 1 else 'comparisons'} within tolerance"
    return section(
        "intervals",
        "Compared with before",
        tag("p", lead, class_="lead"),
        _comparisons(open_ones, scale) if open_ones else None,
        tag("details", tag("summary", summary), _comparisons(held, scale)) if held else None,
    )


def _comparisons(found: Sequence[tuple[CaseView, MetricVerdict]], scale: Scale) -> Markup:
    head = ("Case", "Verdict", "Metric", "Interval", "Change", "From, to")
    rows = [_row(view, one, scale) for view, one in found[:_MOST_ROWS]]
    return join(
        table(head, rows, class_="numbers intervals", caption="Changes with intervals"),
        _rest(len(found)),
    )


def _row(view: CaseView, one: MetricVerdict, scale: Scale) -> Markup:
    change = one.change
    assert change is not None  # noqa: S101  # only those with a change come here
    moved = tag(
        "span",
        percent(change.estimate),
        tag("small", f"{percent(change.low)} to {percent(change.high)}"),
        class_="delta",
    )
    sides = tag(
        "span",
        shown(one.metric, change.now),
        tag("small", f"from {shown(one.metric, change.before)}"),
        class_="delta",
    )
    return table_row(
        (view.id, badge(one.status), one.metric, _bar(one, scale), moved, sides), view.tags
    )


def _bar(one: MetricVerdict, scale: Scale) -> Markup:
    change = one.change
    assert change is not None  # noqa: S101  # as above
    metric = METRICS.get(one.metric)
    lower_is_better = metric is not None and metric.direction == "lower"
    zone = None
    if one.tolerance is not None:
        edge = scale(one.tolerance if lower_is_better else -one.tolerance)
        left, right = (edge, 200.0) if lower_is_better else (0.0, edge)
        zone = tag("rect", x=left, y=0, width=max(right - left, 0), height=18, class_="zone")
    words = (
        f"{percent(change.estimate)}, 95% interval {percent(change.low)} to {percent(change.high)}"
    )
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


def _rest(number: int) -> Markup | None:
    if number <= _MOST_ROWS:
        return None
    return tag(
        "p",
        f"{number - _MOST_ROWS:,} more rows are left out here; the CSV export has them all.",
        class_="note",
    )
