"""``gpubench matrix, submit, status, cancel, retry``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_gpubench.commands import (
    FLAG,
    FOLDER,
    MANY,
    NUMBER,
    add_selection,
    print_json,
)
from pytest_gpubench.model.failures import CommandError, GpubenchError
from pytest_gpubench.model.printing import for_terminal, listed

if TYPE_CHECKING:
    from pytest_gpubench.commands import Subparsers

DEFAULT_FOLDER = Path("results/slurm")
_NOTHING = 5
"""As pytest's exit code where nothing is selected, or everything skipped."""


def add_commands(commands: Subparsers) -> None:
    matrix = commands.add_parser(
        "matrix", help="cut a selection into jobs, one per server, for a CI matrix or for Slurm"
    )
    add_selection(matrix)
    matrix.add_argument(
        "--format",
        choices=("github", "slurm"),
        default="github",
        help="JSON (default), or batch scripts to look at",
    )
    matrix.add_argument("--launches", metavar="N|N..M", help="as --gpubench-launches")
    matrix.add_argument("--canary", **FLAG, help="as --gpubench-canary")
    _add_trim(matrix)
    _add_slurm(matrix)
    matrix.set_defaults(run=_matrix)

    submit = commands.add_parser(
        "submit",
        help="run a selection on a cluster: a job array, one server per task, and a merge job",
    )
    add_selection(submit)
    submit.add_argument(
        "--slurm",
        action="store_true",
        required=True,
        help="the cluster's scheduler; there is one so far",
    )
    submit.add_argument("--launches", metavar="N|N..M", help="as --gpubench-launches")
    _add_trim(submit)
    submit.add_argument("--no-fetch", **FLAG, help="no job that fetches the weights first")
    submit.add_argument(
        "--tests", **MANY, metavar="PATH", help="tests that tasks run (default: benchmarks)"
    )
    submit.add_argument(
        "--pytest-arg", **MANY, metavar="ARG", help="further argument of pytest, repeatable"
    )
    _add_slurm(submit)
    submit.set_defaults(run=_submit)

    for name, words, function in (
        ("status", "say how far a submission is", _status),
        ("cancel", "cancel its jobs", _cancel),
    ):
        parser = commands.add_parser(name, help=words)
        parser.add_argument(
            "folder",
            nargs="?",
            type=Path,
            default=DEFAULT_FOLDER,
            help=f"its folder (default: {DEFAULT_FOLDER})",
        )
        parser.set_defaults(run=function)

    retry = commands.add_parser(
        "retry",
        help="run pytest, again while every failure is of the infrastructure; verdicts stand",
    )
    retry.add_argument("--attempts", **NUMBER, default=2, help="at most (default: 2)")
    retry.add_argument("--results", **FOLDER, default=Path("results"), help="as --gpubench-results")
    retry.add_argument(
        "arguments", nargs=argparse.REMAINDER, metavar="-- ARGUMENTS", help="of pytest"
    )
    retry.set_defaults(run=_retry)

    step = commands.add_parser("slurm-step")  # what batch scripts call
    step.add_argument("step", choices=("fetch", "task", "merge"))
    step.add_argument("folder", type=Path)
    step.set_defaults(run=_step)


def _add_trim(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--trim", **FLAG, help="as --gpubench-trim")


def _add_slurm(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("Slurm")
    group.add_argument(
        "--results",
        **FOLDER,
        default=DEFAULT_FOLDER,
        help=f"shared folder (default: {DEFAULT_FOLDER})",
    )
    group.add_argument("--account", default="", help="as sbatch's")
    group.add_argument("--partition", default="", help="as sbatch's")
    group.add_argument(
        "--time", default="", help="limit of every task (default: the estimate of its entry)"
    )
    group.add_argument(
        "--gres-type", default="", metavar="TYPE", help="asks for gpu:TYPE:N instead of gpu:N"
    )
    group.add_argument(
        "--container-image",
        default="",
        metavar="IMAGE",
        help="pyxis image of the tasks; 'recipe': that of each recipe",
    )
    group.add_argument(
        "--container-mounts",
        default="",
        metavar="LIST",
        help="pyxis mounts besides the results folder",
    )
    group.add_argument(
        "--max-parallel",
        **NUMBER,
        default=0,
        help="tasks of one array at a time (default: no limit)",
    )
    group.add_argument(
        "--sbatch-arg", **MANY, metavar="ARG", help="further argument of every sbatch, repeatable"
    )


def _document(parsed: argparse.Namespace) -> dict[str, Any]:
    from pytest_gpubench.commands.inner_pytest import selection_matrix

    more = [f"--gpubench-launches={parsed.launches}"] if parsed.launches else []
    more += [f"--gpubench-{name}" for name in ("canary", "trim") if getattr(parsed, name, False)]
    return selection_matrix(
        parsed.recipes, parsed.keyword, parsed.markexpr, parsed.server_per, more
    )


def _matrix(parsed: argparse.Namespace) -> int:
    document = _document(parsed)
    if not document["include"]:  # a CI that runs no job of it would be green
        reasons = dict.fromkeys(f"{one['what']}: {one['reason']}" for one in document["left_out"])
        words = f"no matrix: no case of the selection can run; {listed(list(reasons), 4)}"
        raise CommandError(for_terminal(words), _NOTHING)
    if parsed.format == "github":
        print_json(document)
        return 0

    from pytest_gpubench.commands import submission

    for script in submission.scripts_of(document, parsed):
        print(f"# {script.name}.sh\n{script.text}")
    return 0


def _submit(parsed: argparse.Namespace) -> int:
    from pytest_gpubench.commands import submission

    return submission.submit(_document(parsed), parsed)


def _status(parsed: argparse.Namespace) -> int:
    from pytest_gpubench.commands import submission

    return submission.status(parsed.folder)


def _cancel(parsed: argparse.Namespace) -> int:
    from pytest_gpubench.commands import submission

    return submission.cancel(parsed.folder)


def _step(parsed: argparse.Namespace) -> int:
    from pytest_gpubench.commands import slurm_steps

    return slurm_steps.run(parsed.step, parsed.folder)


def _retry(parsed: argparse.Namespace) -> int:
    from pytest_gpubench.commands.slurm_steps import run_pytest

    if parsed.attempts < 1:
        raise GpubenchError(f"--attempts {parsed.attempts}: write 1 or more")
    arguments = parsed.arguments[1:] if parsed.arguments[:1] == ["--"] else parsed.arguments
    return run_pytest(arguments, parsed.results, parsed.attempts)
