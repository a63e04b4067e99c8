"""Points of InferenceX with the command lines that its own scripts passed: an entry of a master
file becomes one recipe, whose `when` parts say what differs from point to point."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pytest_gpubench.dialects.command_line import flag
from pytest_gpubench.dialects.command_reading import started
from pytest_gpubench.dialects.dialect import Dialect
from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.model.frozen import freeze
from pytest_gpubench.model.grouping import grouped
from pytest_gpubench.model.printing import counted
from pytest_gpubench.model.specs import Topology
from pytest_gpubench.recipes.importing.foreign_server import (
    ForeignServer,
    ServerKeys,
    row_of,
    server_keys,
)
from pytest_gpubench.recipes.importing.imported import (
    Imported,
    Labels,
    Origin,
    Wishes,
    head_of,
    labels,
    variant_words,
)
from pytest_gpubench.recipes.inferencex import hardware_of

_RUN = ("MODEL_PATH", "MAX_MODEL_LEN", "EVAL_MAX_MODEL_LEN", "PYTHONDONTWRITEBYTECODE")
"""Variables of the original's own scripts, which no engine reads."""
_ABSENT = object()


def points_in(data: bytes) -> list[dict[str, Any]]:
    """The points of a file of captured command lines.

    Raises:
        GpubenchError: if it is none.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise GpubenchError("it is no JSON") from None
    cases = document.get("cases") if isinstance(document, dict) else None
    if not isinstance(cases, list) or not all(map(_is_point, cases)):
        raise GpubenchError(
            'it holds no captured points: {"cases": [{"key", "config", "argv", "env"}, ...]}'
        )
    return cases


def _is_point(case: Any) -> bool:
    if not isinstance(case, dict) or not isinstance(case.get("key"), str):
        return False
    config = case.get("config")
    return (
        isinstance(config, dict)
        and all(type(config.get(name)) is int for name in ("isl", "osl", "conc"))
        and all(
            isinstance(config.get(name), str) for name in ("model-prefix", "precision", "runner")
        )
        and isinstance(case.get("argv", []), list)
        and all(isinstance(word, str) for word in case.get("argv") or ())
        and isinstance(case.get("env", {}), dict)
    )


def recipes_of_points(
    points: Sequence[Mapping[str, Any]], key: str, wishes: Wishes
) -> list[Imported]:
    """A recipe per key.

    Args:
        key: the only one that is wanted; empty: all.

    Raises:
        GpubenchError: if there is no such key, or no recipe can say its points.
    """
    keys = list(dict.fromkeys(point["key"] for point in points))
    if key and key not in keys:
        raise GpubenchError(f"no point has the key '{key}'; there are {', '.join(keys)}")
    made: list[Imported] = []
    refused: list[str] = []
    for name in [key] if key else keys:
        try:
            made.append(recipe_of_points([one for one in points if one["key"] == name], wishes))
        except GpubenchError as error:
            refused.append(f"{name}: {error}")
    if not made:
        raise GpubenchError(refused[0] if refused else "it holds no point")
    made[0] = replace(made[0], lost=(*made[0].lost, *refused))
    return made


def recipe_of_points(points: Sequence[Mapping[str, Any]], wishes: Wishes) -> Imported:
    """One recipe of the points of one key.

    Raises:
        GpubenchError: if no recipe can say any of them.
    """
    config = points[0]["config"]
    runner = wishes.runner or _runner(str(config["runner"]))
    unsaid: dict[str, list[str]] = {}
    said: list[tuple[Mapping[str, Any], ServerKeys, ForeignServer]] = []
    for point in points:
        where = f"isl {point['config']['isl']} conc {point['config']['conc']}"
        start = started(point.get("argv") or ())
        if start is None:
            why = f"no server was started ({point.get('status') or 'no argv'})"
            unsaid.setdefault(why, []).append(where)
            continue
        words = _with_files(start.options, point.get("files"), start.dialect)
        env = {name: str(text) for name, text in point["env"].items() if name not in _RUN}
        server = ForeignServer(start.dialect, words, env)
        try:
            said.append(
                (point["config"], server_keys(server, hardware_of(runner, {}) or ""), server)
            )
        except GpubenchError as error:
            unsaid.setdefault(str(error), []).append(where)
    lost = [
        f"{counted(len(places), 'point')} ({', '.join(places)}): {why}"
        for why, places in unsaid.items()
    ]
    if not said:
        raise GpubenchError(f"no recipe can say its points; {lost[0]}")
    names = labels(
        said[0][1].model,
        Wishes(runner, wishes.model_prefix or str(config["model-prefix"])),
        precision=wishes.precision or str(config["precision"]),
    )
    return _recipe(points[0], names, said, lost)


def _recipe(
    point: Mapping[str, Any],
    names: Labels,
    said: Sequence[tuple[Mapping[str, Any], ServerKeys, ForeignServer]],
    lost: Iterable[str],
) -> Imported:
    dialect = said[0][2].dialect
    drafted = [bool(keys.speculative) for _, keys, _ in said]
    name, key = names.name(dialect.name, drafted=all(drafted)), str(point["key"])
    if key.startswith(f"{name}-"):
        name = "-".join((name, *variant_words(key.removeprefix(name))))
    base, when = _parts(
        [(config, keys.topology, _layers(config, keys)) for config, keys, _ in said]
    )
    all_lost = [*lost, *(text for _, keys, _ in said for text in keys.lost)]
    models = {keys.model for _, keys, _ in said}
    if len(models) > 1:
        all_lost.append(f"model: it differs from point to point ({', '.join(sorted(models))})")
    body = {
        **head_of(said[0][1], names, dialect),
        **base.pop("image"),
        **base,
        "when": when,
        "scenarios": {"fixed-seq-len": _search_spaces(said)},
    }
    return Imported(
        name,
        {name: value for name, value in body.items() if value not in (None, {}, [])},
        tuple(
            Origin(server, keys.topology, (config["isl"], config["osl"]), config["conc"])
            for config, keys, server in said
        ),
        tuple(dict.fromkeys(all_lost)),
        names.notes,
    )


def _runner(label: str) -> str:
    """A runner's label as our table has it: ``cluster:b200-dgxc`` is a b200."""
    plain = label.removeprefix("cluster:")
    return plain if hardware_of(plain, {}) else plain.partition("-")[0]


