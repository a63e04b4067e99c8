"""recipes.yaml and what it includes, against what InferenceX's own scripts start: point by point.

``python experiments/inferencex/report.py [RECIPES...]`` prints, per engine, how many points are
expanded, how many start the same command line in the same environment, and every difference.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import captured

from pytest_gpubench.dialects.command_line import CommandLine
from pytest_gpubench.dialects.registry import dialect_of
from pytest_gpubench.model.cases import Case, RecipeBook
from pytest_gpubench.model.workload import AGENTIC
from pytest_gpubench.recipes.loading import load_recipes

SHIPPED = HERE.parents[1] / "recipes.yaml"
_OURS = {
    *("host", "port", "served-model-name", "revision", "enable-metrics"),
    "config",  # SGLang's key file; theirs are read into flags
}
_SAME = {
    "vllm": {"tp": "tensor-parallel-size", "dp": "data-parallel-size"},
    "sglang": {
        **dict.fromkeys(("tp", "tensor-parallel-size"), "tp-size"),
        **dict.fromkeys(("dp", "data-parallel-size"), "dp-size"),
        "expert-parallel-size": "ep-size",
        "model": "model-path",
    },
}
_ONE_IS_NOTHING = ("data-parallel-size", "pipeline-parallel-size", "dp-size", "ep-size", "pp-size")
_PROGRAMS = {"vllm", "serve", "python3", "-m", "sglang", "sglang.launch_server"}


def understood(engine: str, argv: Sequence[str], files: Mapping[str, Any]) -> dict[str, Any]:
    """A command line as the engine's parser takes it: flags by their long name, JSON and numbers
    parsed, ``--no-x`` as false, dotted flags as the maps that they make (vLLM drops an earlier map
    of that name), what ``--config`` names read in.
    """
    flags: dict[str, Any] = {}
    dotted: dict[str, dict[str, Any]] = {}
    for name, value in _pairs(engine, argv):
        if name == "config" and value in files:
            flags |= {key: _value(item) for key, item in files[value].items()}
        elif "." in name:
            head, *inner, last = name.split(".")
            place = dotted.setdefault(head.replace("_", "-"), {})
            for key in inner:
                place = place.setdefault(key, {})
            place[last] = _value(value)
        else:
            long = name.replace("_", "-")
            flags[_SAME[engine].get(long, long)] = _value(value)
    flags |= dotted
    for name in [name for name in flags if name.startswith("no-")]:
        flags[name[3:]] = not flags.pop(name)
    for name in _ONE_IS_NOTHING:
        if flags.get(name) == 1:
            del flags[name]
    return {name: value for name, value in flags.items() if name not in _OURS}


def _pairs(engine: str, argv: Sequence[str]) -> Iterator[tuple[str, Any]]:
    words = [word for word in argv if word not in _PROGRAMS and not word.endswith("/python")]
    place = 0
    while place < len(words):
        word = words[place].replace("-cc.", "--compilation-config.")
        place += 1
        if not word.startswith("--"):
            yield "model" if engine == "vllm" else "model-path", word
            continue
        name, equals, value = word[2:].partition("=")
        values = [value] if equals else []
        while not equals and place < len(words) and not words[place].startswith("--"):
            values.append(words[place])
            place += 1
            if not name.startswith("cuda-graph-bs"):
                break
        yield name, True if not values else values[0] if len(values) == 1 else values


def _value(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return json.loads({"True": "true", "False": "false"}.get(value, value))
        except ValueError:
            return value
    return value


@dataclass(slots=True)
class Comparison:
    """Captured points against ours."""

    captures: str
    points: int = 0
    equal: int = 0
    missing: Counter[str] = field(default_factory=Counter)
    """Points that no recipe has, by key."""
    differing: Counter[str] = field(default_factory=Counter)
    """What differs, by key and flag."""
    more: list[str] = field(default_factory=list)
    """Our cases of those keys that are no point of theirs."""


def compare(book: RecipeBook, captures: str) -> Comparison:
    """Compare a book that was loaded with one server per point.

    Args:
        captures: `vllm`, `sglang` or `vllm-agentic`.
    """
    servers = dict(book.servers)
    engine = captures.split("-")[0]
    ours = {_place(case): case for case in book.cases if case.identity.framework == engine}
    result = Comparison(captures)
    keys = set()
    for point in captured.read(captures):
        keys.add(point.key)
        result.points += 1
        case = ours.pop((point.key, point.place), None)
        if case is None:
            result.missing[point.key] += 1
            continue
        spec = servers[case.server]
        dialect = dialect_of(engine)
        command = {"vllm": ["vllm", "serve"], "sglang": ["sglang", "serve"]}[engine]
        line = dialect.render(spec, command, served_name=case.server, offline=False)
        differences = [*_flag_differences(engine, point, line), *_env_differences(point, line)]
        if spec.image != point.image:
            differences.append(f"image is {point.image!r} there and {spec.image!r} here")
        result.equal += not differences
        for text in differences:
            result.differing[f"{point.key}: {text}"] += 1
    result.more = [case.id for (key, _), case in ours.items() if key in keys]
    return result


def _place(case: Case) -> tuple[str, tuple[Any, ...]]:
    it, load = case.topology, case.workload
    place = (load.isl, load.osl, it.tp, it.pp, it.ep, it.dp_attn, load.conc)
    offloading: tuple[str, ...] = ()
    if load.dataset == AGENTIC:
        offloading = ("dram" if "dram" in case.identity.tokens else "none",)
    return case.recipe, (*place, bool(case.identity.spec), *offloading)


def _flag_differences(engine: str, point: captured.Point, line: CommandLine) -> Iterator[str]:
    theirs = understood(engine, point.argv, point.files)
    ours = understood(engine, line.argv, {})
    for name in sorted(theirs.keys() | ours.keys()):
        if theirs.get(name) != ours.get(name):
            yield f"--{name} is {theirs.get(name)!r} there and {ours.get(name)!r} here"


def _env_differences(point: captured.Point, line: CommandLine) -> Iterator[str]:
    ours = dict(line.env)
    launcher = {*dialect_of("vllm").ours_env, *dialect_of("sglang").ours_env}
    for name in sorted(point.env.keys() | ours.keys()):
        value = ours.get(name)
        if getattr(value, "optional", False):
            value = None  # the host of the capture had no such variable
        default = getattr(value, "default", value)
        if name in launcher and name not in point.env:
            continue
        if point.env.get(name) != default:
            yield f"{name} is {point.env.get(name)!r} there and {default!r} here"


def main() -> int:
    paths = [Path(name) for name in sys.argv[1:]] or [SHIPPED]
    book = load_recipes(paths, policy="point")
    for problem in book.problems:
        print(problem)
    for captures in ("vllm", "sglang", "vllm-agentic"):
        result = compare(book, captures)
        expanded = result.points - result.missing.total()
        print(f"{captures}: {expanded} of {result.points} points expanded, {result.equal} equal")
        for key, count in result.missing.items():
            print(f"  not in the recipes: {key} ({count})")
        for text, count in result.differing.most_common():
            print(f"  differs ({count}): {re.sub(r' +', ' ', text)}")
        for name in result.more:
            print(f"  not among their points: {name}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
