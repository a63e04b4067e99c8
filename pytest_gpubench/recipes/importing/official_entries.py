"""Entries of vllm-project/recipes (recipes.vllm.ai): what their builder makes of model, variant,
strategy, hardware and features, for one server on one node.

Read from its CONTRIBUTING.md and src/lib/command-synthesis.js (8959cf6); experiments/importing
compares with what that program itself prints.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from packaging.version import InvalidVersion, Version

from pytest_gpubench.dialects.registry import dialect_of
from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.model.frozen import mapping, spelled
from pytest_gpubench.model.specs import Topology
from pytest_gpubench.recipes.importing.foreign_server import ForeignServer
from pytest_gpubench.recipes.importing.official_nodes import Profile, as_number, own_profile

ENGINE = "vllm"
ORIGIN = "https://raw.githubusercontent.com/vllm-project/recipes/main"
"""Where the files of that project are published."""
STRATEGIES: dict[str, tuple[tuple[str, ...], str]] = {
    "single_node_tp": ((), "--tensor-parallel-size"),
    "single_node_tep": (("--enable-expert-parallel",), "--tensor-parallel-size"),
    "single_node_dep": (("--enable-expert-parallel",), "--data-parallel-size"),
}
"""Strategies of one node: their flags, and the flag that takes the number of GPUs."""
DRAFT_FEATURE = "spec_decoding"
"""What they call every draft."""
_ONE_GPU = "single_node_tp"
"""The strategy that may use fewer GPUs than the node has."""
_BLACKWELL_ONLY = {"nvfp4", "fp4"}
_ADDRESS = re.compile(
    r"https://recipes\.vllm\.ai/(\w[\w.-]*)/(\w[\w.-]*?)(?:\?[^#]*)?/?"
    r"|https://github\.com/vllm-project/recipes/blob/[\w.-]+/models/(\w[\w.-]*)/(\w[\w.-]*)\.yaml"
)
_DOCKER = re.compile(r"\s")


@dataclass(frozen=True, slots=True)
class Choice:
    """What a user of the builder picks."""

    variant: str
    profile: Profile
    strategy: str
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Picks:
    """What a user wants of an entry; empty: all that it offers."""

    variant: str = ""
    strategy: str = ""
    hardware: str = ""
    """That project's name of a node, or a key of our table."""
    features: tuple[str, ...] = field(default=())
    """On beside those that are on unless somebody turns them off."""


def entry_path(address: str) -> str:
    """Where the entry of an address lies in that project; empty: it is the address of none."""
    found = _ADDRESS.fullmatch(address)
    if found is None:
        return ""
    organisation, name = found[1] or found[3], found[2] or found[4]
    return f"models/{organisation}/{name}.yaml"


def address_of(organisation: str, name: str) -> str:
    """Of the entry in ``models/ORGANISATION/NAME.yaml``; empty: such names have no address."""
    address = f"https://recipes.vllm.ai/{organisation}/{name}"
    return address if entry_path(address) else ""


def is_entry(document: Any) -> bool:
    """Whether a parsed YAML file is such an entry."""
    return isinstance(document, dict) and {"model", "variants"} <= document.keys()


def choices(
    entry: Mapping[str, Any], profiles: Mapping[str, Profile], picks: Picks
) -> list[Choice]:
    """What the entry offers for one node of the hardware that it is marked verified on.

    Raises:
        GpubenchError: if it has no server of one node, or not what was picked.
    """
    if mapping(entry.get("omni")) or "omni" in _list(mapping(entry.get("meta")).get("tasks")):
        raise GpubenchError("the entry is one of vLLM-Omni, whose servers no case can measure")
    nodes = _nodes(entry, profiles, picks.hardware)
    variants = mapping(entry.get("variants"))
    if picks.variant and picks.variant not in variants:
        raise GpubenchError(f"no variant '{picks.variant}'; the entry has {_names(variants)}")
    offered = _offered(entry)
    strategies = [name for name in STRATEGIES if name in offered]
    if not strategies:
        raise GpubenchError("the entry has no strategy for one node")
    if picks.strategy and picks.strategy not in strategies:
        raise GpubenchError(f"no strategy '{picks.strategy}'; the entry has {_names(strategies)}")
    _refuse_unknown_features(entry, picks)
    found = [
        Choice(variant, node, strategy, _features(entry, node, variant, picks.features))
        for variant, node, strategy in product(variants, nodes, strategies)
        if picks.variant in ("", variant)
        and picks.strategy in ("", strategy)
        and _runs(mapping(variants[variant]), node)
        and (strategy == _ONE_GPU or node.gpus > 1)
        and _gate(entry, strategy, node)
    ]
    if not found:
        raise GpubenchError(
            f"nothing of the entry runs on one node of {_names(node.id for node in nodes)}: its "
            "variants need other GPUs or more memory"
        )
    return found


