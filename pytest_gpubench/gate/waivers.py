"""Known bugs: which failed gates are waived, until when, and what is to be said of it. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from fnmatch import fnmatchcase
from typing import TypeAlias

from packaging.version import InvalidVersion, Version

from pytest_gpubench.dialects.registry import DEFAULT
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.grouping import grouped
from pytest_gpubench.model.printing import listed
from pytest_gpubench.model.verdicts import MetricVerdict, Status, Verdict, WaiverState, WaiverUse

WAIVER_UNNEEDED = "waiver-unneeded"
"""Code of a metric that holds although a strict waiver says that it fails."""
_NOT_WAIVED = ("no-baseline", "not-comparable")
"""What `--gpubench-require-baseline` demands: nothing was compared, so no bug is known."""
_BUILD = re.compile(r"b?(\d+(?:\.\d+)*)")
"""Versions that Python does not know begin with a number all the same: ``b6868-1a2b``."""
_NAMED = 4

Waive: TypeAlias = Callable[[Sequence[MetricVerdict], bool], list[MetricVerdict]]
"""From the verdicts on the metrics of one subject to what is left of them; the second argument
tells whether all certain launches of the plan are over."""


def nothing_waived(results: Sequence[MetricVerdict], _settled: bool) -> list[MetricVerdict]:
    """Where no bug is known."""
    return list(results)


@dataclass(frozen=True, slots=True)
class Waiver:
    """One known bug."""

    place: str
    """``FILE:LINE``."""
    case: str
    """Glob of case ids, or of starts of servers (``SERVER:init``)."""
    bug: str
    """Its address."""
    until: date
    """Last day (UTC) on which it holds."""
    metric: str = ""
    """Empty: all that are gated."""
    reason: str = ""
    until_version: FrozenMap = field(default_factory=FrozenMap)
    """Engine to the version from which on it does not hold."""
    strict: bool = False
    """Whether it fails a case in which nothing that it covers fails."""

    def covers(self, subject: str, metric: str) -> bool:
        """Whether it speaks of a metric of a case, or of the start of a server."""
        return (not self.metric or self.metric == metric) and self.matches(subject)

    def matches(self, subject: str) -> bool:
        """Whether it speaks of a case, or of the start of a server."""
        return fnmatchcase(subject, self.case)

    def ended(self, today: date, framework: str = "", version: str = "") -> str:
        """Why it holds no more, empty while it does; an unreadable version has reached no bound."""
        if today > self.until:
            return f"it held until {self.until.isoformat()}"
        bound = self.until_version.get(framework)
        running, least = read_version(version), read_version(str(bound or ""))
        if running is not None and least is not None and running >= least:
            return f"it held until {framework} {bound}, and this is {version}"
        return ""

    @property
    def until_words(self) -> str:
        """``2027-01-31``, ``2027-01-31 or ENGINE 0.33``."""
        bounds = [f"{name} {version}" for name, version in self.until_version.items()]
        return " or ".join([self.until.isoformat(), *bounds])

    @property
    def words(self) -> str:
        """The bug, and why it is waived."""
        return f"{self.bug}, {self.reason}" if self.reason else self.bug


@dataclass(frozen=True, slots=True)
class Waivers:
    """Those of a baselines folder, on one day."""

    entries: tuple[Waiver, ...] = ()
    today: date = date.min

    def on(self, subject: str, axis: Mapping[str, object]) -> Waive:
        """What they make of the verdicts on a case, or on the start of a server.

        Args:
            subject: the case id, or that of the start.
            axis: of the launch that is judged; it names the engine and its version.
        """
        mine = [one for one in self.entries if one.matches(subject)]
        if not mine:
            return nothing_waived
        framework, version = str(axis.get("framework") or DEFAULT), str(axis.get("engine") or "")
        ended = {one.place: one.ended(self.today, framework, version) for one in mine}

        def waive(results: Sequence[MetricVerdict], settled: bool) -> list[MetricVerdict]:
            left = list(results)
            of_waiver: dict[Waiver, list[int]] = {}
            for index, result in enumerate(left):
                covering = [one for one in mine if one.covers(subject, result.metric)]
                if covering:  # one that holds, if there is one
                    chosen = min(covering, key=lambda one: bool(ended[one.place]))
                    of_waiver.setdefault(chosen, []).append(index)
            for waiver, indices in of_waiver.items():
                own = [left[index] for index in indices]
                told = _told(waiver, ended[waiver.place], own, settled)
                for index, result in zip(indices, told, strict=True):
                    left[index] = result
            return left

        return waive


NO_WAIVERS = Waivers()


def read_version(text: str) -> Version | None:
    """A version that can be compared; None for a text that is none."""
    try:
        return Version(text)
    except InvalidVersion:
        found = _BUILD.match(text)
        return Version(found[1]) if found else None


def _told(
    waiver: Waiver, ended: str, results: Sequence[MetricVerdict], settled: bool
) -> list[MetricVerdict]:
    """The verdicts that one waiver covers, with what it says of them."""
    if any(_waivable(one) for one in results):
        return [_failing(waiver, ended, one) if _waivable(one) else one for one in results]
    held = [one for one in results if one.status is Status.PASS]
    if not held or any(one.status not in (Status.PASS, Status.UNGATED) for one in results):
        return list(results)
    strict = waiver.strict and settled and not ended
    return [
        _unneeded(waiver, one, fails=strict and one is held[0])
        if one.status is Status.PASS
        else one
        for one in results
    ]


def _waivable(one: MetricVerdict) -> bool:
    return one.status is Status.FAIL and one.code not in _NOT_WAIVED


def _failing(waiver: Waiver, ended: str, one: MetricVerdict) -> MetricVerdict:
    if ended:
        words = f"the waiver {waiver.place} ({waiver.words}) has expired: {ended}"
        return replace(one, reason=f"{one.reason}; {words}", waiver=_use(waiver, "expired"))
    reason = f"{one.reason}; waived until {waiver.until_words}: {waiver.words} ({waiver.place})"
    use = _use(waiver, "holds")
    return replace(one, status=Status.WAIVED, reason=reason, remedy="", waiver=use)


def _unneeded(waiver: Waiver, one: MetricVerdict, *, fails: bool) -> MetricVerdict:
    use = _use(waiver, "unneeded")
    if not fails:
        words = f"the waiver {waiver.place} ({waiver.bug}) is not needed"
        return replace(one, reason=f"{one.reason}; {words}", waiver=use)
    words = f"{waiver.metric} does not fail" if waiver.metric else "no metric fails"
    strict = f"the strict waiver {waiver.place} ({waiver.bug})"
    return replace(
        one,
        status=Status.FAIL,
        code=WAIVER_UNNEEDED,
        reason=f"{words}, as {strict} says it would",
        remedy=f"remove the waiver, or the case from what it covers; {one.reason}",
        waiver=use,
    )


def _use(waiver: Waiver, state: WaiverState) -> WaiverUse:
    return WaiverUse(waiver.place, waiver.bug, waiver.until_words, state)


@dataclass(frozen=True, slots=True)
class Told:
    """A sentence about waivers, for the end of a run or a report, and the bug that it is about."""

    words: str
    bug: str
    state: WaiverState


def told_of(verdicts: Iterable[tuple[str, Verdict]]) -> tuple[Told, ...]:
    """What waivers did in a run: what is waived, what has expired, what is needed no longer.

    Args:
        verdicts: the last one on each case or start, with its name.
    """
    uses = [
        (name, one, one.waiver)
        for name, verdict in verdicts
        for one in verdict.metrics
        if one.waiver is not None
    ]
    found: list[Told] = []
    for place, mine in grouped(uses, lambda told: told[2].place).items():
        bug = mine[0][2].bug
        found += [
            Told(f"waived: {name}: {one.reason}", bug, "holds")
            for name, one, use in mine
            if use.state == "holds"
        ]
        expired = list(dict.fromkeys(name for name, _, use in mine if use.state == "expired"))
        if expired:
            where = listed(expired, _NAMED)
            words = f"the waiver {place} ({bug}) HAS EXPIRED and is still needed by {where}"
            found.append(Told(f"{words}: mend it, or write a later date", bug, "expired"))
        unneeded = list(dict.fromkeys(name for name, _, use in mine if use.state == "unneeded"))
        if unneeded:
            others = any(use.state != "unneeded" for _, _, use in mine)
            where = listed(unneeded, _NAMED)
            todo = "narrow it" if others else "remove it"
            words = f"the waiver {place} ({bug}) is NO LONGER NEEDED"
            words += f": nothing that it covers fails in {where}; {todo}"
            found.append(Told(words, bug, "unneeded"))
    return tuple(found)


def idle_words(waivers: Waivers, subjects: Iterable[str]) -> list[str]:
    """A sentence for each waiver that covers nothing of the recipes, or whose date has passed.

    Args:
        subjects: every case of the recipes, and every start of a server.
    """
    known = list(subjects)
    said = []
    for one in waivers.entries:
        if not any(one.matches(subject) for subject in known):
            words = f"the waiver {one.place} ({one.bug}) covers nothing: no case of the recipes "
            said.append(f"{words}matches {one.case}; correct or remove it")
        elif one.until < waivers.today:
            words = f"the waiver {one.place} ({one.bug}) expired on {one.until.isoformat()}"
            said.append(f"{words}; remove it, or write a later date")
    return said


def waiver_lines(waivers: Waivers, subjects: Sequence[str]) -> list[str]:
    """Three lines for each waiver: where it stands, the bug, when it ends and what it covers."""
    lines = []
    for one in waivers.entries:
        covered = [subject for subject in subjects if one.matches(subject)]
        what = one.metric or "all gated metrics"
        names = listed(covered, _NAMED) if covered else "NOTHING"
        left = (one.until - waivers.today).days
        state = f"{left} days left" if left >= 0 else "EXPIRED"
        lines += [
            f"{one.place}: {what} of {one.case}",
            f"  {one.words}",
            f"  until {one.until_words} ({state}){', strict' if one.strict else ''}; "
            f"covers {names}",
        ]
    return lines
