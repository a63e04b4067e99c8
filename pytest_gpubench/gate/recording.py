"""What may become a baseline: which launches are recorded, and which of them move an anchor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pytest_gpubench.gate.baselines import LaunchEntry, mark
from pytest_gpubench.gate.evidence import LaunchEvidence, evidence_of, init_evidence
from pytest_gpubench.gate.waivers import WAIVER_UNNEEDED
from pytest_gpubench.measure.measurement import Measurement
from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.metrics import METRICS
from pytest_gpubench.model.specs import Launch, init_subject
from pytest_gpubench.model.verdicts import MetricVerdict, Status, Verdict

_NO_OBJECTION = frozenset(
    {
        *("short-baseline", "few-requests", "not-measured", "not-gateable"),
        *("too-few-questions", "other-questions"),
    }
)
_FAILED = (Status.FAIL, Status.WAIVED)
"""A known bug is no new level."""


@dataclass(frozen=True, slots=True)
class Recording:
    """Whether a case's launches may be recorded, and why not."""

    allowed: bool
    reason: str = ""
    """One sentence where it is refused."""
    anchors: Mapping[str, str] = field(default_factory=dict)
    """Metrics of which the run begins a new anchor, with the reason."""


def tree_refusal(git: Mapping[str, Any] | None) -> str:
    """Why no baseline is written in this tree, empty if one may: a number belongs to a commit."""
    if git is None:
        return (
            "no baseline is written: this is not a git working tree, or there is no git "
            "command, so the numbers belong to no commit"
        )
    if git.get("dirty"):
        return (
            "no baseline is written: the working tree has uncommitted changes, so the "
            "numbers belong to no commit; commit first"
        )
    return ""


def recording(verdict: Verdict, *, accept_regression: bool = False) -> Recording:
    """Whether the launches behind the last verdict of a case may be recorded.

    Recorded are PASS, UNGATED, and what is INCONCLUSIVE only because evidence is missing or because
    noise lets the interval reach the tolerance while the change itself is inside: leaving those out
    would keep only lucky launches. A worse level needs ``accept_regression`` and begins a new
    anchor of the metrics that failed; a better one begins its anchor by itself.
    """
    if verdict.status is Status.INVALID:
        return Recording(False, f"not recorded: {verdict.reason}")
    objections = [one for one in verdict.metrics if _objection(one)]
    barred = [one for one in objections if not (accept_regression and _acceptable(one))]
    if barred:
        return Recording(False, f"not recorded: {_why_barred(barred)}")
    anchors = {one.metric: "improved" for one in verdict.metrics if one.improved}
    anchors |= dict.fromkeys((one.metric for one in objections), "accepted")
    return Recording(True, anchors=anchors)


def _acceptable(one: MetricVerdict) -> bool:
    """Whether ``accept_regression`` lifts this objection."""
    return one.status in _FAILED and one.code in ("regressed", "drifted", "less-accurate")


def _why_barred(barred: Sequence[MetricVerdict]) -> str:
    """All objections, each with what helps against it: the option helps only against some."""
    worse = [one.reason for one in barred if _acceptable(one)]
    others = [one for one in barred if not _acceptable(one)]
    parts = [
        f"{one.reason}, which no option accepts" + (f"; {one.remedy}" if one.remedy else "")
        for one in others
    ]
    if worse:
        pronoun = "it" if len(worse) == 1 else "them"
        parts.append(f"{'; '.join(worse)}; --gpubench-accept-regression accepts {pronoun}")
    return "; ".join(parts)


def _objection(one: MetricVerdict) -> bool:
    if one.status in _FAILED:
        return one.code not in ("no-baseline", "not-comparable", WAIVER_UNNEEDED)
    if one.status is not Status.INCONCLUSIVE or one.code in _NO_OBJECTION:
        return False
    if one.change is None or one.tolerance is None:
        return True
    worse = (
        one.change.estimate if METRICS[one.metric].direction == "lower" else -one.change.estimate
    )
    return worse >= one.tolerance


