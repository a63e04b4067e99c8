"""Servers: their starts, what drafts achieved, what ran (to copy), and their cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pytest_gpubench.model.frozen import entries, mapping
from pytest_gpubench.model.grouping import grouped
from pytest_gpubench.model.metrics import ACCEPTANCE
from pytest_gpubench.model.printing import counted
from pytest_gpubench.model.verdicts import Status
from pytest_gpubench.report.html_cases import case_details
from pytest_gpubench.report.html_chart import COLOURS, SHAPES, Axis, Chart, Mark, Series, draw
from pytest_gpubench.report.html_markup import (
    Child,
    Markup,
    badge,
    clip,
    copyable,
    facts,
    figure,
    join,
    link,
    section,
    shell_text,
    table,
    table_row,
    tag,
)
from pytest_gpubench.report.numbers import finite, seconds, short
from pytest_gpubench.report.read_results import read_whole
from pytest_gpubench.report.results import PHASE_NAMES, START_PHASES, InitResult
from pytest_gpubench.report.views import CaseView

_MOST_STARTS = 60


def startup(inits: Sequence[InitResult]) -> Markup | None:
    """Start-up phases of every launch, slowest first."""
    started = sorted(
        (init for init in inits if init.seconds > 0), key=lambda one: one.seconds, reverse=True
    )
    if not started:
        return None
    most = started[0].seconds
    rows = [
        table_row((_start_name(init), _phase_bar(init, most), seconds(init.seconds)))
        for init in started[:_MOST_STARTS]
    ]
    used = [
        phase for phase in START_PHASES if any(init.parts.get(phase, 0) > 0 for init in started)
    ]
    legend = []
    for phase in used:
        block = tag("span", class_=f"block p{START_PHASES.index(phase)}")
        legend.append(tag("li", block, PHASE_NAMES.get(phase, phase)))
    more = len(started) - _MOST_STARTS
    head = ("Server", "Phases", "Ready after")
    return section(
        "startup",
        "Start-up",
        tag("ul", legend, class_="legend", aria_label="Phases"),
        table(head, rows, class_="bars", caption="Start-up phases per server"),
        tag("p", f"The {more} fastest starts are left out.", class_="note") if more > 0 else None,
    )


def _start_name(init: InitResult) -> str:
    return init.server if init.launch.label == "launch-1" else f"{init.server} {init.launch.label}"


def _phase_bar(init: InitResult, most: float) -> Markup:
    at, boxes, words = 0.0, [], []
    for index, (phase, length) in enumerate(init.parts.items()):
        wide = length / most * 400
        if length > 0:
            words.append(f"{PHASE_NAMES.get(phase, phase)} {seconds(length)}")
        if wide >= 0.3:
            title, drawn = tag("title", words[-1]), max(wide - 0.6, 0.3)
            boxes.append(tag("rect", title, x=at, y=2, width=drawn, height=14, class_=f"p{index}"))
        at += wide
    look = {"viewBox": "0 0 400 18", "class_": "bar phases"}
    return tag("svg", boxes, **look, role="img", aria_label="; ".join(words))


def acceptance(views: Sequence[CaseView]) -> Markup | None:
    """Share of accepted draft tokens per position, the mean over the cases of a server."""
    drafted = [view for view in views if _positions(view)]
    if not drafted:
        return None
    figures = []
    for model, own in grouped(drafted, lambda view: view.model).items():
        lines = grouped(own, lambda view: f"{view.hardware.upper()} {view.topology}")
        omitted = f" (first {COLOURS} of {len(lines)})" if len(lines) > COLOURS else ""
        figures.append(figure(model, draw(_acceptance_chart(lines)), omitted))
    lead = (
        "The share of drafts whose token at the position was accepted; acceptance length "
        "is 1 plus their sum."
    )
    lengths = [view.metrics[ACCEPTANCE] for view in views if ACCEPTANCE in view.metrics]
    if lengths:
        lead += f" Acceptance length: {min(lengths):.2f} to {max(lengths):.2f} tokens."
    return section("acceptance", "Drafts", tag("div", figures, class_="grid"), lead=lead)


def _positions(view: CaseView) -> tuple[float, ...]:
    measurement = view.last.measurement
    drafting = measurement.drafting if measurement else None
    return tuple(drafting.acceptance_per_position) if drafting and view.metrics else ()


def _acceptance_chart(lines: Mapping[str, Sequence[CaseView]]) -> Chart:
    series = []
    for index, (name, views) in enumerate(list(lines.items())[:COLOURS]):
        columns = [_positions(view) for view in views]
        depth = min(map(len, columns))
        means = [
            100 * sum(column[position] for column in columns) / len(columns)
            for position in range(depth)
        ]
        marks = tuple(
            Mark(place, mean, f"{name}, position {place}\n{mean:.1f}%")
            for place, mean in enumerate(means, 1)
        )
        series.append(Series(name, marks, index, index % SHAPES))
    described = "; ".join(
        f"{one.name} {', '.join(f'{mark.y:.0f}%' for mark in one.marks)}" for one in series
    )
    x = Axis(
        "position in the draft",
        zero=False,
        form=lambda value: f"{value:.0f}" if value == int(value) else "",
    )
    return Chart(
        "Acceptance per position", described, x, Axis("% accepted", top=100.0), tuple(series)
    )


def servers(
    views: Sequence[CaseView],
    inits: Sequence[InitResult],
    link_of: dict[int, str],
    budget: int,
) -> Markup | None:
    """Per server what ran, its facts and its cases, as far as the budget (in characters) goes."""
    starts = grouped(inits, lambda init: init.server)
    cases = grouped(views, lambda view: view.last.server)
    blocks: list[Markup] = []
    spent, short_of, cases_left_out = 0, 0, 0
    for key in starts | cases:
        if spent > budget:
            short_of += 1
            continue
        block, omitted = _server(
            key, cases.get(key, []), starts.get(key, []), link_of, budget - spent
        )
        cases_left_out += omitted
        spent += len(block)
        blocks.append(block)
    if not blocks:
        return None
    notes = [f"{short_of} servers"] if short_of else []
    notes += [f"the charts of {cases_left_out} cases"] if cases_left_out else []
    words = (
        f"To keep this file small, {' and '.join(notes)} are left out; the result folders have "
        "everything."
    )
    note = tag("p", words, class_="note") if notes else None
    return section("servers", "Servers", note, blocks)


def _server(
    key: str,
    views: Sequence[CaseView],
    inits: Sequence[InitResult],
    link_of: dict[int, str],
    budget: int,
) -> tuple[Markup, int]:
    record = read_whole(inits[-1].path if inits else views[-1].last.path)
    failures = [init.failure for init in inits if init.failure]
    statuses = [view.status for view in views] + ([Status.FAIL] if failures else [])
    status = min(statuses, key=list(Status).index, default=None)
    head = tag(
        "summary",
        tag("span", key, class_="key"),
        tag("span", f" {counted(len(views), 'case')}", class_="muted"),
        join(" ", badge(status)) if status else None,
    )
    made: list[Markup] = []
    omitted = 0
    spent = 0
    for view in views:
        detail = case_details(
            view, read_whole(view.last.path), link_of.get(id(view), ""), charts=spent < budget
        )
        omitted += spent >= budget
        spent += len(detail)
        made.append(detail)
    argv = [word for word in entries(record.get("argv")) if isinstance(word, str)]
    env = {
        str(name): value
        for name, value in mapping(record.get("env")).items()
        if isinstance(value, str)
    }
    body = join(
        [
            tag(
                "p",
                clip(f"{one.summary} [{one.cause}, {one.failure_class}] {one.remedy}", 2000),
                class_="problem",
            )
            for one in failures
        ],
        facts(_facts(record, views)),
        copyable(shell_text(argv, env), f"the command of {key}")
        if argv
        else tag("p", "The server was not started here.", class_="muted"),
        made,
    )
    return tag("details", head, body, class_="server"), omitted


def _facts(record: Mapping[str, Any], views: Sequence[CaseView]) -> list[tuple[str, Child]]:
    engine, host, git = (mapping(record.get(name)) for name in ("engine", "host", "git"))
    gpus = [str(mapping(gpu).get("name")) for gpu in entries(host.get("gpus"))]
    hardware = (
        f"{len(gpus)} x {gpus[0]}" if gpus else str(mapping(host.get("cpu")).get("model") or "")
    )
    checks = mapping(record.get("checks"))
    unseen = ", ".join(str(item) for item in entries(checks.get("unseen")))
    commits = [
        f"{name} {str(commit)[:12]}" for name, commit in mapping(record.get("commits")).items()
    ]
    tokens = finite(engine.get("kv_cache_tokens"))
    source = views[-1].last.source if views else ""
    commit = str(git.get("commit") or "")[:12]
    if git.get("dirty"):
        commit += " with uncommitted changes"
    return [
        ("Engine", _text(engine.get("version"))),
        ("Hardware", hardware),
        ("Host", _text(host.get("hostname"))),
        ("Driver", _text(host.get("driver"))),
        ("Attention", _text(engine.get("attention_backend"))),
        ("Draft", _text(engine.get("speculative_method"))),
        ("Draft attention", _text(engine.get("draft_attention_backend"))),
        ("KV cache", f"{short(tokens)} tokens" if tokens else ""),
        ("Compile cache", _text(engine.get("compile_cache"))),
        ("Image", views[-1].last.image if views else ""),
        ("Recipe's source", link(source) if source else ""),
        ("Weights", ", ".join(commits)),
        ("Repository", commit),
        ("Checked", ", ".join(str(item) for item in entries(checks.get("checked")))),
        ("Not shown by the log", unseen),
    ]


def _text(value: object) -> str:
    return str(value) if isinstance(value, str | int | float) else ""