def choice_like(
    entry: Mapping[str, Any],
    profiles: Mapping[str, Profile],
    picks: Picks,
    model: str,
    topology: Topology,
    *,
    drafted: bool,
) -> Choice:
    """What a user of the builder would pick for a server of ours.

    Args:
        picks: what is said beside it; ``hardware`` always.
        model: the repository that is served.
        drafted: whether a draft is used.

    Raises:
        GpubenchError: if the entry has nothing like it.
    """
    variants = mapping(entry.get("variants"))
    same = [name for name in variants if model_of(entry, name) == model]
    variant = picks.variant or next(iter(same), "")
    if not variant:
        served = _names(dict.fromkeys(model_of(entry, name) for name in variants))
        raise GpubenchError(
            f"no variant of the entry serves {model} (they serve {served}): say which is meant, "
            "`source: {at: ..., variant: ...}`"
        )
    if variant not in variants:
        raise GpubenchError(f"no variant '{variant}'; the entry has {_names(variants)}")
    kind = "tep" if topology.ep > 1 else "tp"
    if topology.dp_attn:
        kind = "dep"
    strategy = picks.strategy or f"single_node_{kind}"
    if strategy not in STRATEGIES:
        raise GpubenchError(
            f"no strategy '{strategy}' for one node; there are {_names(STRATEGIES)}"
        )
    profile = profiles.get(picks.hardware) or own_profile(picks.hardware)
    _refuse_unknown_features(entry, picks)
    more = [*picks.features, *([DRAFT_FEATURE] if drafted else [])]
    features = _features(entry, profile, variant, more)
    if not drafted:
        features = tuple(name for name in features if name != DRAFT_FEATURE)
    return Choice(variant, profile, strategy, features)


def _refuse_unknown_features(entry: Mapping[str, Any], picks: Picks) -> None:
    known = mapping(entry.get("features"))
    for name in picks.features:
        if name not in known:
            raise GpubenchError(f"no feature '{name}'; the entry has {_names(known)}")


