"""The report for a pull-request comment and a CI summary: what needs a person, the rest folded,
never longer than they take."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pytest_gpubench.model.evaluation import ACCURACY
from pytest_gpubench.model.grouping import grouped
from pytest_gpubench.model.metrics import ACCEPTANCE
from pytest_gpubench.model.printing import counted, printable
from pytest_gpubench.model.verdicts import Status
from pytest_gpubench.report.html_markup import GLYPHS, clip
from pytest_gpubench.report.merge_runs import Merged, Row, merge
from pytest_gpubench.report.numbers import columns, seconds, with_values
from pytest_gpubench.report.results import Loaded
from pytest_gpubench.report.terminal import frontier
from pytest_gpubench.report.views import (
    CaseView,
    case_views,
    failed_first,
    open_rows,
    other_counts,
    server_views,
    status_counts,
)
from pytest_gpubench.report.wall_time import wall_rows

LONGEST_COMMENT = 60_000
"""GitHub takes 65,536 characters for a comment, 1 MiB for a job's summary; one limit for both."""
_MOST_ATTENTION = 50
_LONGEST_WAIVER = 800
"""With the address of the bug, which comes after what failed."""
_COLUMNS = columns(
    *("output_tput_per_gpu", "interactivity", "ttft_p50", "tpot_p50", ACCEPTANCE, ACCURACY)
)


def markdown(
    loaded: Loaded,
    *,
    merged: Merged | None = None,
    title: str = "Serving benchmarks",
    longest: int = LONGEST_COMMENT,
) -> str:
    """GitHub-flavoured Markdown of everything loaded, at most ``longest`` characters; ``merged``
    adds what has not reported."""
    merged = merged or merge(loaded)
    views = case_views(loaded.cases())
    counts = ", ".join(
        f"{number} {status.value}" for status, number in status_counts(views).items()
    )
    head = [
        f"### {plain(title)}",
        "",
        f"**{counts or 'no results'}** in {counted(len(views), 'case')}",
    ]
    head[-1] = ", ".join([head[-1], *other_counts(merged.rows)])
    starts = [row for row in merged.rows if row.kind == "start"]
    notes = [f"- versions disagree: {plain(sentence)}" for sentence in merged.disagreements[:10]]
    notes += [f"- {plain(sentence)}" for sentence in merged.jobs[:10]]
    parts = (
        *(head, _attention(views, open_rows(merged.rows)), _best(views), _waivers(merged)),
        *(_servers(views), notes, _folded(views, starts), _wall_time(loaded), _left_out(loaded)),
    )
    return _within(["\n".join(lines) for lines in parts if lines], longest)


def plain(text: str, longest: int = 300) -> str:
    """A text in one line that no Markdown or HTML in it can change, and that mentions nobody."""
    line = clip(printable(" ".join(text.split())), longest)
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"([\\`*_{}\[\]()#+!|~$])", r"\\\1", line)
    return re.sub(r"@|://|\bwww\.|\bGH-", lambda found: f"{found[0][0]}&#8203;{found[0][1:]}", line)


def _attention(views: Sequence[CaseView], others: Sequence[Row]) -> list[str]:
    rows = [
        _attention_row(row.name, row.status, row.reason, row.failure.remedy if row.failure else "")
        for row in others
    ]
    rows += [
        _attention_row(view.id, view.status, view.reason, view.remedy)
        for view in failed_first(views)
    ]
    if not rows:
        return []
    lines = _first(rows, _MOST_ATTENTION, "\n… ")
    return ["| case | verdict | why |", "|---|---|---|", *lines]


def _attention_row(name: str, status: Status, reason: str, remedy: str) -> str:
    why = plain(reason) + (f"<br>{plain(remedy)}" if remedy else "")
    return f"| {plain(name)} | {GLYPHS[status]} {status.value} | {why} |"


def _waivers(merged: Merged) -> list[str]:
    """What is waived for a known bug, what has expired, what is needed no longer."""
    lines = [f"- {plain(told.words, _LONGEST_WAIVER)}" for told in merged.waivers]
    return _first(lines, _MOST_ATTENTION)


