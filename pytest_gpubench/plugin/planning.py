"""``--gpubench-plan`` and ``--gpubench-matrix``: the selection as JSON, without starting
anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pytest_gpubench.dialects.command_line import CommandLine
from pytest_gpubench.dialects.registry import dialect_of
from pytest_gpubench.doctor import findings_for
from pytest_gpubench.model.cases import Case, RecipeBook
from pytest_gpubench.model.specs import Launch
from pytest_gpubench.plugin.engines_under_test import SECOND, Arms
from pytest_gpubench.plugin.settings import Settings
from pytest_gpubench.recipes.server_groups import parse_launches
from pytest_gpubench.report.matrix import matrix_document
from pytest_gpubench.report.plan import plan_document
from pytest_gpubench.report.records import write_record


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
    write_record(path, plan_document(book, cases, lines, findings, launches, against))


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
    write_record(path, document)
