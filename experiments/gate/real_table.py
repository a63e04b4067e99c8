"""The tables of experiments/gate/README.md about the real engine, from results/real.json."""

from __future__ import annotations

import os
import platform
import re
import statistics
from collections.abc import Iterator, Mapping
from math import log
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- real: begin -->", "<!-- real: end -->"
_SPREAD = (("output_tput_per_gpu", "output tok/s", 1.0), ("tpot_p50", "TPOT p50, ms", 1e3), ("ttft_p50", "TTFT p50, ms", 1e3),
           ("acceptance_length", "acceptance length", 1.0))  # fmt: skip


def write_tables(path: Path, found: Mapping[str, Any]) -> None:
    """Replace what stands between the marks.

    Raises:
        ValueError: if the document lacks them.
    """
    text = path.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"{path} lacks the marks {BEGIN} and {END}")
    head, tail = text.partition(BEGIN)[0], text.partition(END)[2]
    path.write_text("\n".join([head + BEGIN, "", *_lines(found), "", END]) + tail, encoding="utf-8")


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    yield machine()
    same = [
        launch
        for name in ("baseline", "aa1", "aa2", "aa3")
        if name in found
        for launch in found[name]["launches"]
    ]
    yield from ("", *spread_table([launch for launch in same if "tpot_p50" in launch]), "")
    yield from verdict_table({name: step for name, step in found.items() if not step["tight"]})
    tight = {name: step for name, step in found.items() if step["tight"]}
    if tight:
        yield from ("", "Tolerance 1.5% of `tpot_p50` for both:", "", *verdict_table(tight))


def machine() -> str:
    """Where, in one sentence."""
    model = next(
        iter(re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())),
        platform.machine(),
    )
    return (
        f"{os.cpu_count()} cores of {model.strip()} (a virtual machine, shared with other "
        f"work), Linux {platform.release()}."
    )


def spread_table(launches: list[Mapping[str, Any]]) -> Iterator[str]:
    """Level and spread of the launches without a change."""
    yield (
        f"| {len(launches)} launches without a change | median | least | most | spread "
        "(standard deviation of the logarithm) |"
    )
    yield "|---|---|---|---|---|"
    for metric, title, scale in _SPREAD:
        values = [launch[metric] for launch in launches if metric in launch]
        if len(values) > 1:
            spread = statistics.stdev(log(value) for value in values)
            cells = [
                f"{value * scale:,.4g}"
                for value in (statistics.median(values), min(values), max(values))
            ]
            yield f"| {title} | {' | '.join(cells)} | {spread * 100:.2f}% |"


def verdict_table(steps: Mapping[str, Any]) -> Iterator[str]:
    """One line per run: what was planted, what was declared to come out, what came out."""
    yield "| planted | options | declared | verdict | by | launches | load average |"
    yield "|---|---|---|---|---|---|---|"
    for step in steps.values():
        load = f"{step['load'][0]} to {step['load'][1]}"
        cells = [
            step["planted"],
            f"`{step['options']}`",
            step["expected"],
            step["verdict"],
            _by(step),
            str(len(step["launches"])),
            load,
        ]
        yield f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _by(step: Mapping[str, Any]) -> str:
    """The metrics that decided, with change and interval; where nothing was compared, why."""
    shown = [
        one
        for one in step["metrics"]
        if one["change"] and (one["status"] == step["verdict"] or one["improved"])
    ]
    parts = [
        f"{one['metric']} {'improved, ' if one['improved'] else ''}{_interval(one['change'])}"
        for one in shown
    ]
    return "; ".join(parts) or step["reason"].split(". ")[0]


def _interval(change: list[float]) -> str:
    return f"{change[0] * 100:+.1f}% ({change[1] * 100:+.1f}% to {change[2] * 100:+.1f}%)"