def _with_files(options: tuple[str, ...], files: Any, dialect: Dialect) -> tuple[str, ...]:
    """The words, ``--config FILE`` replaced by what the script wrote into the file."""
    words: list[str] = []
    index = 0
    while index < len(options):
        word = options[index]
        name, equals, inline = word.partition("=")
        following = inline if equals else (options[index + 1 : index + 2] or ("",))[0]
        held = files.get(following) if name == "--config" and isinstance(files, dict) else None
        if not isinstance(held, dict):
            words.append(word)
            index += 1
            continue
        for key, value in held.items():
            words += flag(str(key), freeze(value), negation=dialect.flags.negation)
        index += 1 if equals else 2
    return tuple(words)


def _layers(config: Mapping[str, Any], keys: ServerKeys) -> dict[str, dict[str, Any]]:
    image = config.get("image")
    return {
        "image": {"image": image} if isinstance(image, str) else {},
        "serve": dict(keys.serve),
        "speculative": dict(keys.speculative),
        "env": dict(keys.env),
    }


def _parts(
    points: Sequence[tuple[Mapping[str, Any], Topology, dict[str, dict[str, Any]]]],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What all points have in common, and per group of points the rest."""
    base: dict[str, dict[str, Any]] = {}
    for section, first in points[0][2].items():
        base[section] = {
            name: value
            for name, value in first.items()
            if all(_equal(layers[section].get(name, _ABSENT), value) for *_, layers in points)
        }
    groups: dict[str, tuple[dict[str, Any], dict[str, list[int]]]] = {}
    for config, topology, layers in points:
        rest = {
            section: {
                name: value for name, value in layers[section].items() if name not in base[section]
            }
            for section in layers
        }
        rest = {section: keys for section, keys in rest.items() if keys}
        rest |= rest.pop("image", {})
        _, rows = groups.setdefault(json.dumps(rest, sort_keys=True), (rest, {}))
        rows.setdefault(_row_condition(config, topology), []).append(config["conc"])
    when = [
        {"if": f"{row} and conc in [{', '.join(map(str, sorted(set(concs))))}]", **rest}
        for rest, rows in groups.values()
        if rest
        for row, concs in rows.items()
    ]
    return base, when


def _equal(left: Any, right: Any) -> bool:
    return type(left) is type(right) and bool(left == right)


def _row_condition(config: Mapping[str, Any], row: Topology) -> str:
    """A condition that holds for the points of one row at one pair of lengths."""
    attention = "dp_attn" if row.dp_attn else "not dp_attn"
    lengths = f"isl == {config['isl']} and osl == {config['osl']}"
    return f"{lengths} and tp == {row.tp} and ep == {row.ep} and pp == {row.pp} and {attention}"


def _search_spaces(
    said: Sequence[tuple[Mapping[str, Any], ServerKeys, ForeignServer]],
) -> list[dict[str, Any]]:
    spaces = []
    for (isl, osl), own in grouped(said, lambda it: (it[0]["isl"], it[0]["osl"])).items():
        alike = grouped(own, lambda it: (it[1].topology, bool(it[1].speculative)))
        rows = [
            row_of(topology, drafted=drafted)
            | {"conc-list": list(dict.fromkeys(config["conc"] for config, *_ in members))}
            for (topology, drafted), members in alike.items()
        ]
        spaces.append({"isl": isl, "osl": osl, "search-space": rows})
    return spaces
