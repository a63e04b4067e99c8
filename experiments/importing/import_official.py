"""`gpubench import` on everything that vllm-project/recipes has, and the doctor's word on it.

    python experiments/importing/import_official.py CHECKOUT             # both tables
    python experiments/importing/import_official.py CHECKOUT --builder   # and what its own program prints
    python experiments/importing/import_official.py CHECKOUT --errors    # every error of the doctor

CHECKOUT is a folder with models/, taxonomy.yaml and src/lib/ of that repository. Every entry with a
strategy for one node is imported for the hardware that it is marked verified on (where it is marked
on none: for H200, as its builder does), each variant and strategy, with the features that are on by
default, and once more with all. `--builder` runs that project's own command-synthesis.js with node
and compares word for word. config.json of the models: experiments/doctor/models.json.gz.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pytest_gpubench.commands.importing_recipes import checked, profiles_beside, tree_of
from pytest_gpubench.doctor.findings import Finding
from pytest_gpubench.doctor.rules import examine
from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.model.hardware import HARDWARE
from pytest_gpubench.recipes.importing.imported import Imported, Wishes, text_of
from pytest_gpubench.recipes.importing.makers import recipes_of_entry
from pytest_gpubench.recipes.importing.official_entries import Picks, address_of, choices, server_of
from pytest_gpubench.recipes.loading import load_recipes
from pytest_gpubench.recipes.source_comparison import compare

HERE = Path(__file__).parent
MODELS = HERE.parent / "doctor" / "models.json.gz"
LENGTH = "--max-model-len"
"""What a recipe always says, where many entries leave it to the engine."""
USUAL = "h200"
"""What the builder shows where an entry names no hardware."""
SYNTHESIS = "src/lib/command-synthesis.js"


def entries(checkout: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and content of every entry."""
    for path in sorted((checkout / "models").glob("*/*.yaml")):
        yield f"{path.parent.name}/{path.stem}", tree_of(path)


def offers(entry: dict[str, Any], profiles: Any) -> list[Picks]:
    """What of an entry is imported.

    Raises:
        GpubenchError: if it has no server of one node.
    """
    every = tuple(entry.get("features") or ())
    try:
        choices(entry, profiles, Picks())
    except GpubenchError as error:
        if "marked verified on" not in str(error):
            raise
        return [Picks(hardware=USUAL), Picks(hardware=USUAL, features=every)]
    return [Picks(), Picks(features=every)]


def imported(entry: dict[str, Any], profiles: Any) -> list[Imported]:
    """All recipes of an entry, checked against their own plan."""
    made: list[Imported] = []
    for picks in offers(entry, profiles):
        made += checked(recipes_of_entry(entry, profiles, picks, Wishes()), "x")
    return made


def kind_of(sentence: str) -> str:
    """What a sentence says is lost, in few words."""
    name, _, rest = sentence.partition(": ")
    if rest.startswith("no row"):
        return "a strategy whose parallelism no row says"
    if name.startswith("hardware "):
        return "hardware that our table has not"
    return "the draft" if "draft" in name or "speculative" in name else name


def compared(checkout: Path, profiles: Any) -> tuple[int, list[str]]:
    """How many servers were compared with what the builder prints, and those that differ."""
    node = shutil.which("node")
    if node is None:
        sys.exit("--builder needs node on PATH")
    every = dict(entries(checkout))
    asked: list[list[Any]] = []
    ours = []
    for name, entry in every.items():
        with contextlib.suppress(GpubenchError):
            for picks in offers(entry, profiles):
                for one in choices(entry, profiles, picks):
                    asked.append([name, one.variant, one.strategy, one.profile.id, [*one.features]])
                    ours.append(server_of(entry, one))
    strategies = {path.stem: tree_of(path) for path in (checkout / "strategies").glob("*.yaml")}
    taxonomy = tree_of(checkout / "taxonomy.yaml")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(checkout / SYNTHESIS, Path(folder, "synthesis.mjs"))
        Path(folder, "ask.json").write_text(json.dumps([every, strategies, taxonomy, asked]))
        shutil.copy(HERE / "ask_builder.mjs", folder)
        done = subprocess.run(
            [node, "ask_builder.mjs"], cwd=folder, capture_output=True, text=True, check=True
        )
    unlike = []
    for question, server, answer in zip(asked, ours, json.loads(done.stdout), strict=True):
        theirs = (["vllm", "serve", *server.options], dict(server.env))
        env = {name: str(value) for name, value in answer["env"].items()}
        if (answer["argv"], env) != theirs:
            unlike.append(" ".join(map(str, question)))
    return len(asked), unlike


