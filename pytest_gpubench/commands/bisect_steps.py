"""Runs pytest for one step of a bisection, and reads what it left."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from pytest_gpubench.commands import EXIT_USAGE
from pytest_gpubench.commands.bisect_walk import Asked
from pytest_gpubench.host.signal_handlers import handled
from pytest_gpubench.model.failures import CommandError, GpubenchError
from pytest_gpubench.model.printing import for_terminal
from pytest_gpubench.report.read_results import load_results
from pytest_gpubench.report.results import Run
from pytest_gpubench.report.walk import step_verdict

LOG = "pytest.log"
_NOTHING_SELECTED = 5
CHECKOUT_OPTION = "--gpubench-against-checkout"
"""Also begins pytest's sentence about a candidate's recipes that are wrong or not there."""
_TAIL_BYTES = 20_000
_WORDS_SHOWN = 400
_ENDING = (signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Stepper:
    """What every step of a walk has in common."""

    arguments: tuple[str, ...]
    """Of pytest, as the user gave them."""
    launches: str
    metrics: tuple[str, ...] = ()
    failure_is_bad: bool = False

    def ask(self, options: Sequence[str], cwd: Path, folder: Path) -> Asked:
        """One step.

        Args:
            options: of pytest, that say what engine B is.
            cwd: where pytest is started.
            folder: of the step; pytest's output and records are kept there.

        Raises:
            CommandError: if nothing is selected or the command line is wrong: tests, arguments and
                the good end are the same in every step, so no other one would do better.
        """
        folder.mkdir(parents=True)
        log = folder / LOG
        code = run_step(self.command(options, folder), cwd, log)
        said = last_words(log)
        candidates = said.startswith(CHECKOUT_OPTION)
        if code == _NOTHING_SELECTED or (code == EXIT_USAGE and not candidates):
            raise CommandError(f"bisect: pytest says: {said} ({log})", code)
        found = step_verdict(_run_in(folder), code, said, failure_is_bad=self.failure_is_bad)
        return Asked(found, folder)

    def command(self, options: Sequence[str], folder: Path) -> list[str]:
        """What a step starts. ``-P``: what lies in a checkout is no library, as for the command
        ``pytest``. A FAIL of any metric ends the step."""
        only = [f"--gpubench-gate-only={metric}" for metric in self.metrics]
        ours = [f"--gpubench-results={folder}", f"--gpubench-launches={self.launches}", *only]
        ours += ["--gpubench-inconclusive=exit", "-x", *options]
        place = self.arguments.index("--") if "--" in self.arguments else len(self.arguments)
        before, after = self.arguments[:place], self.arguments[place:]
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
