"""``gpubench import``, ``gpubench compare-source``, and what ``gpubench fetch --sources`` does."""

from __future__ import annotations

import argparse
import gzip
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_gpubench.commands import MANY, NUMBER, add_selection, say, selected, warn
from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.model.grouping import grouped
from pytest_gpubench.model.printing import counted

if TYPE_CHECKING:
    from pytest_gpubench.commands import Subparsers
    from pytest_gpubench.recipes.importing.imported import Imported, Wishes
    from pytest_gpubench.recipes.importing.official_entries import Picks

_MOST = 64 << 20
"""Bytes of a file, unpacked."""


def add_commands(commands: Subparsers) -> None:
    command = commands.add_parser(
        "import",
        help="print as a recipe what a command line or somebody else's file serves",
        epilog="gpubench import --runner h100 -- vllm serve ORG/MODEL --tensor-parallel-size 8",
    )
    command.add_argument(
        "words",
        nargs="+",
        metavar="FILE | -- COMMAND",
        help="a file (shell, an entry of vllm-project/recipes, a workload of perf-eval, captured "
        "points of InferenceX), or after -- a command line, which is never run",
    )
    command.add_argument("--runner", default="", metavar="LABEL", help="as a recipe's runner")
    command.add_argument("--model-prefix", default="", metavar="WORD", help="as a recipe's")
    command.add_argument("--precision", default="", metavar="WORD", help="as a recipe's")
    command.add_argument("--isl", **NUMBER, help="input length to measure")
    command.add_argument("--osl", **NUMBER, help="output length to measure")
    command.add_argument("--conc", **MANY, **NUMBER, help="concurrency, repeatable")
    official = command.add_argument_group("of an entry of vllm-project/recipes")
    official.add_argument("--variant", default="", help="one variant (default: all that fit)")
    official.add_argument("--strategy", default="", help="one strategy (default: all of one node)")
    official.add_argument("--feature", **MANY, help="a feature that is off by default")
    captured = command.add_argument_group("of captured points")
    captured.add_argument("--key", default="", help="one entry of the master file (default: all)")
    command.set_defaults(run=_import)

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


def _import(parsed: argparse.Namespace) -> int:
    from pytest_gpubench.recipes.importing.imported import Wishes, text_of
    from pytest_gpubench.recipes.importing.official_entries import Picks

    concs = [("--conc", conc) for conc in parsed.conc]
    for option, number in (("--isl", parsed.isl), ("--osl", parsed.osl), *concs):
        if number is not None and number < 1:
            raise GpubenchError(f"{option} {number}: write 1 or more")
    wishes = Wishes(
        runner=parsed.runner,
        model_prefix=parsed.model_prefix,
        precision=parsed.precision,
        isl=parsed.isl,
        osl=parsed.osl,
        concs=tuple(dict.fromkeys(parsed.conc)),
    )
    picks = Picks(parsed.variant, parsed.strategy, parsed.runner, tuple(parsed.feature))
    if len(parsed.words) > 1:
        from pytest_gpubench.recipes.importing.makers import recipe_of_server
        from pytest_gpubench.recipes.importing.shell_text import server_in_words

        source = "a command line"
        recipes = [recipe_of_server(server_in_words(parsed.words), wishes)]
    else:
        source = parsed.words[0]
        recipes = recipes_of_file(Path(source), wishes, picks, parsed.key)
    recipes = checked(recipes, source)
    print(text_of(recipes, source), end="")
    for recipe in recipes:
        warn(*(f"{recipe.name}: not carried over: {lost}" for lost in recipe.lost))
    lossless = sum(not recipe.lost for recipe in recipes)
    warn(f"gpubench: {counted(len(recipes), 'recipe')}, {lossless} without loss")
    return 0


