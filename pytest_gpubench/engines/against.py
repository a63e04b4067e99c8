"""The second engine of an A/B run: what ``--gpubench-against`` says, and what it makes of a
recipe's server. Pure."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pytest_gpubench.dialects.registry import DEFAULT, common_rules, dialect_of, every_dialect
from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.model.frozen import Frozen, FrozenMap, canonical_json, is_whole, thaw
from pytest_gpubench.model.secrets import is_secret, secret_inside, shown_value, without_shapes
from pytest_gpubench.model.specs import ServerSpec, Speculative
from pytest_gpubench.recipes.server_keys import check_flag

NEXT = dialect_of(DEFAULT).example
FORMS = (
    f"give another engine's command ({NEXT!r}), flags to change "
    "('--block-size 256 --no-async-scheduling'), environment (NAME=VALUE), or these in the order "
    "NAME=VALUE COMMAND --FLAGS"
)
_ENVIRONMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(?!=)(.*)", re.DOTALL)
_WHOLE = re.compile(r"-?\d{1,18}")
_DECIMAL = re.compile(r"-?\d{1,18}\.\d{1,18}")
_NAMES = "|".join(name for dialect in every_dialect() for name in dialect.distributions)
_VERSION = re.compile(rf"({_NAMES})?[=v]*\d+(\.\d+)+\S*")
_IMAGE = re.compile(r"[a-z0-9][\w.\-]*(:\d+)?(/[\w.\-]+)+([:@]\S+)?|[a-z0-9][\w.\-/]*[:@][\w.\-:]+")
_DRAFT = "speculative-config"


@dataclass(frozen=True, slots=True)
class Against:
    """How the second engine (arm b) differs from the first, as the option says it."""

    text: str
    """As written, without passwords."""
    command: tuple[str, ...] = ()
    """What starts it; empty: what starts the first one."""
    serve: FrozenMap = field(default_factory=FrozenMap)
    """Flags laid over those of the recipe, in the spelling of ``ServerSpec.serve``."""
    env: FrozenMap = field(default_factory=FrozenMap)
    """Environment laid over that of the recipe."""
    draft: Speculative | None = None
    """Replaces the recipe's draft."""
    without_draft: bool = False
    """Whether the recipe's draft is taken away (``--no-speculative-config``)."""
    checkout: Path | None = None
    """Where the second engine's processes are started, if its recipes are of another checkout: the
    counterpart of the folder in which pytest was started."""
    recipes: tuple[Path, ...] = ()
    """Files of that checkout, counterparts of those of the run."""

    def applied(self, spec: ServerSpec) -> ServerSpec:
        """The second engine's server for a server of the recipe."""
        return replace(
            spec,
            command=self.command or spec.command,
            serve=FrozenMap({**spec.serve, **self.serve}),
            env=FrozenMap({**spec.env, **self.env}),
            speculative=None if self.without_draft else self.draft or spec.speculative,
        )


