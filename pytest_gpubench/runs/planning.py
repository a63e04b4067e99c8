"""``--gpubench-plan`` and ``--gpubench-matrix``: the selection as JSON, without starting
anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pytest_gpubench.dialects.command_line import CommandLine
from pytest_gpubench.dialects.registry import dialect_of
from pytest_gpubench.doctor.findings import findings_for
from pytest_gpubench.model.cases import Case, RecipeBook
from pytest_gpubench.model.printing import counted
from pytest_gpubench.model.specs import Launch
from pytest_gpubench.model.workload import HUB_FILE, Workload
from pytest_gpubench.recipes.server_groups import parse_launches
from pytest_gpubench.report.matrix import matrix_document
from pytest_gpubench.report.plan import plan_document
from pytest_gpubench.report.records import write_record
from pytest_gpubench.runs.engines_under_test import SECOND, Arms
from pytest_gpubench.runs.settings import Settings

_REMEDY = "choose another file"


def write_plan(
    path: Path, book: RecipeBook, cases: Sequence[Case], arms: Arms, launches: Sequence[Launch]
) -> None:
    """Write the plan of the selected cases to the file that ``--gpubench-plan`` names.

    Raises:
        GpubenchError: if the file cannot be written.
    """
    lines: dict[str, CommandLine] = {}
    against: dict[str, dict[str, Any]] = {}
    for key in dict.fromkeys(case.server for case in cases):
        lines[key] = _line(arms, Launch(key))
        other = arms.against(Launch(key, arm=SECOND))
        if other is not None:
            line = _line(arms, Launch(key, arm=SECOND))
            against[key] = {
                **other,
                "argv": list(line.argv),
                "env": line.printable_env() | dict.fromkeys(line.unset),
            }
    found = {key: arms.doctor(Launch(key)).findings(key) for key in lines}
    findings = {
        case.id: [asdict(finding) for finding in findings_for(found[case.server], case.id)]
        for case in cases
    }
    document = plan_document(book, cases, lines, findings, launches, against)
    write_record(path, document, what="the plan", remedy=_REMEDY)


def _line(arms: Arms, launch: Launch) -> CommandLine:
    spec = arms.spec(launch)
    return dialect_of(spec.framework).render(spec, arms.command(spec), served_name=launch.server)


def write_matrix(path: Path, book: RecipeBook, cases: Sequence[Case], settings: Settings) -> None:
    """Write the jobs of the selected cases to the file that ``--gpubench-matrix`` names.

    Raises:
        GpubenchError: if the selection has too many kinds of jobs for one matrix, or the file
            cannot be written.
    """
    certain, _ = parse_launches(settings.launches or "1")
    document = matrix_document(book, cases, launches=certain, canary=settings.canary)
    write_record(path, document, what="the matrix", remedy=_REMEDY)


def missing_files(cases: Sequence[Case]) -> Iterator[str]:
    """A sentence per recipe and file (data set, trace) of its loads that this machine cannot read;
    what is on the hub is for ``gpubench fetch``."""
    reading = [case for case in cases if case.evaluation is None and _reads_here(case.workload)]
    if not reading:
        return
    from pytest_gpubench.load.datasets import dataset_problem

    lacking: dict[tuple[str, str], list[Case]] = {}
    for case in reading:
        problem = dataset_problem(case.workload)
        if problem is not None:
            lacking.setdefault((case.recipe, problem.summary), []).append(case)
    for (recipe, summary), found in lacking.items():
        yield (
            f"{found[0].position}: {recipe}: {summary}; put it there, or mend the path: "
            f"without it {counted(len(found), 'case')} cannot be measured"
        )


def _reads_here(workload: Workload) -> bool:
    named = workload.tool is not None or workload.dataset_file
    return bool(named) and not HUB_FILE.fullmatch(workload.dataset_file)