def recipes_of_file(path: Path, wishes: Wishes, picks: Picks, key: str = "") -> list[Imported]:
    """The recipes of a file, by what it holds.

    Raises:
        GpubenchError: if it cannot be read or holds none.
    """
    from pytest_gpubench.recipes.importing import (
        captured_points,
        makers,
        official_entries,
        perf_eval,
    )
    from pytest_gpubench.recipes.importing.shell_text import server_in_text

    data = _content(path)
    try:
        if path.suffix in (".gz", ".json"):
            return captured_points.recipes_of_points(captured_points.points_in(data), key, wishes)
        if path.suffix not in (".yaml", ".yml"):
            text = _decoded(data)
            return [makers.recipe_of_server(server_in_text(text), wishes)]
        document = _tree(path, data)
        if perf_eval.is_workload(document):
            gpus = path.parent.parent / "lib" / "gpu_profiles.yaml"
            beside = tree_of(gpus) if gpus.is_file() else None
            return [perf_eval.recipe_of_workload(document, beside, wishes)]
        if official_entries.is_entry(document):
            address = official_entries.address_of(path.absolute().parent.name, path.stem)
            nodes = profiles_beside(path)
            return makers.recipes_of_entry(document, nodes, picks, wishes, address)
    except GpubenchError as error:
        raise GpubenchError(f"{path}: {error}") from None
    raise GpubenchError(
        f"{path}: neither an entry of vllm-project/recipes (model, variants) nor a workload of "
        "perf-eval (gpu, vllm); a recipe of ours needs no import"
    )


def profiles_beside(entry: Path) -> dict[str, Any]:
    """The nodes of the taxonomy.yaml of an entry's checkout; none where there is no such file."""
    from pytest_gpubench.recipes.importing.official_nodes import profiles_of

    taxonomy = entry.absolute().parents[min(2, len(entry.absolute().parents) - 1)] / "taxonomy.yaml"
    return profiles_of(tree_of(taxonomy)) if taxonomy.is_file() else {}


def checked(recipes: list[Imported], source: str) -> list[Imported]:
    """The recipes, loaded and planned as they would be printed."""
    from pytest_gpubench.recipes.importing.imported import text_of, verified
    from pytest_gpubench.recipes.loading import load_recipes

    with tempfile.TemporaryDirectory(prefix="gpubench-import-") as folder:
        file = Path(folder) / "recipes.yaml"
        file.write_text(text_of(recipes, source), encoding="utf-8")
        return verified(recipes, load_recipes([file], policy="point"))


def tree_of(path: Path) -> Any:
    """The plain data of somebody's YAML file.

    Raises:
        GpubenchError: if it cannot be read, or is no YAML.
    """
    return _tree(path, _content(path))


def _content(path: Path) -> bytes:
    from pytest_gpubench.host.files import open_regular

    try:
        with open_regular(path) as file:
            data = file.read(_MOST + 1)
        if path.suffix == ".gz":
            with gzip.open(path) as packed:
                data = packed.read(_MOST + 1)
    except FileNotFoundError:
        raise GpubenchError(f"{path} does not exist; a command line stands after --") from None
    except (OSError, EOFError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise GpubenchError(f"{path} cannot be read: {why}") from None
    if len(data) > _MOST:
        raise GpubenchError(f"{path} has more than {_MOST >> 20} MiB")
    return data


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise GpubenchError("it is not UTF-8 text") from None


def _tree(path: Path, data: bytes) -> Any:
    from pytest_gpubench.recipes.problems import ProblemLog
    from pytest_gpubench.recipes.yaml_tree import read_tree

    log = ProblemLog([str(path)])
    root = read_tree(str(path), data, log)
    problems = log.sorted()
    if problems:
        raise GpubenchError(str(problems[0]))
    return root.plain() if root else None


EXIT_UNEXPLAINED = 1
"""A recipe differs from its source and does not say why."""
TAXONOMY = "taxonomy.yaml"
"""What a node is, for all official recipes."""


def fetch_sources(parsed: argparse.Namespace) -> int:
    """Fetch the official recipes of a selection into the cache."""
    from pytest_gpubench.host.source_files import fetch_source
    from pytest_gpubench.recipes.importing.official_entries import ORIGIN, entry_path

    _, cases, _ = selected(parsed)
    wanted = list(dict.fromkeys(filter(None, (entry_path(case.source) for case in cases))))
    if not wanted:
        raise GpubenchError("no recipe of the selection has an official `source` that can be read")
    for relative in [TAXONOMY, *wanted]:
        print(fetch_source(relative, parsed.sources_url or ORIGIN))
    return 0


def _compare(parsed: argparse.Namespace) -> int:
    from pytest_gpubench.recipes.importing.official_entries import entry_path
    from pytest_gpubench.recipes.source_comparison import compare, idle_everywhere, lines_of

    book, cases, _ = selected(parsed)
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
    say(*(line for one in made for line in lines_of(one)))
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
        say(*(f"  {line}" for line in unread))
    return EXIT_UNEXPLAINED if open_ones else 0


def _entry(official: Path | None, relative: str) -> tuple[Any, Any]:
    """An official entry and the nodes of its project."""
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
