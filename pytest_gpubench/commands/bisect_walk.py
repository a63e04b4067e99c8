"""The walk of ``gpubench bisect``: asks candidate after candidate by a run of pytest."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType

from pytest_gpubench.commands import EXIT_USAGE, say
from pytest_gpubench.gate.bisection import Answer
from pytest_gpubench.host import files
from pytest_gpubench.host.git import SHOWN, Repository, checkouts
from pytest_gpubench.host.own_processes import handled
from pytest_gpubench.model.failures import CommandError, GpubenchError
from pytest_gpubench.model.printing import counted, for_terminal
from pytest_gpubench.report.read_results import load_results
from pytest_gpubench.report.records import write_record
from pytest_gpubench.report.results import Run
from pytest_gpubench.report.walk import (
    GOOD_END,
    PAGE_FILE,
    WALK_FILE,
    Candidate,
    Step,
    StepVerdict,
    Walk,
    document,
    page,
    read_walk,
    step_line,
    step_verdict,
    table,
)

EXIT_FOUND = 0
EXIT_SKIP = 125
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


def over_revisions(parsed: argparse.Namespace) -> int:
    """Between two commits, each in a checkout of its own."""
    repository = Repository.around(Path.cwd())
    good_end, bad_end = parsed.revisions
    line = repository.line(good_end, bad_end, parsed.path)
    if line.forked:
        print(
            f"{good_end} is no ancestor of {bad_end}: the walk begins at "
            f"{line.commits[0].hash[:SHOWN]}, where they parted"
        )
    if repository.is_dirty():
        print("what is not committed does not count: every step is a checkout of its own")
    folder = parsed.results.absolute()
    good, *candidates = [Candidate(one.hash, one.subject) for one in (line.good, *line.commits)]
    walk = begin(_planned(parsed, good, candidates), folder, resume=parsed.resume)
    with checkouts(repository) as made:
        first = {GOOD_END: made.make(line.good.hash)} if walk.next else {}

        def ask(number: int, base: int, place: int) -> tuple[StepVerdict, Path]:
            if base not in first:
                first[base] = made.make(line.commits[base].hash)
            commit = line.commits[place].hash
            target = step_folder(folder, number, commit[:SHOWN])
            second = made.make(commit)
            try:
                return _asked(walk, [f"{CHECKOUT_OPTION}={second}"], first[base], target)
            finally:
                made.remove(second)

        return walk_on(walk, ask, folder)


def over_engines(parsed: argparse.Namespace, engines: Sequence[str]) -> int:
    """Between two engines, in the words of ``--gpubench-against``."""
    first, *others = engines
    folder = parsed.results.absolute()
    planned = _planned(parsed, Candidate(first), [Candidate(one) for one in others])
    walk = begin(planned, folder, resume=parsed.resume)

    def ask(number: int, base: int, place: int) -> tuple[StepVerdict, Path]:
        before = first if base == GOOD_END else others[base]
        target = step_folder(folder, number, f"engine-{place + 2}")
        options = [f"--gpubench-first-engine={before}", f"--gpubench-against={others[place]}"]
        return _asked(walk, options, Path.cwd(), target)

    return walk_on(walk, ask, folder)


def one_step(parsed: argparse.Namespace) -> int:
    """What ``git bisect run`` asks of a revision that it has checked out."""
    here = Path.cwd()
    repository = Repository.around(here)
    commit = repository.commit("HEAD")
    good = repository.commit(parsed.revisions[0])
    folder = step_folder(parsed.results.absolute(), 1, commit.hash[:SHOWN])
    with checkouts(repository) as made:
        first, options = made.make(good.hash), [f"{CHECKOUT_OPTION}={here}"]
        found, _ = _asked(_planned(parsed, Candidate(good.hash), ()), options, first, folder)
    say(
        f"{commit.hash[:SHOWN]} {commit.subject}: {found.answer.value} ({found.verdict}, "
        f"{found.change or found.reason}); {folder}"
    )
    return {Answer.GOOD: 0, Answer.BAD: 1, Answer.SKIPPED: EXIT_SKIP}[found.answer]


def _planned(parsed: argparse.Namespace, good: Candidate, candidates: Sequence[Candidate]) -> Walk:
    """The walk that the command line asks for."""
    return Walk(
        good,
        tuple(candidates),
        parsed.launches,
        tuple(parsed.metric),
        parsed.failure_is_bad,
        not parsed.no_confirm,
        tuple(parsed.arguments),
    )


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


def walk_on(
    walk: Walk, ask: Callable[[int, int, int], tuple[StepVerdict, Path]], folder: Path
) -> int:
    """Ask until the walk is over, and say what it has found; the exit code.

    What is known is on disk after every step.

    Args:
        ask: given the number of the step, compares the candidates of two places, the first of which
        may be the good end; the answer, and the folder of its run.
    """
    say(_opening(walk))
    _write(walk, folder)
    while (places := walk.next) is not None:
        base, place = places
        number = len(walk.steps) + 1
        about = number + max(walk.state.steps_left + walk.confirm - 1, 0)
        what = walk.candidates[place].shown
        if base != GOOD_END:
            what += f", against the one before it, {walk.candidates[base].shown}"
        say(f"step {number} of about {about}: {what}")
        began = time.monotonic()
        found, run = ask(number, base, place)
        step = Step(
            **asdict(found),
            place=place,
            seconds=round(time.monotonic() - began, 1),
            run=os.path.relpath(run, folder),
            base=base,
        )
        walk = walk.told(step)
        _write(walk, folder)
        say(step_line(walk, step))
    say("", *table(walk), "", walk.conclusion(), f"the walk: {folder / PAGE_FILE}")
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


LOG = "pytest.log"
_NOTHING_SELECTED = 5
CHECKOUT_OPTION = "--gpubench-against-checkout"
"""Also begins pytest's sentence about a candidate's recipes that are wrong or not there."""
_TAIL_BYTES = 20_000
_WORDS_SHOWN = 400
_ENDING = (signal.SIGTERM, signal.SIGHUP)


def _asked(walk: Walk, options: Sequence[str], cwd: Path, folder: Path) -> tuple[StepVerdict, Path]:
    """One step: what it says, and the folder.

    Args:
        options: of pytest, that say what engine B is.
        folder: of the step; pytest's output and records are kept there.

    Raises:
        CommandError: if nothing is selected or the command line is wrong: tests, arguments and the
            good end are the same in every step, so no other one would do better.
    """
    folder.mkdir(parents=True)
    log = folder / LOG
    code = run_step(_command(walk, options, folder), cwd, log)
    said = last_words(log)
    candidates = said.startswith(CHECKOUT_OPTION)
    if code == _NOTHING_SELECTED or (code == EXIT_USAGE and not candidates):
        raise CommandError(f"bisect: pytest says: {said} ({log})", code)
    found = step_verdict(_run_in(folder), code, said, failure_is_bad=walk.failure_is_bad)
    return found, folder


def _command(walk: Walk, options: Sequence[str], folder: Path) -> list[str]:
    """What a step starts. ``-P``: what lies in a checkout is no library, as for the command
    ``pytest``. A FAIL of any metric ends the step."""
    only = [f"--gpubench-gate-only={metric}" for metric in walk.metrics]
    ours = [f"--gpubench-results={folder}", f"--gpubench-launches={walk.launches}", *only]
    ours += ["--gpubench-inconclusive=exit", "-x", *options]
    place = walk.arguments.index("--") if "--" in walk.arguments else len(walk.arguments)
    before, after = walk.arguments[:place], walk.arguments[place:]
    return [sys.executable, "-P", "-m", "pytest", *before, *ours, *after]


def run_step(command: Sequence[str], cwd: Path, log: Path) -> int:
    """Run pytest with its output in a file; the exit code, negative: the signal that ended it.

    pytest has a process group of its own, so that Ctrl-C reaches it once, from here and as SIGTERM
    (a job in the background ignores SIGINT): it stops its engines, then this raises.

    Raises:
        KeyboardInterrupt: when pytest has ended after one.
    """
    interrupted = False
    with log.open("wb") as output, signals_interrupt():
        process = subprocess.Popen(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        while True:
            try:
                code = process.wait()
                break
            except KeyboardInterrupt:
                interrupted = True
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
    if interrupted:
        raise KeyboardInterrupt
    return code


def signals_interrupt() -> contextlib.AbstractContextManager[None]:
    """Within the block a scheduler's SIGTERM and a lost terminal are as Ctrl-C."""

    def interrupt(number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    ours = (number for number in _ENDING if signal.getsignal(number) is signal.SIG_DFL)
    return handled(dict.fromkeys(ours, interrupt))


def last_words(log: Path) -> str:
    """What pytest said last: its error, else its last line."""
    with log.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - _TAIL_BYTES))
        text = file.read().decode("utf-8", "replace")
    lines = [line.strip() for line in for_terminal(text).splitlines() if line.strip()]
    errors = [index for index, line in enumerate(lines) if line.startswith("ERROR: ")]
    if errors:
        chosen = lines[errors[-1] :]
        return " ".join(chosen).removeprefix("ERROR: ")[:_WORDS_SHOWN]
    return lines[-1].strip("= ")[:_WORDS_SHOWN] if lines else "it said nothing"


def _run_in(folder: Path) -> Run | None:
    try:
        runs = load_results([folder]).runs
    except GpubenchError:
        return None
    return runs[-1] if runs else None
