"""One server of a source, and what a recipe's keys say of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from pytest_gpubench.dialects.command_line import flag
from pytest_gpubench.dialects.command_reading import (
    Option,
    comparable,
    meaning,
    read_options,
    settings_of,
)
from pytest_gpubench.dialects.dialect import Dialect
from pytest_gpubench.dialects.server_flags import (
    DRAFT,
    LAUNCH,
    MODEL,
    REVISION,
    SECRET,
    follows_from_row,
)
from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.model.frozen import FrozenMap, freeze, is_number
from pytest_gpubench.model.grouping import grouped
from pytest_gpubench.model.secrets import is_secret
from pytest_gpubench.model.specs import ServerSpec, Topology
from pytest_gpubench.recipes.search_space import Row
from pytest_gpubench.recipes.server_keys import SpeculativeKeys, check_env, check_flag
from pytest_gpubench.recipes.yaml_tree import MOST

_NEEDED = ("method", "num-speculative-tokens")


@dataclass(frozen=True, slots=True)
class ForeignServer:
    """What a source says of one server."""

    dialect: Dialect
    options: tuple[str, ...]
    """The words after the engine's start."""
    env: Mapping[str, Any] = field(default_factory=dict)
    """Variable to text, or to ``{from: NAME, default: TEXT}``."""
    lost: tuple[str, ...] = ()
    """What the source has beside the server and a recipe cannot say, each named first."""


@dataclass(frozen=True, slots=True)
class ServerKeys:
    """The same server as a recipe says it."""

    model: str
    topology: Topology
    serve: Mapping[str, Any]
    revision: str | None = None
    speculative: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, Any] = field(default_factory=dict)
    lost: tuple[str, ...] = ()


def server_keys(server: ForeignServer, hardware: str) -> ServerKeys:
    """A server's words as keys of a recipe.

    Args:
        hardware: where it runs: the default backend of a draft depends on it.

    Raises:
        GpubenchError: if no model or no row of a search space can be made of it.
    """
    rules = server.dialect.flags
    loose, options = read_options(server.options, rules)
    settings = settings_of(options)
    lost = list(server.lost)
    by_reason: dict[str, list[Option]] = {}
    kept: list[Option] = []
    for option in options:
        ours = rules.our_flag(option.name) if not option.name.startswith("-") else None
        if ours is None:
            kept.append(option)
        elif ours[1] in (MODEL, REVISION, DRAFT) or follows_from_row(ours[1]):
            by_reason.setdefault(ours[1], []).append(option)
        elif ours[1] not in LAUNCH:
            lost.append(f"--{ours[0]}: {ours[1]}")
    named = [text for option in by_reason.get(MODEL, []) for text in option.values]
    model, *others = [*named[-1:], *loose] or [""]
    if not model:
        raise GpubenchError(
            "the command names no model: write it right after the engine's start, or with its flag"
        )
    lost += [f"'{word}': a word that belongs to no flag" for word in others]
    serve, unsaid = _serve(kept, server.dialect)
    lost += unsaid
    draft, unsaid = _draft(settings, server.dialect)
    lost += unsaid
    if draft and "attention-backend" not in draft:
        default = server.dialect.default_draft_backend(draft["method"], hardware, serve)
        if default is not None:  # ours, where the source leaves the choice to the engine
            draft["attention-backend"] = "auto"
    env, unsaid = _env(server)
    lost += unsaid
    revisions = [text for option in by_reason.get(REVISION, []) for text in option.values]
    return ServerKeys(
        model=model,
        topology=topology_of(server.dialect, server.options),
        serve=serve,
        revision=revisions[-1] if revisions else None,
        speculative=draft,
        env=env,
        lost=tuple(dict.fromkeys(lost)),
    )


def row_of(topology: Topology, *, drafted: bool = False) -> dict[str, Any]:
    """A row of a search space, without concurrencies; defaults are left out."""
    sizes = {"pp": topology.pp, "pcp-size": topology.pcp, "dcp-size": topology.dcp}
    row: dict[str, Any] = {"tp": topology.tp}
    row |= {key: size for key, size in sizes.items() if size > 1}
    if topology.ep > 1 or topology.dp_attn:
        row["ep"] = topology.ep
    if topology.dp_attn:
        row["dp-attn"] = True
    if drafted:
        row["spec-decoding"] = "mtp"
    return row