def _best(views: Sequence[CaseView]) -> list[str]:
    """Ends of the Pareto frontier per model and lengths."""
    measured = [
        view
        for view in views
        if view.metrics.get("interactivity", 0) > 0 and "output_tput_per_gpu" in view.metrics
    ]
    groups = grouped(measured, lambda view: (view.model, view.shape))
    lines = []
    for (model, shape), group in list(groups.items())[:10]:
        best = frontier(
            group,
            lambda view: view.metrics["interactivity"],
            lambda view: view.metrics["output_tput_per_gpu"],
        )
        ends = " to ".join(
            f"{view.metrics['output_tput_per_gpu']:,.0f} tok/s/GPU at "
            f"{view.metrics['interactivity']:,.1f} tok/s/user "
            f"({plain(f'{view.hardware} {view.line} {view.load}')})"
            for view in ([best[0], best[-1]] if len(best) > 1 else best)
        )
        lines.append(f"- {plain(f'{model} {shape}')}: {ends}")
    return lines


def _servers(views: Sequence[CaseView]) -> list[str]:
    """Speed, acceptance and accuracy of each server that was asked questions, in one line."""
    return [
        f"- {plain(view.name)}: {GLYPHS[view.status]} "
        f"{plain(', '.join((*view.speed, *view.accuracy)))}"
        for view in server_views(views)[:_MOST_ATTENTION]
    ]


def _folded(views: Sequence[CaseView], starts: Sequence[Row]) -> list[str]:
    shown = with_values(_COLUMNS, [view.metrics for view in views])
    if not views and not starts:
        return []
    rows = [
        f"| case | verdict |{''.join(f' {column.title} |' for column in shown)}",
        f"|---|---|{'---:|' * len(shown)}",
    ]
    for view in views:
        cells = "".join(f" {column.cell(view.metrics, view.hidden)} |" for column in shown)
        rows.append(f"| {plain(view.id)} | {GLYPHS[view.status]} {view.status.value} |{cells}")
    for row in starts:
        verdict = f"{GLYPHS[row.status]} {row.status.value}"
        rows.append(f"| {plain(row.name)} | {verdict} |{' - |' * len(shown)}")
    return _details(f"{counted(len(views), 'case')}, {counted(len(starts), 'start')}", rows)


def _wall_time(loaded: Loaded) -> list[str]:
    """Where the time went, folded."""
    rows = [
        f"| {plain(part.name)} | {seconds(part.seconds)} | {share} |"
        for part, share in wall_rows(loaded)
        if not part.below
    ]
    head = ["| | time | share |", "|---|---:|---:|"]
    return _details("Where the time went", [*head, *rows]) if rows else []


def _left_out(loaded: Loaded) -> list[str]:
    lines = [f"- {plain(str(one))}" for one in loaded.left_out]
    summary = f"Left out: {counted(len(lines), 'finding')}"
    return _details(summary, _first(lines, 20)) if lines else []


def _details(summary: str, lines: Sequence[str]) -> list[str]:
    return [f"<details><summary>{summary}</summary>\n", *lines, "\n</details>"]


def _first(lines: Sequence[str], most: int, bullet: str = "- … ") -> list[str]:
    """At most so many lines, and how many are left out."""
    more = len(lines) - most
    return [*lines[:most], *([f"{bullet}and {more} more"] if more > 0 else [])]


def _within(parts: Sequence[str], longest: int) -> str:
    """The parts as far as they fit; one that does not is cut at a line, its folding closed."""
    note = (
        "\n\n_The rest is left out here: it is too long for this place. The HTML report "
        "has everything._\n"
    )
    text = ""
    for part in parts:
        if len(text) + len(part) + 4 <= longest - len(note):
            text += part + "\n\n"
            continue
        closing = "\n\n</details>" if part.startswith("<details>") else ""
        room = longest - len(text) - len(note) - len(closing)
        cut = part[: max(0, room)].rpartition("\n")[0]
        keeps = cut.count("\n") >= 4
        return f"{text}{cut + closing if keeps else ''}{note}"
    return text.rstrip() + "\n"
