"""``gpubench import``."""

from __future__ import annotations

import argparse
import gzip
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.model.printing import counted, for_terminal

if TYPE_CHECKING:
    from pytest_gpubench.commands import Subparsers
    from pytest_gpubench.recipes.importing.imported import Imported, Wishes
    from pytest_gpubench.recipes.importing.official_entries import Picks

_MOST = 64 << 20
"""Bytes of a file, unpacked."""


def add_commands(commands: Subparsers) -> None:
    """Add the parser."""
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
    command.add_argument("--isl", type=int, metavar="N", help="input length to measure")
    command.add_argument("--osl", type=int, metavar="N", help="output length to measure")
    command.add_argument(
        "--conc", type=int, action="append", default=[], metavar="N", help="concurrency, repeatable"
    )
    official = command.add_argument_group("of an entry of vllm-project/recipes")
    official.add_argument("--variant", default="", help="one variant (default: all that fit)")
    official.add_argument("--strategy", default="", help="one strategy (default: all of one node)")
    official.add_argument(
        "--feature", action="append", default=[], help="a feature that is off by default"
    )
    captured = command.add_argument_group("of captured points")
    captured.add_argument("--key", default="", help="one entry of the master file (default: all)")
    command.set_defaults(run=_import)


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
        for lost in recipe.lost:
            print(for_terminal(f"{recipe.name}: not carried over: {lost}"), file=sys.stderr)
    lossless = sum(not recipe.lost for recipe in recipes)
    print(f"gpubench: {counted(len(recipes), 'recipe')}, {lossless} without loss", file=sys.stderr)
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
    """The nodes of the taxonomy.yaml of the checkout in which an entry lies; none where there is
    no such file."""
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
