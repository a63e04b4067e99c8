"""``gpubench bisect``: which change made it slower."""

from __future__ import annotations

import argparse
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_gpubench.commands import FILE, FLAG, FOLDER, MANY
from pytest_gpubench.model.failures import CommandError, GpubenchError

if TYPE_CHECKING:
    from pytest_gpubench.commands import Subparsers

DEFAULT_FOLDER = Path("results/bisect")
DEFAULT_LAUNCHES = "2..6"
GIT = "git-bisect"
EXIT_ABORT = 128
"""From here on ``git bisect run`` ends; a smaller code of a mistake would be taken for bad."""
_OURS = (
    "against",
    "against-checkout",
    "first-engine",
    "launches",
    "budget",
    "results",
    "plan",
    "matrix",
    "base-url",
    "update-baselines",
)


def add_commands(commands: Subparsers) -> None:
    bisect = commands.add_parser(
        "bisect",
        help="find the change that made a benchmark worse, each step judged by the gate",
        usage="gpubench bisect GOOD BAD [OPTIONS] -- ARGUMENTS OF PYTEST",
    )
    bisect.rest = "arguments"
    bisect.code_of_error = lambda words: EXIT_ABORT if _speaks_to_git(words) else None
    bisect.add_argument(
        "revisions",
        nargs="*",
        metavar="REVISION",
        help="of git: GOOD and BAD; only GOOD with --exit-code git-bisect; none with --engine",
    )
    bisect.add_argument(
        "--engine",
        **MANY,
        metavar="ENGINE|ARGS",
        help="instead of revisions: an engine, in the words of --gpubench-against; repeatable, the "
        "good one first, the bad one last",
    )
    bisect.add_argument("--engines", **FILE, help="the same from a file, an engine a line")
    bisect.add_argument(
        "--path", **MANY, metavar="PATH", help="only commits that touch it, repeatable"
    )
    bisect.add_argument(
        "--launches",
        default=DEFAULT_LAUNCHES,
        metavar="N|N..M",
        help="blocks A B B A of a step: N, and up to M while it is undecided "
        f"(default: {DEFAULT_LAUNCHES})",
    )
    bisect.add_argument(
        "--metric",
        **MANY,
        metavar="METRIC",
        help="that decides, repeatable (default: every metric that the recipes gate)",
    )
    bisect.add_argument(
        "--failure-is-bad",
        **FLAG,
        help="a candidate whose engine does not start, or fails, is bad instead of skipped",
    )
    bisect.add_argument(
        "--no-confirm",
        **FLAG,
        help="do not compare the first bad candidate with the one right before it",
    )
    bisect.add_argument(
        "--results",
        **FOLDER,
        default=DEFAULT_FOLDER,
        help=f"folder of the walk and its runs (default: {DEFAULT_FOLDER})",
    )
    bisect.add_argument("--resume", **FLAG, help="go on with the walk of that folder")
    bisect.add_argument(
        "--exit-code",
        choices=(GIT,),
        help="for git bisect run: one step, the working tree against GOOD; 0 good, 1 bad, 125 skip",
    )
    bisect.set_defaults(run=_bisect)


def _speaks_to_git(words: Sequence[str]) -> bool:
    return any(GIT in word for word in words)


def _bisect(parsed: argparse.Namespace) -> int:
    from pytest_gpubench.commands.bisect_walk import signals_interrupt

    if parsed.exit_code != GIT:
        with signals_interrupt():
            return _walk(parsed)
    try:
        with signals_interrupt():
            return _one_step(parsed)
    except (GpubenchError, OSError) as error:
        raise CommandError(str(error), EXIT_ABORT) from None
    except Exception:  # noqa: BLE001  # a fault of ours, which would end in 1, is no bad revision
        traceback.print_exc()
        return EXIT_ABORT


def _walk(parsed: argparse.Namespace) -> int:
    from pytest_gpubench.commands.bisect_walk import over_engines, over_revisions

    _check(parsed)
    engines = _engines(parsed)
    if engines:
        return over_engines(parsed, engines)
    if len(parsed.revisions) != 2:
        raise GpubenchError(
            f"bisect: {len(parsed.revisions)} revisions given; name two, GOOD and BAD, before the "
            "--, or engines with --engine"
        )
    return over_revisions(parsed)


def _check(parsed: argparse.Namespace) -> None:
    """What can be known to be wrong before anything is started."""
    from pytest_gpubench.recipes.gates import name_error
    from pytest_gpubench.recipes.server_groups import parse_launches

    for name in _names_of(parsed.arguments):
        if name in [f"--gpubench-{one}" for one in _OURS]:
            raise GpubenchError(
                f"bisect: {name} is set by bisect itself; leave it out (--launches and --results "
                "are options of bisect)"
            )
    try:
        parse_launches(parsed.launches)
    except GpubenchError as error:
        raise GpubenchError(f"bisect: --launches: {error}") from None
    if wrong := next(filter(None, map(name_error, parsed.metric)), None):
        raise GpubenchError(f"bisect: --metric: {wrong}; the page on metrics lists them")


def _names_of(arguments: Sequence[str]) -> list[str]:
    """The long options among arguments of pytest, without their values."""
    words = list(arguments)
    before = words[: words.index("--")] if "--" in words else words
    return [word.partition("=")[0] for word in before if word.startswith("--")]


def _engines(parsed: argparse.Namespace) -> list[str]:
    """The engines, each of which can be read.

    Raises:
        GpubenchError: if one of them cannot, there are fewer than two, or revisions are given too.
    """
    from pytest_gpubench.engines.against import parse_against

    found = list(parsed.engine)
    if parsed.engines is not None:
        if found:
            raise GpubenchError("bisect: --engine and --engines say the same; leave one out")
        found = _lines(parsed.engines)
    if not found and parsed.engines is None:
        return []
    if parsed.revisions:
        raise GpubenchError(
            "bisect: revisions and engines cannot both change; leave one of them out"
        )
    if parsed.path:
        raise GpubenchError("bisect: --path chooses commits, and engines are given; leave it out")
    if len(found) < 2:
        raise GpubenchError(
            f"bisect: {len(found)} engines given; name at least two, the good one first, the bad "
            "one last"
        )
    for number, text in enumerate(found, start=1):
        try:
            parse_against(text)
        except GpubenchError as error:
            raise GpubenchError(
                f"bisect: engine {number}, read as --gpubench-against: {error}"
            ) from None
    return found


def _lines(path: Path) -> list[str]:
    from pytest_gpubench.host.files import open_regular, unread_because

    try:
        with open_regular(path) as file:
            text = file.read().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise GpubenchError(
            f"bisect: --engines {path} cannot be read: {unread_because(error) or error}"
        ) from None
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _one_step(parsed: argparse.Namespace) -> int:
    from pytest_gpubench.commands.bisect_walk import one_step

    _check(parsed)
    if (
        parsed.engine
        or parsed.engines
        or parsed.resume
        or parsed.path
        or len(parsed.revisions) != 1
    ):
        raise GpubenchError(
            f"bisect: with --exit-code {GIT} git walks: name GOOD alone, and neither engines, "
            "--path nor --resume"
        )
    return one_step(parsed)
