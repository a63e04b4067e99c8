"""Recipes of one command line, and of an official entry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.model.frozen import mapping
from pytest_gpubench.recipes.importing.foreign_server import ForeignServer, ServerKeys, server_keys
from pytest_gpubench.recipes.importing.imported import (
    Imported,
    Origin,
    Wishes,
    body_of,
    labels,
    measured,
    precision_in,
    variant_words,
)
from pytest_gpubench.recipes.importing.official_entries import (
    DRAFT_FEATURE,
    ENGINE,
    Choice,
    Picks,
    choices,
    image_of,
    model_of,
    precision_word,
    required_version,
    server_of,
    unknown_nodes,
)
from pytest_gpubench.recipes.importing.official_nodes import Profile

_KINDS = {"single_node_tp": "tp", "single_node_tep": "tep", "single_node_dep": "dep"}


def recipe_of_server(server: ForeignServer, wishes: Wishes) -> Imported:
    """A recipe of one server.

    Raises:
        GpubenchError: if its GPU is not known, or no recipe can say it.
    """
    hardware = labels("", wishes).hardware
    keys = server_keys(server, hardware)
    names = labels(keys.model, wishes, precision=quantized(keys))
    lengths = measured(wishes, keys, server.dialect)
    return Imported(
        names.name(server.dialect.name, drafted=bool(keys.speculative)),
        body_of(keys, names, server.dialect, [keys.topology], [lengths]),
        (Origin(server),),
        keys.lost,
        names.notes,
    )


def quantized(keys: ServerKeys) -> str:
    """The precision that the server's flags say; empty: none."""
    return precision_in(str(keys.serve.get("quantization") or ""))


def recipes_of_entry(
    entry: Mapping[str, Any],
    profiles: Mapping[str, Profile],
    picks: Picks,
    wishes: Wishes,
    address: str = "",
) -> list[Imported]:
    """A recipe per variant and kind of GPU of an official entry; its strategies are rows, where
    they differ in nothing else.

    Args:
        address: of the entry, for `source`.

    Raises:
        GpubenchError: if the entry offers nothing that can be served here.
    """
    made: list[Imported] = []
    refused: list[str] = []
    groups: dict[tuple[str, str], list[tuple[Choice, ServerKeys, ForeignServer]]] = {}
    for choice in choices(entry, profiles, picks):
        server = server_of(entry, choice)
        place = groups.setdefault((choice.variant, choice.profile.id), [])
        try:
            place.append((choice, server_keys(server, choice.profile.key), server))
        except GpubenchError as error:
            words = f"{choice.variant}, {choice.strategy} on {choice.profile.id}: {error}"
            refused.append(words)
    for group in groups.values():
        alike: list[list[tuple[Choice, ServerKeys, ForeignServer]]] = []
        for member in group:
            same = next(
                (one for one in alike if _but_rows(one[0][1]) == _but_rows(member[1])), None
            )
            if same is None:
                alike.append([member])
            else:
                same.append(member)
        made += [
            _of_alike(entry, members, wishes, address, picks, apart=members is not alike[0])
            for members in alike
        ]
    if not made:
        raise GpubenchError(f"no recipe can say what the entry offers: {refused[0]}")
    if not picks.hardware:
        unknown = unknown_nodes(entry)
        refused += [f"hardware {name}: it is not in our table" for name in unknown]
    made[0] = replace(made[0], lost=(*made[0].lost, *refused))
    return _named_apart(made)


def _but_rows(keys: ServerKeys) -> tuple[Any, ...]:
    return (keys.model, keys.serve, keys.revision, keys.speculative, keys.env, keys.lost)


def _of_alike(
    entry: Mapping[str, Any],
    members: list[tuple[Choice, ServerKeys, ForeignServer]],
    wishes: Wishes,
    address: str,
    picks: Picks,
    *,
    apart: bool,
) -> Imported:
    choice, keys, server = members[0]
    word = precision_word(entry, choice.variant)
    names = labels(
        model_of(entry, "default"),
        replace(wishes, runner=choice.profile.key),
        precision=precision_in(word) or quantized(keys),
    )
    variant = [] if choice.variant in ("default", word) else [choice.variant]
    if choice.profile.id != choice.profile.key:
        variant.append(choice.profile.id.removeprefix(choice.profile.key))
    if apart:
        variant.append(_KINDS[choice.strategy])
    names = replace(names, variant=variant_words(*variant))
    image, odd = image_of(entry, choice)
    version = required_version(entry, choice.variant)
    body = body_of(
        keys,
        names,
        server.dialect,
        list(dict.fromkeys(one.topology for _, one, _ in members)),
        [measured(wishes, keys, server.dialect)],
        image=image,
        source=_source(entry, choice, picks, address),
        requires={ENGINE: version} if version else None,
    )
    return Imported(
        names.name(ENGINE, drafted=bool(keys.speculative)),
        body,
        tuple(Origin(of, topology=one.topology) for _, one, of in members),
        (*keys.lost, *([odd] if odd else [])),
        names.notes,
    )


def _source(entry: Mapping[str, Any], choice: Choice, picks: Picks, address: str) -> Any:
    """The entry as a recipe's `source`: what would be meant without a word is not said."""
    if not address:
        return None
    said: dict[str, Any] = {"at": address}
    model = model_of(entry, choice.variant)
    alike = [name for name in mapping(entry.get("variants")) if model_of(entry, name) == model]
    if alike[0] != choice.variant:
        said["variant"] = choice.variant
    if choice.profile.id != choice.profile.key:
        said["hardware"] = choice.profile.id
    features = [name for name in picks.features if name != DRAFT_FEATURE]
    if features:
        said["features"] = features
    return said if len(said) > 1 else address


def _named_apart(recipes: list[Imported]) -> list[Imported]:
    """The recipes, a number behind names that would occur twice."""
    taken: dict[str, int] = {}
    made = []
    for recipe in recipes:
        count = taken[recipe.name] = taken.get(recipe.name, 0) + 1
        made.append(recipe if count == 1 else replace(recipe, name=f"{recipe.name}-{count}"))
    return made
