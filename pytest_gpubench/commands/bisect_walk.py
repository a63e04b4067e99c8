"""The walk of ``gpubench bisect``: asks one candidate after another, and keeps what it was told."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_gpubench.host import files
from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.model.printing import counted, for_terminal
from pytest_gpubench.report.records import write_record
from pytest_gpubench.report.walk import (
    GOOD_END,
    PAGE_FILE,
    WALK_FILE,
    Step,
    StepVerdict,
    Walk,
    document,
    page,
    read_walk,
    step_line,
    table,
)

EXIT_FOUND = 0
EXIT_UNDECIDED = 10
"""As pytest's for a verdict that leaves the question open."""

_SAME = {
    "good": "the good end",
    "candidates": "the candidates",
    "launches": "--launches",
    "metrics": "--metric",
    "failure_is_bad": "--failure-is-bad",
    "confirm": "--no-confirm",
    "arguments": "the arguments of pytest",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """What a step gave, and where its records are."""

    verdict: StepVerdict
    folder: Path


def begin(planned: Walk, folder: Path, *, resume: bool) -> Walk:
    """The walk to go on with: as planned, or with the steps that are on disk.

    Raises:
        GpubenchError: if the folder holds a walk and it is not to be resumed, or another one.
    """
    path = folder / WALK_FILE
    if not path.exists():
        if resume:
            raise GpubenchError(f"{path} does not exist, so there is nothing to resume")
        if folder.exists() and not folder.is_dir():
            raise GpubenchError(f"{folder} is a file; choose another folder with --results")
        return planned
    if not resume:
        raise GpubenchError(
            f"{folder} holds a walk: --resume goes on with it, --results names another folder"
        )
    earlier = read_walk(path)
    for name, words in _SAME.items():
        if getattr(earlier, name) != getattr(planned, name):
            raise GpubenchError(
                f"{path} is of another walk: {words} differ; repeat the command as it was, or name "
                "another folder with --results"
            )
    return replace(planned, steps=earlier.steps)


def walk_on(walk: Walk, ask: Callable[[int, int, int], Asked], folder: Path) -> int:
    """Ask until the walk is over, and say what it has found; the exit code.

    What is known is on disk after every step.

    Args:
        walk: with the steps so far.
        ask: given the number of the step, compares the candidates of two places, the first of which
        may be the good end.
        folder: of the walk.
    """
    _say(_opening(walk))
    _write(walk, folder)
    while (places := walk.next) is not None:
        base, place = places
        number = len(walk.steps) + 1
        about = number + max(walk.state.steps_left + walk.confirm - 1, 0)
        what = walk.candidates[place].shown
        if base != GOOD_END:
            what += f", against the one before it, {walk.candidates[base].shown}"
        _say(f"step {number} of about {about}: {what}")
        began = time.monotonic()
        asked = ask(number, base, place)
        found = asked.verdict
        step = Step(
            place,
            found.answer,
            found.verdict,
            found.reason,
            found.change,
            found.pairs,
            round(time.monotonic() - began, 1),
            os.path.relpath(asked.folder, folder),
            base,
        )
        walk = walk.told(step)
        _write(walk, folder)
        _say(step_line(walk, step))
    _say("", *table(walk), "", walk.conclusion(), f"the walk: {folder / PAGE_FILE}")
    return EXIT_FOUND if walk.is_decided else EXIT_UNDECIDED


def step_folder(folder: Path, number: int, name: str) -> Path:
    """A folder that no step has used: an interrupted one leaves its own behind."""
    stem = f"{number:02d}-{name}"
    attempt = 1
    while (path := folder / (stem if attempt == 1 else f"{stem}-{attempt}")).exists():
        attempt += 1
    return path


def _opening(walk: Walk) -> str:
    known = f", {counted(len(walk.steps), 'step')} known" if walk.steps else ""
    return (
        f"{counted(len(walk.candidates), 'candidate')} after {walk.good.shown}, the last one is "
        f"{walk.candidates[-1].shown}{known}"
    )


def _write(walk: Walk, folder: Path) -> None:
    write_record(folder / WALK_FILE, document(walk))
    files.write_text(folder / PAGE_FILE, page(walk))


def _say(*lines: str) -> None:
    for line in lines:
        print(for_terminal(line), flush=True)
