"""Doomed servers: what the doctor says beforehand, and what the engine does; all of them start side
by side."""

from __future__ import annotations

import json
from concurrent.futures import as_completed
from typing import Any

import recipes
from context import Context, cases_of, job_of
from fleet import Crowd, Job, stop

from pytest_gpubench.doctor.findings import prognosis
from pytest_gpubench.model.cases import RecipeBook


def words(context: Context, book: RecipeBook, each: recipes.Doomed) -> dict[str, Any]:
    """The doctor's findings about one server and its cases, and his prognosis."""
    (case, *_) = cases_of(book, each.name)
    found = context.doctor(book).findings(case.server, here=True)
    told = [f for f in found if f.severity != "note"]
    return {
        "what": each.what,
        "prognosis": prognosis(found),
        "findings": [
            {"rule": f.rule, "severity": f.severity, "message": f.message, "says": f.engine_says}
            for f in told
        ],
    }


def chosen(context: Context) -> list[recipes.Doomed]:
    """The doomed servers that this host can try."""
    have = len(context.gpus)
    several = [
        each
        for each in recipes.doomed(context.hardware, context.cache)
        if each.gpus <= max(1, have)
    ]
    alone = [
        each for each in recipes.doomed(context.hardware, context.cache) if each.gpus > max(1, have)
    ]
    # What the engine refuses by its config alone needs no GPU that is not there.
    return several + [each for each in alone if each.name.endswith("threeways")]


def jobs(context: Context) -> list[Job]:
    """The servers; the doctor is asked before any of them starts."""
    book = context.book()
    todo = chosen(context)
    context.write("doomed", {each.name: words(context, book, each) for each in todo})
    return [job_of(book, cases_of(book, each.name)[0], context.gpus, each.name) for each in todo]


def run(context: Context, crowd: Crowd) -> None:
    """A row each, as they end; those that start in spite of everything are stopped."""
    rows: dict[str, dict[str, Any]] = json.loads(
        (context.results / "doomed.json").read_text("utf-8")
    )
    for future in as_completed([crowd[name] for name in rows]):
        outcome = future.result()
        rows[outcome.job.name] |= outcome.told()
        context.write("doomed", rows)
        stop([outcome])
