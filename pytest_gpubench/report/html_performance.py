"""Throughput against interactivity, and latency against concurrency."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_gpubench.model.grouping import grouped
from pytest_gpubench.model.verdicts import Status
from pytest_gpubench.report.html_chart import (
    COLOURS,
    SHAPES,
    Axis,
    Chart,
    Mark,
    Series,
    draw,
    marker,
)
from pytest_gpubench.report.html_markup import Markup, figure, join, more, section, shown, tag
from pytest_gpubench.report.numbers import finite, seconds
from pytest_gpubench.report.terminal import frontier
from pytest_gpubench.report.views import CaseView

_USER, _GPU = "interactivity", "output_tput_per_gpu"
_MOST_CHARTS = 60
_LEFT_OUT = "charts are left out: select fewer results for one report"


def performance(views: Sequence[CaseView]) -> Markup:
    """Sections with the charts over all cases; a note where there is nothing to draw."""
    return join(_pareto_section(views), _latency_section(views))


def _pareto_section(views: Sequence[CaseView]) -> Markup | None:
    usable = [
        view for view in views if view.metrics.get(_USER, 0) > 0 and view.metrics.get(_GPU, 0) > 0
    ]
    groups = grouped(usable, lambda view: (view.model, view.shape))
    if not groups:
        return None
    topologies = list(dict.fromkeys(view.topology for view in usable))
    shown_groups = list(groups.items())[:_MOST_CHARTS]
    figures = [_pareto(model, shape, group, topologies) for (model, shape), group in shown_groups]
    lead = (
        "Up and right is better. A line is the Pareto frontier: no measured point of its "
        "hardware and decoding beats the points on "
        "it in both; fainter points are beaten. Shapes tell the topology, numbers the concurrency."
    )
    return section(
        "pareto",
        "Throughput against interactivity",
        _shape_legend(topologies),
        tag("div", figures, class_="grid-wide"),
        more(len(groups) - len(shown_groups), _LEFT_OUT),
        lead=lead,
    )


def _shape_legend(topologies: Sequence[str]) -> Markup:
    items = [tag("li", _swatch(index), name) for index, name in enumerate(topologies)]
    return tag("ul", items, class_="legend", aria_label="Shapes of topologies")


def _swatch(shape: int) -> Markup:
    return tag("svg", marker(shape, 6, 6), viewBox="0 0 12 12", class_="swatch", aria_hidden="true")


def _pareto(model: str, shape: str, views: Sequence[CaseView], topologies: Sequence[str]) -> Markup:
    series: list[Series] = []
    best_words: list[str] = []
    for colour, ((hardware, spec), group) in enumerate(
        grouped(views, lambda view: (view.hardware, view.spec)).items()
    ):
        counted = [view for view in group if view.status is not Status.INVALID]
        best = frontier(counted, lambda view: view.metrics[_USER], lambda view: view.metrics[_GPU])
        name = " ".join(word for word in (hardware.upper(), spec) if word)
        marks = tuple(
            Mark(view.metrics[_USER], view.metrics[_GPU], label=view.load.removeprefix("c"))
            for view in best
        )
        tags = f"{hardware} {spec or 'plain'} {shape}"
        series.append(Series(name, marks, colour, dashed=bool(spec), dots=False, tags=tags))
        beaten = {id(view) for view in group} - {id(view) for view in best}
        for view in group:
            mark = Mark(view.metrics[_USER], view.metrics[_GPU], tip(view))
            look = topologies.index(view.topology) % SHAPES
            faint = id(view) in beaten
            series.append(
                Series(
                    "", (mark,), colour, look, line=False, faint=faint, named=False, tags=view.tags
                )
            )
        if best:
            best_words.append(f"{name} from {_words(best[0])} to {_words(best[-1])}")
    chart = Chart(
        f"{model}, {shape}: throughput per GPU against interactivity",
        f"{len(views)} points. Frontiers: {'; '.join(best_words)}.",
        Axis("interactivity, tok/s per user"),
        Axis("output throughput, tok/s per GPU"),
        tuple(series),
        "inside",
    )
    return figure(
        f"{model} · {shape}", join(draw(chart, 560, 380, "wide"), draw(chart, 344, 300, "narrow"))
    )


def _words(view: CaseView) -> str:
    return (
        f"{view.topology} {view.load} ({shown(_USER, view.metrics[_USER])}, "
        f"{shown(_GPU, view.metrics[_GPU])})"
    )


def tip(view: CaseView) -> str:
    """What a point says about itself."""
    lines = [f"{view.hardware.upper()} {view.line} {view.load}"]
    lines += [shown(name, view.metrics[name]) for name in (_GPU, _USER) if name in view.metrics]
    if {"ttft_p50", "tpot_p50"} <= view.metrics.keys():
        ttft, tpot = view.metrics["ttft_p50"], view.metrics["tpot_p50"]
        lines.append(f"TTFT {seconds(ttft)}, TPOT {seconds(tpot)}")
    return "\n".join([*lines, view.status.value])


def _latency_section(views: Sequence[CaseView]) -> Markup | None:
    groups = grouped(
        views, lambda view: (view.model, view.shape, view.hardware, view.load.startswith("r"))
    )
    lines = list(dict.fromkeys(view.topology for view in views))
    charts = [
        figure(
            f"{hardware.upper()} · {shape} · {title}",
            draw(chart),
            model,
            tags=f"{hardware} {shape}",
        )
        for (model, shape, hardware, open_loop), group in groups.items()
        for title, chart in _latency_charts(group, lines, open_loop=open_loop)
    ]
    if not charts:
        return None
    lead = (
        "Medians over the requests of a case. A dashed line is with a draft; where a curve "
        "bends up, requests wait for each other."
    )
    kept = charts[:_MOST_CHARTS]
    return section(
        "latency",
        "Latency against load",
        tag("div", kept, class_="grid"),
        more(len(charts) - len(kept), _LEFT_OUT),
        lead=lead,
    )


def _latency_charts(
    views: Sequence[CaseView], topologies: Sequence[str], *, open_loop: bool
) -> Iterator[tuple[str, Chart]]:
    def load(view: CaseView) -> float:
        rate = finite(view.last.workload.get("request_rate")) or 0.0
        return rate if open_loop else float(view.conc)

    x = Axis(
        "requests per second" if open_loop else "concurrency",
        "log2",
        zero=False,
        form=lambda value: f"{value:g}",
    )
    for metric, title in (("ttft_p50", "TTFT"), ("tpot_p50", "TPOT")):
        series = []
        for name, group in grouped(views, lambda view: view.line).items():
            usable = sorted(
                (view for view in group if view.metrics.get(metric, 0) > 0 and load(view) > 0),
                key=load,
            )
            if usable:
                marks = tuple(
                    Mark(load(view), view.metrics[metric] * 1000, tip(view)) for view in usable
                )
                colour = topologies.index(usable[0].topology) % COLOURS
                tags = f"{usable[0].topology.lower()} {usable[0].spec or 'plain'}"
                series.append(
                    Series(name, marks, colour, colour, dashed=bool(usable[0].spec), tags=tags)
                )
        values = [mark.y for one in series for mark in one.marks]
        if values:
            wide = max(values) > 20 * min(values)
            words = f"from {min(values):.3g} to {max(values):.3g} ms over {len(values)} points"
            y = Axis("ms", "log10" if wide else "linear")
            yield title, Chart(f"Median {title}", words, x, y, tuple(series))
