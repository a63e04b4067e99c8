"""Findings: what the doctor says, for programs and for people."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from pytest_gpubench.model.printing import for_terminal, listed

Severity: TypeAlias = Literal["error", "warning", "note"]
"""``error``: it cannot work, nothing is started; ``warning``: it may die or the numbers may
mislead; ``note``: worth knowing."""
EvidenceClass: TypeAlias = Literal["seen on a GPU", "seen on the CPU engine", "read in source"]
Prognosis: TypeAlias = Literal["starts", "dies", "unknown"]

_ORDER: dict[Severity, int] = {"error": 0, "warning": 1, "note": 2}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with a server, or with some of its cases.

    ``rule`` is a stable kebab-case id; ``engine_says`` the sentence that the engine would have died
    with (empty where it keeps silent).
    """

    rule: str
    severity: Severity
    message: str
    engine_says: str
    remedy: str
    evidence_class: EvidenceClass
    cases: tuple[str, ...] = ()
    """Ids of the cases that it hits; empty: the server, and so all of them."""
    outcome_unknown: bool = False
    """The server may start or die: a death was seen in this situation and its cause is not
    established, or facts are missing."""

    def hits(self, case_id: str) -> bool:
        """Whether the finding concerns this case."""
        return not self.cases or case_id in self.cases

    def __str__(self) -> str:
        return f"{self.severity}: {self.rule}: {self.message} {self.remedy}"


def findings_for(findings: Iterable[Finding], case_id: str) -> tuple[Finding, ...]:
    """The findings that concern one case: its own and those of its whole server."""
    return tuple(finding for finding in findings if finding.hits(case_id))


def without(findings: Iterable[Finding], ignored: Iterable[str]) -> tuple[Finding, ...]:
    """The findings that are left when the rules named in ``ignored`` are silenced."""
    silent = frozenset(ignored)
    return tuple(finding for finding in findings if finding.rule not in silent)


def unknown_rules(names: Iterable[str], known: Sequence[str]) -> tuple[str, ...]:
    """One sentence for every name that no rule has, with the nearest rule where there is one."""
    sentences = []
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "gpubench doctor --rules lists them"
            sentences.append(f"the doctor has no rule {name!r}: {hint}")
    return tuple(sentences)


def prognosis(findings: Iterable[Finding]) -> Prognosis:
    """Whether the server will start: ``dies`` on an error of the whole server, ``unknown`` where
    the doctor cannot tell."""
    findings = tuple(findings)
    if any(finding.severity == "error" and not finding.cases for finding in findings):
        return "dies"
    if any(finding.outcome_unknown for finding in findings):
        return "unknown"
    return "starts"


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Worst first, in the order of the rule table within a severity."""
    return tuple(sorted(findings, key=lambda finding: _ORDER[finding.severity]))


def format_findings(findings: Iterable[Finding], *, title: str = "") -> str:
    """Plain text for people: one paragraph per finding, worst first; one line if there is nothing
    to say."""
    findings = in_order(findings)
    lines = [title] if title else []
    if not findings:
        lines.append("  nothing found")
    for finding in findings:
        lines.append(f"  {finding.severity.upper()} {finding.rule}: {finding.message}")
        if finding.engine_says:
            lines.append(f"      the engine would say: {finding.engine_says}")
        lines.append(f"      {finding.remedy} ({finding.evidence_class})")
        if finding.cases:
            lines.append(f"      cases: {listed(finding.cases, 4)}")
    return for_terminal("\n".join(lines))
