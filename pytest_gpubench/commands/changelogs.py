"""``gpubench changelog REV``."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_gpubench.model.failures import GpubenchError

if TYPE_CHECKING:
    from pytest_gpubench.commands import Subparsers


def add_commands(commands: Subparsers) -> None:
    """Add the parser."""
    changelog = commands.add_parser(
        "changelog", help="print as Markdown what changed in the recipes since a git revision"
    )
    changelog.add_argument("revision", metavar="REV", help="commit, branch or tag")
    changelog.add_argument(
        "recipes", nargs="*", type=Path, help="recipe files (default: recipes.yaml)"
    )
    changelog.set_defaults(run=_changelog)


def _changelog(parsed: argparse.Namespace) -> int:
    from pytest_gpubench.host.git import files_at
    from pytest_gpubench.recipes.changes import broken_before, changelog, changes
    from pytest_gpubench.recipes.loading import load_recipes
    from pytest_gpubench.recipes.problems import problem_text

    files = parsed.recipes or [Path("recipes.yaml")]
    missing = next((path for path in files if not path.exists()), None)
    if missing is not None:
        raise GpubenchError(f"{missing} does not exist; give the path of a recipe file")
    book = load_recipes(files)
    if book.problems:
        raise GpubenchError(problem_text(book))
    with tempfile.TemporaryDirectory(prefix="gpubench-revision-") as folder:
        before = load_recipes(files_at(files, parsed.revision, Path(folder)))
    if before.problems:
        print(
            f"gpubench: at {parsed.revision} {broken_before(len(before.problems))}", file=sys.stderr
        )
    print(changelog(changes(before, book), parsed.revision))
    return 0
