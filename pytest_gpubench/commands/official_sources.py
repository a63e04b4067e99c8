"""``gpubench compare-source``, and what ``gpubench fetch --sources`` does."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_gpubench.commands import add_selection
from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.model.grouping import grouped
from pytest_gpubench.model.printing import counted, for_terminal

if TYPE_CHECKING:
    from pytest_gpubench.commands import Subparsers
    from pytest_gpubench.model.cases import Case, RecipeBook

EXIT_UNEXPLAINED = 1
"""A recipe differs from its source and does not say why."""
TAXONOMY = "taxonomy.yaml"
"""What a node is, for all official recipes."""


def add_commands(commands: Subparsers) -> None:
    """Add the parser."""
    compare = commands.add_parser(
        "compare-source",
        help="say where recipes differ from the official ones that they follow (`source`)",
    )
    add_selection(compare)
    compare.add_argument(
        "--official",
        type=Path,
        metavar="PATH",
        help="a checkout of the official recipes, or one entry (default: what gpubench fetch "
        "--sources has fetched)",
    )
    compare.set_defaults(run=_compare)


def selected(parsed: argparse.Namespace) -> tuple[RecipeBook, list[Case]]:
    """The book of a selection, and its cases."""
    from pytest_gpubench.commands.inner_pytest import selection_plan
    from pytest_gpubench.recipes.loading import load_recipes

    plan = selection_plan(parsed.recipes, parsed.keyword, parsed.markexpr, parsed.server_per)
    book = load_recipes([Path(file) for file in plan["files"]], policy=parsed.server_per)
    chosen = {case["id"] for case in plan["cases"]}
    return book, [case for case in book.cases if case.id in chosen]


def fetch_sources(parsed: argparse.Namespace) -> int:
    """Fetch the official recipes of a selection into the cache."""
    from pytest_gpubench.host.source_files import fetch_source
    from pytest_gpubench.recipes.importing.official_entries import ORIGIN, entry_path

    _, cases = selected(parsed)
    wanted = list(dict.fromkeys(filter(None, (entry_path(case.source) for case in cases))))
    if not wanted:
        raise GpubenchError("no recipe of the selection has an official `source` that can be read")
    for relative in [TAXONOMY, *wanted]:
        print(fetch_source(relative, parsed.sources_url or ORIGIN))
    return 0


def _compare(parsed: argparse.Namespace) -> int:
    from pytest_gpubench.recipes.importing.official_entries import entry_path
    from pytest_gpubench.recipes.source_comparison import compare, idle_everywhere, lines_of

    book, cases = selected(parsed)
    servers = dict(book.servers)
    made = []
    unread: list[str] = []
    for name, members in grouped(cases, lambda case: case.recipe).items():
        source = members[0].source
        if not entry_path(source):
            unread.append(f"{name}: {source or 'no source'}")
            continue
        entry, profiles = _entry(parsed.official, entry_path(source))
        made.append(compare(members, servers, entry, profiles))
    for one in made:
        for line in lines_of(one):
            print(for_terminal(line))
    open_ones = sum(len(one.unexplained) for one in made)
    all_ones = sum(len(one.differences) for one in made)
    print(
        f"{counted(len(made), 'recipe')} compared: {counted(all_ones, 'difference')}, "
        f"{open_ones} not explained"
    )
    if idle := idle_everywhere(made):
        print(f"explained, but as in the official recipe everywhere: {', '.join(idle)}; remove it")
    if unread:
        print(f"not compared, {counted(len(unread), 'recipe')} without an official source:")
        print("\n".join(f"  {for_terminal(line)}" for line in unread))
    return EXIT_UNEXPLAINED if open_ones else 0


def _entry(official: Path | None, relative: str) -> tuple[Any, Any]:
    """An official entry and the nodes of its project."""
    from pytest_gpubench.commands.importing_recipes import profiles_beside, tree_of
    from pytest_gpubench.host.source_files import source_folder
    from pytest_gpubench.recipes.importing.official_entries import is_entry

    path = official if official is not None and not official.is_dir() else None
    path = path or (official or source_folder()) / relative
    if official is None and not path.is_file():
        raise GpubenchError(
            f"the official recipe {relative} is not in {source_folder()}: run gpubench fetch "
            "--sources where the network is allowed, or give a checkout with --official"
        )
    entry = tree_of(path)
    if not is_entry(entry):
        raise GpubenchError(f"{path} is no entry of official recipes (model, variants)")
    return entry, profiles_beside(path)
