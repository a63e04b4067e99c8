"""What a recipe may set of a server: its flags, their ranges, its environment and its command."""

from __future__ import annotations

import re
import shlex
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from pytest_gpubench.dialects.registry import common_rules
from pytest_gpubench.dialects.server_flags import FlagRules, secret_error
from pytest_gpubench.model.frozen import canonical_json, spelled
from pytest_gpubench.recipes.fields import TEXTS_SCHEMA, Number, fail, texts
from pytest_gpubench.recipes.problems import shown

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FLAG = re.compile(r"[A-Za-z][A-Za-z0-9-]*(\.[A-Za-z0-9_.-]+)?")


def check_flag(rules: FlagRules, name: str, value: Any) -> str | None:
    """What is wrong with one server flag of ``serve``, None if nothing; ``value`` may hold
    expressions."""
    if value is None:
        return None  # the flag is left to the engine
    if ours := rules.our_flag(name):
        return f"this flag is not a recipe's to set: {ours[1]}"
    if name.startswith("-"):
        return f"flags are written without dashes; write '{name.lstrip('-')}'"
    if name.startswith("no-") and rules.negation:
        return f"write '{name[3:]}: false' for --{name}"
    head, dot, inner = name.partition(".")
    if head in rules.instead:
        written = f"{rules.instead[head][bool(dot)]}{dot}{inner}"
        return f"the engine has no --{head}; write '{written}'"
    if "_" in head:  # what follows the dot is the spelling of a key
        return f"flags are written with dashes; write '{head.replace('_', '-')}{dot}{inner}'"
    if not _FLAG.fullmatch(name):
        return "this is not the name of a flag"
    if value is False and not rules.negation:
        return (
            "this engine has no word for false: leave it out, or write the flag that turns it off"
        )
    if isinstance(value, list) and any(
        isinstance(item, dict | list) or item is None for item in value
    ):
        return "a list holds words and numbers only (--flag a b)"
    if isinstance(value, list) and (wrong := rules.words_error([str(item) for item in value])):
        return wrong
    if isinstance(value, dict | str) and (wrong := secret_error(f"{name}={canonical_json(value)}")):
        return wrong
    return _range_error(rules, name, value)


def _range_error(rules: FlagRules, name: str, value: Any) -> str | None:
    if name not in rules.ranges:
        return None
    try:
        Number(*rules.ranges[name]).check(value)
    except PydanticCustomError as error:
        return error.message()
    return None


def check_env(rules: FlagRules, name: str, value: Any) -> str | None:
    """What is wrong with one environment variable, None if nothing."""
    if not _ENV_NAME.fullmatch(name):
        return "this is not the name of an environment variable"
    if name in rules.env:
        return f"this variable is not a recipe's to set: {rules.env[name]}"
    if isinstance(value, dict):
        unknown = set(value) - {"from", "default", "optional"}
        if (
            unknown
            or not isinstance(value.get("from"), str)
            or not _ENV_NAME.fullmatch(value["from"])
        ):
            return (
                "a map must be {from: NAME, default: TEXT} or {from: NAME, optional: true}, NAME "
                "being a variable of the host"
            )
        optional, value = value.get("optional", False), value.get("default")
        if not isinstance(optional, bool):
            return f"optional must be true or false, not {shown(optional)}"
        if optional and value is not None:
            return "default and optional exclude each other; keep one"
        if value is None:
            return None
    if (
        value is None
        or (isinstance(value, str) and "\0" not in value)
        or (isinstance(value, int) and not isinstance(value, bool))
    ):
        return None
    return f"must be text or an integer, not {shown(value)}; quote it: '{spelled(value)}'"


def _command(value: Any) -> Any:
    texts(value)
    words = value
    if isinstance(value, str):
        try:
            words = shlex.split(value)
        except ValueError as error:
            raise fail(f"is not a command line: {str(error).lower()}") from None
    wrong = common_rules().words_error(words, short=False)
    if wrong:
        raise fail(wrong)
    return value


Command: TypeAlias = Annotated[Any, BeforeValidator(_command), TEXTS_SCHEMA]
"""A command line, or its words."""