def topology_of(dialect: Dialect, options: Sequence[str]) -> Topology:
    """The parallelism of a command line: the first topology that the engine's own rendering says
    with the same flags.

    Raises:
        GpubenchError: if there is none.
    """
    wanted = _row_settings(dialect, options)
    sizes = sorted({1, *(size for size in wanted.values() if type(size) is int)})
    for topology in _topologies(sizes):
        if dialect.row_error(topology) is None and _is_a_row(topology):
            spec = ServerSpec(dialect.name, "model", "", topology, FrozenMap())
            if _row_settings(dialect, tuple(dialect.words(spec, ("",), ""))[1:]) == wanted:
                return topology
    if all(value is True for value in wanted.values()):
        return Topology()  # switches that mean nothing on one GPU; whoever compares names them
    said = " ".join(f"--{name} {size}" for name, size in wanted.items())
    raise GpubenchError(
        f"no row of a search space says this parallelism: {said} (rows know tp, pp, ep and "
        "dp-attn, data-parallel over all ranks)"
    )


def _topologies(sizes: Sequence[int]) -> Iterator[Topology]:
    for pcp, dcp, pp, attention, tp, ep in itertools.product(
        sizes, sizes, sizes, (False, True), sizes, sizes
    ):
        if ep <= tp and (not attention or tp > 1):
            yield Topology(tp=tp, pp=pp, pcp=pcp, dcp=dcp, ep=ep, dp_attn=attention)


def _is_a_row(topology: Topology) -> bool:
    try:
        Row.model_validate(row_of(topology) | {"conc-list": [1]})
    except ValidationError:
        return False
    return True


def _row_settings(dialect: Dialect, options: Sequence[str]) -> dict[str, Any]:
    reasons = dialect.flags.ours
    return {
        name: value
        for name, value in comparable(dialect, options).items()
        if follows_from_row(reasons.get(name, ""))
    }


def _serve(options: Sequence[Option], dialect: Dialect) -> tuple[dict[str, Any], list[str]]:
    rules = dialect.flags
    serve: dict[str, Any] = {}
    extra: list[str] = []
    lost: list[str] = []
    for name, group in grouped(options, lambda option: option.name).items():
        different = {(option.values, option.negated) for option in group}
        if len(different) == 1 or name in rules.ranges or "." in name:
            group = group[-1:]  # the last one counts, as for the engine's parser
        words = [word for option in group for word in option.words]
        wrong = rules.words_error(words)
        single = len(group) == 1 and wrong is None
        value = _serve_value(group[0], dialect) if single else None
        if value is not None:
            serve[name] = value
            continue
        if wrong is None and all(map(_is_text, words)):
            extra += map(literal, words)
        else:
            flag_text = words[0].partition("=")[0]
            lost.append(f"{flag_text}: {wrong or 'holds characters that YAML has not'}")
    if rules.length not in serve:
        serve[rules.length] = None
    if extra:
        serve["extra-args"] = extra
    return serve, lost


def _serve_value(option: Option, dialect: Dialect) -> Any:
    """The value under ``serve`` that renders to this option again; None: there is none."""
    rules = dialect.flags
    if option.name == "extra-args" or option.name.startswith("-"):
        return None
    for value in _candidates(option):
        if check_flag(rules, option.name, value) is not None:
            continue
        plain = _unescaped(value)
        try:
            words = flag(option.name, freeze(plain), negation=rules.negation)
        except GpubenchError:
            continue
        if not all(map(_is_text, words)):
            continue
        _, again = read_options(words, rules)
        same = [one.value for one in again] == [option.value]
        if same and [type(one.value) for one in again] == [type(option.value)]:
            return value
    return None