def differences(
    first: ServerSpec, second: ServerSpec, command: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """What tells the second engine's server from the first's, one phrase each: ``--block-size 256
    instead of 128``.

    Args:
        command: what starts the first engine where its spec does not say.
    """
    return tuple(_differences(first, second, command))


def _differences(first: ServerSpec, second: ServerSpec, command: tuple[str, ...]) -> Iterator[str]:
    before = first.command or command
    if second.command and second.command != before:
        yield f"command {shlex.join(second.command)} instead of {shlex.join(before)}"
    for name in ("model", "revision", "image"):
        old, new = (getattr(spec, name) or "none" for spec in (first, second))
        if old != new:
            yield f"{name} {new} instead of {old}"
    yield from _changed("--", first.serve, second.serve)
    if first.extra_args != second.extra_args:
        old, new = (without_shapes(shlex.join(one.extra_args)) for one in (first, second))
        yield f"extra-args {new or 'none'} instead of {old or 'none'}"
    yield from _changed("", first.env, second.env)
    old_draft, draft = _draft_text(first), _draft_text(second)
    if old_draft != draft:
        yield f"--{_DRAFT} {draft} instead of {old_draft}"


def _draft_text(spec: ServerSpec) -> str:
    draft = spec.speculative
    return (
        "none"
        if draft is None
        else canonical_json(thaw(FrozenMap({**draft.config(), **draft.options})))
    )


def _changed(dashes: str, before: Mapping[str, Frozen], now: Mapping[str, Frozen]) -> Iterator[str]:
    for name, value in now.items():
        shown = shown_value(name, _shown(value))
        if name not in before:
            yield f"{dashes}{name} {shown} instead of not given"
        elif canonical_json(before[name]) != canonical_json(value):
            yield f"{dashes}{name} {shown} instead of {shown_value(name, _shown(before[name]))}"
    for name in before:
        if name not in now:
            shown = shown_value(name, _shown(before[name]))
            yield f"{dashes}{name} not given instead of {shown}"


def _shown(value: Frozen) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return value if isinstance(value, str) else canonical_json(value)


def parse_against(text: str, which: Callable[[str], str | None] = shutil.which) -> Against:
    """Read ``[NAME=VALUE ...] [COMMAND ...] [--FLAG [VALUE ...] ...]``.

    Args:
        text: as the option gives it; quotes as in a shell, nothing is expanded.
        which: finds an executable, as ``shutil.which``.

    Raises:
        GpubenchError: for anything that is none of these, with what to write instead.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise _wrong(text, f"cannot be split into words ({error}); check its quotes") from None
    if not words:
        raise _wrong(text, f"is empty; {FORMS}")
    start = next(
        (index for index, word in enumerate(words) if word.startswith("-") and word != "-m"),
        len(words),
    )
    env, command = _env_and_command(text, words[:start], which)
    if name := next(filter(None, map(secret_inside, words)), ""):
        raise _wrong(
            text,
            f"holds a value of {name}, and command lines are kept in records; set it in "
            "the recipe's env",
        )
    serve, draft, without = _flags(text, words[start:])
    return Against(without_shapes(text), command, FrozenMap(serve), FrozenMap(env), draft, without)


def _env_and_command(
    text: str, words: list[str], which: Callable[[str], str | None]
) -> tuple[dict[str, str], tuple[str, ...]]:
    env: dict[str, str] = {}
    while words and (variable := _ENVIRONMENT.fullmatch(words[0])):
        name, value = variable.groups()
        secret = (
            is_secret(name, value) and not _DECIMAL.fullmatch(value) and not _WHOLE.fullmatch(value)
        )
        if secret or name in common_rules().env:
            raise _wrong(
                text,
                f"sets {name}, which is not an engine's difference: keys are made for "
                "every launch and GPUs are leased",
            )
        if name in env:
            raise _wrong(text, f"sets {name} twice; leave one out")
        env[name] = value
        words = words[1:]
    if not words:
        return env, ()
    if which(words[0]) is None:
        raise _wrong(text, _no_command(words[0]))
    if len(words) == 1 and Path(words[0]).name.startswith("python"):
        raise _wrong(
            text, f"names an interpreter and no program: add the engine's module, as in {NEXT!r}"
        )
    return env, tuple(words)


def _no_command(word: str) -> str:
    if _VERSION.fullmatch(word):
        return (
            f"names a version, {word}: install it into an environment of its own and give the "
            f"command of its interpreter, such as {NEXT!r}"
        )
    if not word.startswith((".", "/", "~")) and _IMAGE.fullmatch(word):
        return (
            f"begins with {word}, which is no executable here and looks like an image. No "
            "container is started, the run must be in it already: run pytest inside the image, and "
            f"name the other engine by its command ({NEXT!r})"
        )
    return f"begins with {word}, which is no executable on PATH and no path of one; {FORMS}"


def _flags(text: str, words: list[str]) -> tuple[dict[str, Any], Speculative | None, bool]:
    serve: dict[str, Any] = {}
    draft: Speculative | None = None
    without = False
    for name, values in _grouped(text, words):
        off = name.startswith("no-")
        plain = name.removeprefix("no-")
        if plain in serve or (plain == _DRAFT and (draft or without)):
            raise _wrong(text, f"gives --{plain} twice; leave one out")
        if off and values:
            raise _wrong(
                text,
                f"gives --{name} the value {values[0]}; a flag that is switched off takes none",
            )
        if plain == _DRAFT:
            without = off
            if not off:
                draft = _draft(text, values)
            continue
        value = not off and _value(text, name, values)
        problem = check_flag(common_rules(), plain, thaw(value))
        if problem is not None:
            raise _wrong(text, f"gives --{name}: {problem}")
        serve[plain] = value
    return serve, draft, without


def _grouped(text: str, words: list[str]) -> Iterator[tuple[str, list[str]]]:
    groups: list[tuple[str, list[str]]] = []
    for word in words:
        if word.startswith("--") and len(word) > 2:
            name, equals, value = word[2:].partition("=")
            head, dot, rest = name.partition(".")
            groups.append((head.replace("_", "-") + dot + rest, [value] if equals else []))
        elif word.startswith("-") and not _WHOLE.fullmatch(word) and not _DECIMAL.fullmatch(word):
            raise _wrong(
                text, f"holds {word}; write flags in their long form, such as --block-size 256"
            )
        elif not groups:
            raise _wrong(text, f"holds {word} where a flag was expected; {FORMS}")
        else:
            groups[-1][1].append(word)
    yield from groups


def _value(text: str, name: str, values: list[str]) -> Frozen:
    parsed = tuple(_scalar_or_map(text, name, value) for value in values)
    if not parsed:
        return True
    return parsed[0] if len(parsed) == 1 else parsed


def _scalar_or_map(text: str, name: str, value: str) -> Frozen:
    if _WHOLE.fullmatch(value):
        return int(value)
    if _DECIMAL.fullmatch(value):
        return float(value)
    if value.startswith("{"):
        return FrozenMap(_json_map(text, name, value))
    return value


def _json_map(text: str, name: str, value: str) -> dict[str, Any]:
    try:
        parsed = json.loads(value, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise _wrong(
            text, f"gives --{name} {value}, which is not valid JSON; check its quotes"
        ) from None
    if not isinstance(parsed, dict):
        raise _wrong(text, f'gives --{name} {value}, which is not a map; write {{"key": value}}')
    return parsed


def _no_constant(name: str) -> float:
    raise ValueError(name)


def _draft(text: str, values: list[str]) -> Speculative:
    if len(values) != 1 or not values[0].startswith("{"):
        raise _wrong(
            text,
            f'gives --{_DRAFT} no JSON map; write --{_DRAFT} \'{{"method": ..., '
            '"num_speculative_tokens": ...}\'',
        )
    config = _json_map(text, _DRAFT, values[0])
    method, tokens = config.pop("method", None), config.pop("num_speculative_tokens", None)
    if not isinstance(method, str) or not is_whole(tokens) or tokens < 1:
        raise _wrong(
            text,
            f"gives --{_DRAFT} without 'method' (text) and 'num_speculative_tokens' (a "
            "whole number above 0)",
        )
    named = {key: config.pop(key, None) for key in ("model", "revision", "attention_backend")}
    if any(value is not None and not isinstance(value, str) for value in named.values()):
        raise _wrong(text, f"gives --{_DRAFT} a {', '.join(named)} that is not text")
    return Speculative(method, tokens, **named, options=FrozenMap(config))


def _wrong(text: str, what: str) -> GpubenchError:
    return GpubenchError(f"--gpubench-against {without_shapes(text)!r} {what}")
