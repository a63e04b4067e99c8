"""Commands of ``gpubench``, a module per subject, which imports what it runs when it runs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from pytest_gpubench.model.printing import for_terminal

if TYPE_CHECKING:
    from pytest_gpubench.model.cases import Case, RecipeBook
    from pytest_gpubench.model.specs import ServerSpec

    Subparsers: TypeAlias = argparse._SubParsersAction["CommandParser"]

EXIT_USAGE = 4
"""As pytest's: the command line or a file that it names cannot be used."""


FLAG: dict[str, Any] = {"action": "store_true"}
"""What ``add_argument`` takes for an option of a kind; this one has no value."""
FILE: dict[str, Any] = {"type": Path, "metavar": "FILE"}
FOLDER: dict[str, Any] = {"type": Path, "metavar": "DIR"}
NUMBER: dict[str, Any] = {"type": int, "metavar": "N"}
MANY: dict[str, Any] = {"action": "append", "default": []}


class CommandParser(argparse.ArgumentParser):
    """Ends a wrong command line with the exit code that pytest has for one."""

    rest = ""
    """Name of what stands behind ``--``; empty: nothing is set apart."""
    code_of_error: Callable[[Sequence[str]], int | None] | None = None
    """From the words of a wrong command line, another exit code for it."""
    _words: Sequence[str] = ()

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse's, with what stands behind the first ``--`` set apart where it is to be."""
        if not self.rest or args is None:
            return super().parse_known_args(args, namespace)
        words = self._words = list(args)
        place = words.index("--") if "--" in words else len(words)
        known, unknown = super().parse_known_args(words[:place], namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        setattr(known, self.rest, words[place + 1 :])
        return known, []

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        code = self.code_of_error(self._words) if self.code_of_error else None
        self.exit(EXIT_USAGE if code is None else code, f"{self.prog}: error: {message}\n")


def add_selection(parser: argparse.ArgumentParser) -> None:
    """The arguments of a command that works on selected cases."""
    parser.add_argument(
        "recipes", nargs="*", type=Path, help="recipe files (default: recipes.yaml)"
    )
    parser.add_argument("-k", dest="keyword", metavar="EXPRESSION", help="as pytest's -k")
    parser.add_argument("-m", dest="markexpr", metavar="EXPRESSION", help="as pytest's -m")
    parser.add_argument(
        "--server-per", choices=("parallelism", "shape", "point"), help="as --gpubench-server-per"
    )


def plan_of(parsed: argparse.Namespace) -> dict[str, Any]:
    """The plan of a selection (``add_selection``)."""
    from pytest_gpubench.commands.inner_pytest import selection_plan

    return selection_plan(parsed.recipes, parsed.keyword, parsed.markexpr, parsed.server_per)


def selected(parsed: argparse.Namespace) -> tuple[RecipeBook, list[Case], list[ServerSpec]]:
    """The book of a selection, its cases, and its servers in the order of the plan."""
    from pytest_gpubench.recipes.loading import load_recipes

    plan = plan_of(parsed)
    book = load_recipes([Path(file) for file in plan["files"]], policy=parsed.server_per)
    chosen = {case["id"] for case in plan["cases"]}
    cases = [case for case in book.cases if case.id in chosen]
    return book, cases, list(map(book.server, plan["servers"]))


def print_json(document: Any) -> None:
    """Print a document; where the output takes no UTF-8, in JSON's own escapes."""
    takes_all = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    print(json.dumps(document, indent=1, ensure_ascii=not takes_all))


def say(*lines: str) -> None:
    """Print lines in which there may be anything."""
    for line in lines:
        print(for_terminal(line), flush=True)


def warn(*lines: str) -> None:
    """The same on stderr."""
    for line in lines:
        print(for_terminal(line), file=sys.stderr)


def warn_of(what: str, found: Sequence[object], most: int = 10) -> None:
    """Name the first of what was left out, and count the others."""
    warn(*(f"{what}: {one}" for one in found[:most]))
    if len(found) > most:
        warn(f"{what}: {len(found) - most} more")