def _variant(entry: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return mapping(mapping(entry.get("variants")).get(name))


def model_of(entry: Mapping[str, Any], variant: str) -> str:
    """The repository that a variant serves."""
    model = _variant(entry, variant).get("model_id") or mapping(entry.get("model")).get("model_id")
    return str(model or "")


def precision_word(entry: Mapping[str, Any], variant: str) -> str:
    """That project's word for a variant's precision."""
    return str(_variant(entry, variant).get("precision") or "").lower()


def server_of(entry: Mapping[str, Any], choice: Choice) -> ForeignServer:
    """The server that the builder prints for a choice."""
    model, node = mapping(entry.get("model")), choice.profile
    variant = _variant(entry, choice.variant)
    exact = mapping(mapping(variant.get("hardware_overrides")).get(node.id))
    strategy = mapping(mapping(entry.get("strategy_overrides")).get(choice.strategy))
    flags, parallel = STRATEGIES[choice.strategy]
    words = [*_list(model.get("base_args")), *_list(variant.get("extra_args"))]
    words += _list(exact.get("extra_args"))
    words += [*flags, parallel, str(_gpus(variant, strategy, choice))]
    words += [*_list(strategy.get("extra_args")), *_list(strategy.get("vllm_args"))]
    layers = [mapping(layer) for layer in _hardware_layers(entry, variant, strategy, node)]
    for layer in layers:
        words += _list(layer.get("extra_args"))
    lost: list[str] = []
    for name in choice.features:
        feature = mapping(mapping(entry.get("features")).get(name))
        allowed = _list(feature.get("strategies"))
        if allowed and choice.strategy not in allowed:
            continue
        words += _feature_words(feature, name, variant, choice)
        if feature.get("companion"):
            lost.append(f"features.{name}: needs a process of its own beside the server")
    env: dict[str, Any] = {}
    sources = (model.get("base_env"), variant.get("extra_env"), exact.get("extra_env"))
    for source in (*sources, strategy.get("env"), strategy.get("extra_env")):
        env |= mapping(source)
    for layer in layers:
        env |= mapping(layer.get("extra_env"))
    return ForeignServer(
        dialect_of(ENGINE),
        (model_of(entry, choice.variant), *_last_of_each([word for word in words if word])),
        {name: spelled(value) for name, value in env.items()},
        (*lost, *_beside(entry)),
    )


def image_of(entry: Mapping[str, Any], choice: Choice) -> tuple[str, str]:
    """The image that the entry pins (empty: none), and what is wrong with it (empty: nothing)."""
    variant = _variant(entry, choice.variant)
    brand = {"NVIDIA": "nvidia", "AMD": "amd", "Intel": "intel"}.get(choice.profile.brand, "")
    exact = mapping(mapping(variant.get("hardware_overrides")).get(choice.profile.id))
    image = exact.get("docker_image")
    for source in (variant.get("docker_image"), mapping(entry.get("model")).get("docker_image")):
        if image:
            break
        if isinstance(source, str) and brand == "nvidia":
            image = source
        elif isinstance(source, dict):
            image = source.get(brand) or (source if brand == "nvidia" else None)
            if isinstance(image, dict):
                image = image.get("cu130") or image.get("cu129")
    text = str(image or "")
    if _DOCKER.search(text):
        return "", f"docker_image: '{text}' is no image"
    return text, ""


def required_version(entry: Mapping[str, Any], variant: str) -> str:
    """The specifier of vLLM's version; empty: none."""
    name, model = "min_vllm_version", mapping(entry.get("model"))
    try:
        return f">={Version(str(_variant(entry, variant).get(name) or model.get(name)))}"
    except InvalidVersion:
        return ""


def unknown_nodes(entry: Mapping[str, Any]) -> list[str]:
    """Hardware that the entry is marked verified on and that our table has not."""
    return [name for name in _marked(entry) if not own_profile(name).key]


def _marked(entry: Mapping[str, Any]) -> list[str]:
    words = mapping(mapping(entry.get("meta")).get("hardware"))
    return sorted(name for name, word in words.items() if word == "verified")


def _nodes(entry: Mapping[str, Any], profiles: Mapping[str, Profile], wanted: str) -> list[Profile]:
    marked = _marked(entry)
    if not wanted:
        known = [profiles.get(name) or own_profile(name) for name in marked]
        nodes = [node for node in known if node.key]
        if not nodes:
            raise GpubenchError(
                "the entry is marked verified on no hardware of our table"
                + (f" (but on {_names(marked)})" if marked else "")
                + "; name one: --runner h200, for instance"
            )
        return nodes
    exact = profiles.get(wanted) or own_profile(wanted)
    if not exact.key:
        raise GpubenchError(f"the hardware '{wanted}' is not in our table")
    return [exact]


def _offered(entry: Mapping[str, Any]) -> list[str]:
    """Strategies that the entry lists, or grants on some hardware."""
    listed = _list(entry.get("compatible_strategies"))
    gates = mapping(entry.get("strategy_hardware"))
    granted = [name for name, gate in gates.items() if "supported" in mapping(gate).values()]
    return [*listed, *(name for name in granted if name not in listed)]


def _gate(entry: Mapping[str, Any], strategy: str, node: Profile) -> bool:
    gate = _keyed(mapping(entry.get("strategy_hardware")).get(strategy), node)
    if gate is not None:
        return bool(gate != "unsupported")
    if strategy not in _list(entry.get("compatible_strategies")):
        return False
    least = entry.get("strategy_min_gpus")
    if isinstance(least, dict):
        bars = [least.get(strategy), least.get(strategy.removeprefix("single_node_"))]
        for_node = least.get(node.id)
        bars += [for_node] if not isinstance(for_node, dict) else [for_node.get(strategy)]
        return all(as_number(bar) <= node.gpus for bar in bars)
    return as_number(least) <= node.gpus


def _runs(variant: Mapping[str, Any], node: Profile) -> bool:
    supported = _list(variant.get("supported_hardware"))
    if supported and node.id not in supported:
        return False
    constraint = variant.get("precision_hardware")
    if constraint is None and variant.get("precision") in _BLACKWELL_ONLY:
        constraint = {"brand": "NVIDIA", "generation": "blackwell"}
    wanted = mapping(constraint)
    fits = wanted.get("brand") in (None, node.brand)
    fits = fits and wanted.get("generation") in (None, node.generation)
    least = as_number(variant.get("vram_minimum_gb"))
    return fits and (not node.gigabytes or least <= node.gigabytes)


def _features(
    entry: Mapping[str, Any], node: Profile, variant: str, more: Iterable[str]
) -> tuple[str, ...]:
    off = {
        *_list(entry.get("opt_in_features")),
        *_list(mapping(entry.get("hardware_opt_in_features")).get(node.id)),
    }
    forced = mapping(_variant(entry, variant).get("default_modes"))
    wanted = {*more}
    return tuple(
        name
        for name in mapping(entry.get("features"))
        if name in wanted or name in forced or name not in off
    )


def _gpus(variant: Mapping[str, Any], strategy: Mapping[str, Any], choice: Choice) -> int:
    """GPUs of the server: all of the node, but for plain tensor parallelism what the entry says, or
    one if that holds the weights."""
    node = choice.profile
    if choice.strategy != _ONE_GPU:
        return node.gpus
    for declared in (variant.get("tp"), strategy.get("tp")):
        size = int(as_number(_keyed(declared, node) if isinstance(declared, dict) else declared))
        if size > 0:
            return size if node.generation == "cpu" else min(size, node.gpus)
    least = as_number(variant.get("vram_minimum_gb"))
    if not least or not node.gigabytes:
        return node.gpus
    return 1 if least <= node.gigabytes / node.gpus else node.gpus


def _hardware_layers(
    entry: Mapping[str, Any], variant: Mapping[str, Any], strategy: Mapping[str, Any], node: Profile
) -> Iterator[Any]:
    """Overrides for the hardware, in order: a strategy's take the place of the entry's and the
    variant's."""

    layer = _of_generation(strategy, node)
    if layer is not None:
        yield layer
    else:
        yield from (_of_generation(entry, node), _of_generation(variant, node))
    yield mapping(strategy.get("hardware_overrides")).get(node.id)


def _of_generation(source: Mapping[str, Any], node: Profile) -> Any:
    overrides = mapping(source.get("hardware_overrides"))
    found = overrides.get(node.generation)
    return overrides.get("nvidia") if found is None and node.brand == "NVIDIA" else found


def _feature_words(
    feature: Mapping[str, Any], name: str, variant: Mapping[str, Any], choice: Choice
) -> list[str]:
    node, modes = choice.profile, mapping(feature.get("modes"))
    if not modes:
        words = mapping(_of_generation(feature, node)).get("args")
        return _list(feature.get("args") if words is None else words)
    allowed = [key for key, mode in modes.items() if _mode_fits(mapping(mode), choice)]
    wishes = (mapping(variant.get("default_modes")).get(name), feature.get("default_mode"))
    key = next((wish for wish in (*wishes, *allowed) if wish in allowed), None)
    if key is None:
        return []
    mode = mapping(modes[key])
    words = mapping(_keyed(mode.get("hardware_overrides"), node)).get("args")
    return _list(mode.get("args") if words is None else words)


def _mode_fits(mode: Mapping[str, Any], choice: Choice) -> bool:
    variants, hardware = _list(mode.get("variants")), mapping(mode.get("hardware"))
    node = choice.profile
    barred = "unsupported" in (hardware.get(node.generation), hardware.get(node.id))
    return not barred and (not variants or choice.variant in variants)


def _beside(entry: Mapping[str, Any]) -> Iterator[str]:
    """What the entry asks for beside the server."""
    for step in entry.get("dependencies") or ():
        said = mapping(step)
        note = " ".join(str(said.get("note") or said.get("command") or "").split())
        yield f"dependencies: {note}"
    for way, install in mapping(mapping(entry.get("model")).get("install")).items():
        if mapping(install).get("command"):
            yield f"install.{way}: the environment is made by a command of its own"


def _keyed(values: Any, node: Profile) -> Any:
    """The value for a node: by its name, its generation, its maker, or the default."""
    values = mapping(values)
    names = (node.id, node.generation, node.brand.lower(), "default")
    return next((values[name] for name in names if values.get(name) is not None), None)


def _last_of_each(words: list[str]) -> list[str]:
    """Flags by their last occurrence, as the builder leaves them."""
    units: list[tuple[str, ...]] = []
    index = 0
    while index < len(words):
        following = [*words[index + 1 : index + 2], "-"][0]
        pair = words[index].startswith("-") and not following.startswith("-")
        units.append(tuple(words[index : index + 1 + pair]))
        index += 1 + pair
    last = {unit[0]: place for place, unit in enumerate(units)}
    return [
        word
        for place, unit in enumerate(units)
        if not unit[0].startswith("-") or last[unit[0]] == place
        for word in unit
    ]


def _list(value: Any) -> list[str]:
    return [spelled(item) for item in value] if isinstance(value, list) else []


def _names(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
