"""Where the wall time of runs went: what their records say, and the rest of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_gpubench.model.printing import for_terminal
from pytest_gpubench.report.html_markup import Child, Markup, section, table, tag
from pytest_gpubench.report.numbers import seconds
from pytest_gpubench.report.results import PHASE_NAMES, InitResult, Loaded

_STAGES = (
    ("lease", "waiting for free hardware"),
    ("fetch", "weights found or fetched"),
    ("start", "starts of servers"),
    ("launch", "warm-up of launches"),
    ("idle", "waiting for idle engines"),
    ("prompts", "prompts"),
    ("warmup", "warm-up"),
    ("measured", "measured"),
    ("results", "answers read, counted again, kept"),
    ("questions", "evaluations"),
    ("load", "loads that failed"),
    ("stop", "stops of servers"),
)
"""What ``times`` of a record has, in the order of the table."""
_MOST_STARTS = 20
_COLLECTING = "recipes read, tests collected"
_REST = "the rest: pytest, verdicts, reports"


@dataclass(frozen=True, slots=True)
class Part:
    """One line of the table."""

    name: str
    seconds: float
    words: str = ""
    below: bool = False
    """A part of the one before it, which is not added up again."""


@dataclass(frozen=True, slots=True)
class WallTime:
    """The table of some runs."""

    parts: tuple[Part, ...]
    whole: float | None
    """Seconds of the runs, times their processes side by side; None where a run does not say."""
    processes: int = 1

    @property
    def sum(self) -> float:
        """Of the parts."""
        return sum(part.seconds for part in self.parts if not part.below)


def wall_time(loaded: Loaded) -> WallTime | None:
    """None where no record says where its time went: old ones do not."""
    inits = [init for run in loaded.runs for init in run.inits]
    cases = [case for run in loaded.runs for case in run.cases if not case.reused_from]
    spent: dict[str, float] = {}
    for times in [*(init.times for init in inits), *(case.times for case in cases)]:
        for name, value in times.items():
            spent[name] = spent.get(name, 0.0) + max(0.0, value)
    if not spent:
        return None
    parts: list[Part] = []
    for name, words in _STAGES:
        if name in spent:
            parts.append(Part(words, spent[name]))
        if name == "start":
            parts += _starts(inits)
    each = [run.spent for run in loaded.runs if run.cases or run.inits]
    known = [one for one in each if one is not None]
    if len(known) < len(each):
        return WallTime(tuple(parts), None)
    whole = sum(one.seconds * one.processes for one in known)
    collecting = sum(one.collecting for one in known)
    parts = [Part(_COLLECTING, collecting), *parts] if collecting > 0 else parts
    rest = whole - sum(part.seconds for part in parts if not part.below)
    parts += [Part(_REST, rest)] if rest > 0 else []
    return WallTime(tuple(parts), whole, max((one.processes for one in known), default=1))


def _starts(inits: Sequence[InitResult]) -> list[Part]:
    started = sorted(
        (one for one in inits if one.seconds > 0), key=lambda one: one.seconds, reverse=True
    )
    named = [
        Part(f"{one.server} {one.launch.label}", one.seconds, _phases(one.parts), below=True)
        for one in started[:_MOST_STARTS]
    ]
    left = started[_MOST_STARTS:]
    if left:
        named.append(Part(f"{len(left)} more", sum(one.seconds for one in left), below=True))
    return named


def _phases(parts: Mapping[str, float]) -> str:
    return ", ".join(
        f"{PHASE_NAMES.get(name, name)} {seconds(value)}"
        for name, value in parts.items()
        if value > 0
    )


def wall_rows(loaded: Loaded) -> list[tuple[Part, str]]:
    """Each part with its share, the whole last; none where there is nothing to tell."""
    found = wall_time(loaded)
    if found is None:
        return []
    whole = found.whole or found.sum
    rows = [(part, "" if part.below else _share(part.seconds, whole)) for part in found.parts]
    side_by_side = f", {found.processes} processes side by side" if found.processes > 1 else ""
    return [*rows, (Part(f"together{side_by_side}", whole), _share(whole, whole))]


def _share(value: float, whole: float) -> str:
    return f"{value / whole:.1%}" if whole > 0 else ""


def wall_lines(loaded: Loaded) -> list[str]:
    """For the terminal."""
    lines = [
        (f"{'  ' * (1 + part.below)}{part.name}", f"{part.seconds:,.1f} s", share, part.words)
        for part, share in wall_rows(loaded)
    ]
    wide = max((len(name) for name, *_ in lines), default=0)
    told = [
        for_terminal(f"{name:<{wide}}  {took:>10}  {share:>6}  {words}".rstrip())
        for name, took, share, words in lines
    ]
    return ["", "where the time went", *told] if told else []


def wall_section(loaded: Loaded) -> Markup | None:
    """For the page."""
    rows = [
        (_indented(part), seconds(part.seconds), share, part.words)
        for part, share in wall_rows(loaded)
    ]
    caption = "Where the wall time of these runs went"
    body = table(("", "Time", "Share", "Of which"), rows, caption=caption)
    return section("wall-time", "Where the time went", body) if rows else None


def _indented(part: Part) -> Child:
    return tag("span", f"\N{EM SPACE}{part.name}", class_="muted") if part.below else part.name
