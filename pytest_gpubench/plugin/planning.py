"""``--gpubench-plan``: the selection as JSON, without starting anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pytest_gpubench.doctor import findings_for
from pytest_gpubench.domain.cases import Case, RecipeBook
from pytest_gpubench.engines.argv import render
from pytest_gpubench.engines.interpreter import default_command
from pytest_gpubench.plugin.doctoring import Doctor
from pytest_gpubench.plugin.settings import Settings
from pytest_gpubench.report.plan import plan_document
from pytest_gpubench.report.records import write_record


def write_plan(path: Path, settings: Settings, book: RecipeBook, cases: Sequence[Case], doctor: Doctor) -> None:
    """Write the plan of the selected cases to the file that ``--gpubench-plan`` names."""
    default = settings.vllm_command or default_command()
    lines = {}
    for key in dict.fromkeys(case.server for case in cases):
        spec = book.server(key)
        lines[key] = render(spec, spec.command or default, served_name=key)
    found = {key: doctor.findings(key) for key in lines}
    findings = {case.id: [asdict(finding) for finding in findings_for(found[case.server], case.id)] for case in cases}
    write_record(path, plan_document(book, cases, lines, findings))
