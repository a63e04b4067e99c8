"""Doomed servers: what the doctor says beforehand, and what the engine does; all of them start side by side."""

from __future__ import annotations

from concurrent.futures import as_completed
from typing import Any

import recipes
from context import Context, cases_of, job_of
from fleet import Job, fleet, say

from pytest_gpubench.doctor.findings import prognosis
from pytest_gpubench.domain.cases import RecipeBook


def words(context: Context, book: RecipeBook, each: recipes.Doomed) -> dict[str, Any]:
    """The doctor's findings about one server and its cases, and his prognosis."""
    (case, *_) = cases_of(book, each.name)
    found = context.doctor(book).findings(case.server, here=True)
    told = [f for f in found if f.severity != "note"]
    return {
        "what": each.what,
        "prognosis": prognosis(found),
        "findings": [{"rule": f.rule, "severity": f.severity, "message": f.message, "says": f.engine_says} for f in told],
    }


def chosen(context: Context, *, gpus: int | None = None) -> list[recipes.Doomed]:
    """The doomed servers that this host can try."""
    have = len(context.gpus)
    several = [each for each in recipes.doomed(context.hardware, context.cache) if each.gpus <= max(1, have)]
    alone = [each for each in recipes.doomed(context.hardware, context.cache) if each.gpus > max(1, have)]
    # What the engine refuses by its config alone needs no GPU that is not there.
    several += [each for each in alone if each.name.endswith("threeways")]
    return [each for each in several if gpus is None or each.gpus == gpus or each.name.endswith("threeways")]


def step(context: Context, extra: tuple[Job, ...] = ()) -> None:
    """Ask the doctor, start them all, and write a row each."""
    book = context.book()
    todo = chosen(context)
    rows: dict[str, dict[str, Any]] = {each.name: words(context, book, each) for each in todo}
    gpus = context.gpus
    jobs = [job_of(book, cases_of(book, each.name)[0], gpus, each.name) for each in todo]
    say(f"{len(jobs)} doomed servers start")
    with fleet([*jobs, *extra], context.folder("doomed"), context.cache) as futures:
        for future in as_completed(futures[: len(jobs)]):
            outcome = future.result()
            rows[outcome.job.name] |= outcome.told()
            context.write("doomed", rows)
            if outcome.engine is not None:
                outcome.engine.stop()