def _candidates(option: Option) -> Iterator[Any]:
    if not option.values:
        yield not option.negated
        return
    if option.negated:
        return
    if len(option.values) > 1:
        yield [_scalar(word) for word in option.values]
        return
    word = option.values[0]
    value = option.value
    if isinstance(value, dict) and _held(value):
        yield escaped(value)
    if "." in option.name and word in ("true", "false"):
        yield word == "true"
    yield _scalar(word)
    if is_number(value) and _held(value):
        yield value  # spelled otherwise, and checked as a number
    yield literal(word)


def _scalar(word: str) -> Any:
    """A number where a recipe would print the same word, else text."""
    value = meaning(word)
    if is_number(value):
        return value if str(value) == word and _held(value) else literal(word)
    return literal(word)


def literal(text: str) -> str:
    """A text that stays what it is, where a recipe would read an expression."""
    return text.replace("${", "$${")


def escaped(value: Any) -> Any:
    """Plain data, its texts as `literal`."""
    if isinstance(value, dict):
        return {literal(key): escaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [escaped(item) for item in value]
    return literal(value) if isinstance(value, str) else value


def _unescaped(value: Any) -> Any:
    if isinstance(value, dict):
        return {key.replace("$${", "${"): _unescaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_unescaped(item) for item in value]
    return value.replace("$${", "${") if isinstance(value, str) else value


def _held(value: Any) -> bool:
    """Whether a recipe file holds a value of JSON as it is: null would take its key away."""
    if isinstance(value, dict):
        return all(map(_is_text, value)) and all(map(_held, value.values()))
    if isinstance(value, list):
        return all(map(_held, value))
    if isinstance(value, float):
        is_negative_zero = value == 0 and math.copysign(1, value) < 0
        return math.isfinite(value) and not is_negative_zero
    if isinstance(value, int):
        return abs(value) <= MOST
    return value is not None and _is_text(value)


def _is_text(word: str) -> bool:
    """Whether a recipe file can hold a word."""
    return not any(ord(character) == 0 or 0xD800 <= ord(character) <= 0xDFFF for character in word)


def _draft(settings: Mapping[str, Any], dialect: Dialect) -> tuple[dict[str, Any], list[str]]:
    try:
        keys = dialect.draft_keys(settings)
    except ValueError as error:
        return {}, [f"the draft: {error}"]
    if not keys:
        return {}, []
    missing = [name for name in _NEEDED if keys.get(name) is None]
    if missing:
        return {}, [f"the draft: it does not say its {missing[0]}, and a recipe always does"]
    lost = []
    known = {field.alias or name for name, field in SpeculativeKeys.model_fields.items()}
    for name in [name for name in keys if name not in known]:
        lost.append(f"the draft's {name}: a recipe's `speculative` has no such key")
        del keys[name]
    keys = {name: escaped(value) for name, value in keys.items() if value is not None}
    keys = _as_numbers(keys)
    try:
        SpeculativeKeys.model_validate(keys)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        return {}, [f"the draft: {'.'.join(map(str, detail['loc']))} {detail['msg']}"]
    return keys, lost


def _as_numbers(keys: dict[str, Any]) -> dict[str, Any]:
    """The keys, texts that are numbers as numbers where a recipe wants those: the engine reads
    both."""
    try:
        SpeculativeKeys.model_validate(keys)
    except ValidationError as error:
        wrong = {str(detail["loc"][0]) for detail in error.errors(include_url=False)}
        return {
            name: meaning(value) if name in wrong and isinstance(value, str) else value
            for name, value in keys.items()
        }
    return keys


def _env(server: ForeignServer) -> tuple[dict[str, Any], list[str]]:
    rules, kept, lost = server.dialect.flags, {}, []
    for name, value in server.env.items():
        wrong = check_env(rules, name, value)
        if name == server.dialect.key_variable or (
            isinstance(value, str) and is_secret(name, value)
        ):
            wrong = f"{SECRET}; set it where gpubench runs"
        if wrong is None and isinstance(value, str) and not _is_text(value):
            wrong = "holds characters that YAML has not"
        if wrong is not None:
            lost.append(f"env {name}: {wrong}")
        else:
            kept[name] = _scalar(value) if isinstance(value, str) else escaped(value)
    # A recipe's env takes whole numbers only beside text.
    return {
        name: str(value) if isinstance(value, float) else value for name, value in kept.items()
    }, lost