def unlike_source(made: list[Imported], entry: dict[str, Any], profiles: Any) -> int:
    """How many of an entry's recipes `compare-source` finds other than the entry."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "recipes.yaml")
        file.write_text(text_of(made, "x"))
        book = load_recipes([file], policy="point")
    members = [[case for case in book.cases if case.recipe == one.name] for one in made]
    servers = dict(book.servers)
    return sum(bool(compare(cases, servers, entry, profiles).differences) for cases in members)


def doctors_words(
    recipes: list[Imported], configs: dict[str, Any]
) -> Iterator[tuple[str, Finding]]:
    """(server, finding) of all that the doctor says; the same server once."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "recipes.yaml")
        file.write_text(text_of(recipes, "x"))
        book = load_recipes([file])
    for key, spec in book.servers:
        config = configs.get(spec.model, {}).get("config")
        cases = [case for case in book.cases if case.server == key]
        for finding in examine(spec, cases, hardware=HARDWARE[spec.hardware], target=config):
            yield key, finding
        known[spec.model] += config is not None
        servers[spec.model] += 1


known: Counter[str] = Counter()
servers: Counter[str] = Counter()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--builder", action="store_true")
    parser.add_argument("--errors", action="store_true")
    options = parser.parse_args()
    profiles = profiles_beside(options.checkout / "models" / "org" / "model.yaml")
    configs = json.loads(gzip.decompress(MODELS.read_bytes()))
    whole: list[str] = []
    lossy: list[str] = []
    refused: Counter[str] = Counter()
    losses: Counter[str] = Counter()
    said: Counter[str] = Counter()
    errors: list[str] = []
    recipes = clean = only_length = unlike_own = 0
    begin = time.perf_counter()
    for name, entry in entries(options.checkout):
        try:
            made = imported(entry, profiles)
        except GpubenchError as error:
            refused[str(error)] += 1
            continue
        recipes += len(made)
        clean += sum(not one.lost for one in made)
        lost = {kind_of(sentence) for one in made for sentence in one.lost}
        losses.update(lost)
        (lossy if lost else whole).append(name)
        only_length += lost == {LENGTH}
        for picks in offers(entry, profiles):
            address = address_of(*name.split("/"))
            chosen = recipes_of_entry(entry, profiles, picks, Wishes(), address)
            unlike_own += unlike_source(chosen, entry, profiles)
            for server, one in doctors_words(chosen, configs):
                said[f"{one.severity}: {one.rule}"] += 1
                if one.severity == "error":
                    errors.append(f"{name} {server}: {one}")
    seconds = time.perf_counter() - begin
    total = len(whole) + len(lossy) + sum(refused.values())
    print(f"{total} entries: {len(whole)} without loss, {len(lossy)} with named losses ({only_length} of them: {LENGTH} alone), "
          f"{sum(refused.values())} not; {recipes} recipes, {clean} without loss; {seconds:.0f} s\n")  # fmt: skip
    print(f"compare-source finds {unlike_own} of these recipes other than their entry\n")
    print("| not imported, because | entries |\n|---|---|")
    print("\n".join(f"| {why} | {count} |" for why, count in refused.most_common()))
    print("\n| lost | entries |\n|---|---|")
    print("\n".join(f"| {what} | {count} |" for what, count in losses.most_common()))
    print(f"\nThe doctor, on {sum(servers.values())} servers of {len(servers)} models ({sum(known.values())} "
          f"with a config.json): {len(errors)} errors\n")  # fmt: skip
    print("\n".join(f"- {what}: {count}" for what, count in said.most_common()))
    if options.errors:
        print("\n".join(errors))
    if options.builder:
        count, unlike = compared(options.checkout, profiles)
        print(f"\nThe builder's own words: {count} servers compared, {len(unlike)} differ")
        print("\n".join(unlike))


if __name__ == "__main__":
    main()
