"""``--gpubench-plan`` and ``--gpubench-matrix``: the selection as JSON, without starting anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest

from pytest_gpubench.doctor import findings_for
from pytest_gpubench.domain.cases import Case, RecipeBook
from pytest_gpubench.domain.failures import GpubenchError
from pytest_gpubench.engines.argv import render
from pytest_gpubench.engines.interpreter import default_command
from pytest_gpubench.plugin.doctoring import Doctor
from pytest_gpubench.plugin.settings import Settings
from pytest_gpubench.recipes.launches import parse_launches
from pytest_gpubench.report.matrix import matrix_document
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


def write_matrix(path: Path, book: RecipeBook, cases: Sequence[Case], launches: str) -> None:
    """Write the jobs of the selected cases to the file that ``--gpubench-matrix`` names.

    Raises:
        pytest.UsageError: if the selection has too many kinds of jobs for one matrix.
    """
    certain, _ = parse_launches(launches)
    try:
        document = matrix_document(book, cases, launches=certain)
    except GpubenchError as error:
        raise pytest.UsageError(f"--gpubench-matrix: {error}") from None
    write_record(path, document)
