"""The report as one HTML file: no network, no library, nothing executed but its own small script.

Whatever comes from a record is escaped where the markup is made (``html_markup``). On top of that
the policy of the page allows the shipped style sheet and script by their hashes and nothing else:
no network, no image, no frame, no inline handler.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from pytest_gpubench._version import __version__
from pytest_gpubench.host.files import write_text
from pytest_gpubench.model.printing import counted, listed
from pytest_gpubench.model.verdicts import Status
from pytest_gpubench.report.html_cases import case_table, server_table
from pytest_gpubench.report.html_markup import Child, Markup, clip, facts, join, section, shown, tag
from pytest_gpubench.report.html_performance import performance
from pytest_gpubench.report.html_servers import acceptance, servers, startup
from pytest_gpubench.report.html_verdicts import (
    attention,
    difference,
    intervals,
    ratios,
    verdict_counts,
    waivers,
)
from pytest_gpubench.report.merge_runs import Merged, merge
from pytest_gpubench.report.numbers import finite
from pytest_gpubench.report.results import CaseResult, Loaded, Result
from pytest_gpubench.report.views import CaseView, case_views
from pytest_gpubench.report.wall_time import wall_section

DETAILS_BUDGET = 4_200_000
"""Characters for the details of servers and cases: with 200 cases the file stays below 6 MB."""
_MOST_NAMED = 100


def render(
    loaded: Loaded,
    against: Loaded | None = None,
    *,
    merged: Merged | None = None,
    title: str = "Serving benchmarks",
    against_name: str = "",
) -> str:
    """The page of everything that was loaded.

    Args:
        merged: what a merge says about it (with a matrix: also what has not reported); made here if
        not given.
    """
    merged = merged or merge(loaded)
    views = case_views(_in_order(loaded.cases()))
    inits = sorted(loaded.inits(), key=lambda init: init.server)
    link_of = {id(view): f"case-{number}" for number, view in enumerate(views, 1)}
    other = case_views(_in_order(against.cases())) if against else []
    sections: list[Child] = [
        attention(views, merged.rows, link_of),
        waivers(merged.waivers),
        _merge_notes(merged),
        performance(views),
        intervals(views),
        ratios(merged.rows),
        difference(other, views, list(against.inits()), inits, against_name or "the other results")
        if against
        else None,
        acceptance(views),
        startup(inits),
        wall_section(loaded),
        server_table(views),
        case_table(views, [row for row in merged.rows if row.kind == "start"], link_of),
        servers(views, inits, link_of, DETAILS_BUDGET),
        _left_out(loaded, against),
    ]
    header = join(
        _subtitle(loaded),
        verdict_counts(views, merged.rows),
        _highlights(views),
        _facts(loaded, views),
    )
    return document(title, header, sections, _footer(loaded), bar=_filter_bar(views))


def write(path: Path, page: str) -> None:
    """Write a page.

    Raises:
        GpubenchError: if the disk refuses it.
    """
    write_text(path, page, what="the report", remedy="choose another file")


def _in_order(results: Iterable[CaseResult]) -> list[CaseResult]:
    def place(result: CaseResult) -> tuple[Any, ...]:
        sizes = (finite(result.workload.get(name)) or 0.0 for name in ("isl", "osl", "conc"))
        return result.identity.label, result.topology.label, *sizes, result.finished

    return sorted(results, key=place)


def _asset(name: str) -> Markup:
    return Markup(
        files("pytest_gpubench.report").joinpath("html_assets", name).read_text(encoding="utf-8")
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def document(
    title: str, header: Child, sections: Child, footer: str, *, bar: Markup | None = None
) -> str:
    """A page with the shipped style sheet and script, and the policy that allows nothing else."""
    theme = tag("button", "Theme", type="button", class_="theme", hidden=True)
    body = (
        tag("a", "Skip to the results", href="#results", class_="skip"),
        tag("header", tag("div", tag("h1", title), theme, class_="top"), header),
        bar,
        tag("main", sections, id="results"),
        tag("footer", tag("p", footer)),
    )
    style, script = _asset("report.css"), _asset("report.js")
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name_="referrer", content="no-referrer"),
        tag("meta", name_="generator", content=f"pytest-gpubench {__version__}"),
        tag("title", title),
        tag("style", style),
    )
    return (
        "<!doctype html>\n"
        + tag("html", head, tag("body", body, tag("script", script)), lang="en")
        + "\n"
    )


def _subtitle(loaded: Loaded) -> Markup:
    times = sorted(case.finished for case in loaded.cases())
    ends = list(dict.fromkeys(f"{time:%Y-%m-%d %H:%M}" for time in (*times[:1], *times[-1:])))
    span = f"{' to '.join(ends)} UTC" if ends else ""
    cases = len({(case.case, case.launch.arm) for case in loaded.cases()})
    servers_seen = len(
        {case.server for case in loaded.cases()} | {init.server for init in loaded.inits()}
    )
    words = [counted(cases, "case"), counted(servers_seen, "server")]
    words += [counted(len(loaded.runs), "run"), span]
    return tag("p", " · ".join(word for word in words if word), class_="muted")


def _highlights(views: Sequence[CaseView]) -> Markup | None:
    """The best of what counts, in sentences."""
    counted_views = [view for view in views if view.status is not Status.INVALID]
    lines = []
    for metric, words in (
        ("output_tput_per_gpu", "Highest throughput per GPU"),
        ("interactivity", "Highest interactivity"),
    ):
        found = [view for view in counted_views if view.metrics.get(metric, 0) > 0]
        if found:
            best = max(found, key=lambda view: view.metrics[metric])
            value = tag("b", shown(metric, best.metrics[metric]))
            lines.append(tag("li", f"{words}: ", value, f" with {best.id}"))
    return tag("ul", lines, class_="highlights") if lines else None


def _facts(loaded: Loaded, views: Sequence[CaseView]) -> Markup:
    def different(values: Any) -> str:
        return listed(sorted({clip(str(value), 120) for value in values if value}), 6)

    everything: list[Result] = [*loaded.cases(), *loaded.inits()]
    return facts(
        (
            ("Engine", different(one.versions.engine for one in everything)),
            ("Hardware", different(view.last.device for view in views)),
            ("Driver", different(one.versions.driver for one in everything)),
            ("Hosts", different(one.hostname for one in everything)),
            ("Repository", different(one.versions.commit[:12] for one in everything)),
            ("pytest-gpubench", different(one.versions.plugin for one in everything)),
        )
    )


def _filter_bar(views: Sequence[CaseView]) -> Markup | None:
    if not views:
        return None
    groups = (
        ("Hardware", sorted({(view.hardware, view.hardware.upper()) for view in views})),
        ("Topology", sorted({(view.topology.lower(), view.topology) for view in views})),
        ("Decoding", sorted({(view.spec or "plain", view.spec or "plain") for view in views})),
        ("Lengths", sorted({(view.shape, view.shape) for view in views})),
        ("Verdict", sorted({(view.status.value.lower(), view.status.value) for view in views})),
    )
    fields = [
        tag("fieldset", tag("legend", name), [_choice(value, label) for value, label in values])
        for name, values in groups
        if len(values) > 1
    ]
    search = tag("input", type="search", placeholder="Find a case", aria_label="Find a case")
    inner = tag(
        "div",
        fields,
        search,
        tag("output", aria_live="polite", class_="muted"),
        class_="bar-inner",
        hidden=True,
    )
    return tag("div", inner, class_="bar-outer", role="search", aria_label="Filter")


def _choice(value: str, label: str) -> Markup:
    return tag("label", tag("input", type="checkbox", value=value, checked=True), label)


def _left_out(loaded: Loaded, against: Loaded | None) -> Markup | None:
    found = [*loaded.left_out, *(against.left_out if against else ())]
    if not found:
        return None
    return section(
        "left-out",
        f"Left out: {counted(len(found), 'finding')}",
        _notes(map(str, found)),
        lead="These files, or parts of them, could not be used and are not in any number above.",
    )


def _notes(lines: Iterable[str]) -> Markup:
    items = [tag("li", clip(line, 500)) for line in lines]
    more = len(items) - _MOST_NAMED
    return join(
        tag("ul", items[:_MOST_NAMED], class_="left-out", tabindex=0),
        tag("p", f"and {more:,} more") if more > 0 else None,
    )


def _merge_notes(merged: Merged) -> Markup | None:
    """Versions that disagree, attempts that do not count, what no job was to run."""
    notes = [f"versions disagree: {sentence}" for sentence in merged.disagreements]
    notes += [f"in no job: {sentence}" for sentence in merged.left_out]
    notes += merged.jobs
    notes += [f"{row.name}: {note}" for row in merged.rows for note in row.notes]
    return section("merge", "Merged from several runs", _notes(notes)) if notes else None


def _footer(loaded: Loaded) -> str:
    names = ", ".join(run.name for run in loaded.runs[:20])
    names += " …" if len(loaded.runs) > 20 else ""
    return (
        f"Made by pytest-gpubench {__version__} from {names or 'no runs'}. The "
        "definitions of metrics are in its documentation."
    )