def launch_of(record: Mapping[str, Any]) -> tuple[LaunchEvidence, str]:
    """What a record (plain JSON data of a case or of a start) says to a baseline, and its date,
    ISO 8601 with offset.

    Raises:
        GpubenchError: if it is of a failed case or start, or was not measured whole.
    """
    launch = record["launch"]
    label = Launch(str(record.get("server")), int(launch["index"]), launch["arm"]).label
    failure = record.get("failure")
    is_case = bool(record.get("case"))
    said = record.get("measurement") if is_case else (record.get("phases") or {}).get("ready")
    if failure or not said:
        raise GpubenchError(
            f"{subject_of(record)} failed on {label} ({(failure or {}).get('summary')}); it cannot "
            "be a baseline"
        )
    if is_case:
        evidence = evidence_of(label, Measurement.from_json(said))
        answers = (record.get("evaluation") or {}).get("answers") or ""
        evidence = replace(evidence, answers=str(answers))
    else:
        evidence = init_evidence(label, float(said))
    wrong = (record.get("gate") or {}).get("invalid") or ()
    return replace(evidence, invalid=(*evidence.invalid, *wrong)), str(record["finished"])


def subject_of(record: Mapping[str, Any]) -> str:
    """The case of a record, or ``KEY:init`` where it is of a start."""
    return str(record.get("case") or init_subject(str(record.get("server"))))


def entries_of(
    run: str,
    launches: Sequence[tuple[LaunchEvidence, str]],
    axis: FrozenMap,
    anchors: Mapping[str, str] | None = None,
) -> tuple[LaunchEntry, ...]:
    """Entries for a baseline from the launches of one case in one run, invalid ones left out.

    Args:
        launches: each with its date, ISO 8601 with offset.
    """
    entries = [_entry(run, *launch, axis) for launch in launches if not launch[0].invalid]
    return mark(entries, anchors or {})


def _entry(run: str, evidence: LaunchEvidence, date: str, axis: FrozenMap) -> LaunchEntry:
    names = [name for name in sorted(evidence.metrics) if evidence.has(name)]
    noises = {name: evidence.noise(name) for name in names}
    return LaunchEntry(
        run=run,
        launch=evidence.label,
        date=date,
        key="",
        metrics=FrozenMap({name: evidence.metrics[name] for name in names}),
        requests=evidence.requests,
        axis=axis,
        answers=evidence.answers,
        rounds=max(1, len(evidence.rounds)),
        noise=FrozenMap({name: one for name, one in noises.items() if one is not None}),
    )


def accepted_entries(
    run: str,
    records: Sequence[Mapping[str, Any]],
    metrics: Sequence[str] | None = None,
    note: str = "",
) -> tuple[str, FrozenMap, tuple[LaunchEntry, ...]]:
    """Case, key and entries of a case's records in one run, as the new anchor of what failed in
    them (or of ``metrics``).

    Args:
        records: plain JSON data of ``launch-*.json``, in the order of the launches.

    Raises:
        GpubenchError: if a record is of a failed case, of another case, or was written without its
            key.
    """
    if not records:
        raise GpubenchError(
            f"the run {run} has no record of this case; name a results folder that has"
        )
    case, gate = subject_of(records[-1]), records[-1].get("gate") or {}
    key = gate.get("key")
    for record in records:
        own = (record.get("gate") or {}).get("key")
        if subject_of(record) != case or not own or own != key:
            raise GpubenchError(
                f"the records of run {run} are not of one case with one key; accept one "
                "case at a time"
            )
    verdict = records[-1].get("verdict") or {}
    failed = [
        one["metric"]
        for one in verdict.get("metrics", ())
        if one["code"] in ("regressed", "drifted", "straddles", "too-noisy")
    ]
    anchors = dict.fromkeys(metrics or failed, f"accepted: {note}" if note else "accepted")
    launches = [launch_of(record) for record in records]
    axis = FrozenMap(gate.get("axis") or {})
    return case, FrozenMap(key), entries_of(run, launches, axis, anchors)
