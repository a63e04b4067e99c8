"""Field types of the recipe schema: numbers that may also be expressions, free-form maps, versions.

Each checks one value and says what is wrong in the words of the file; the JSON Schema for editors rides along.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable
from typing import Annotated, Any, TypeAlias

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from pytest_gpubench.model.metrics import ACCEPTANCE, METRICS
from pytest_gpubench.recipes.flags import our_flag, words_error
from pytest_gpubench.recipes.problems import did_you_mean, shown
from pytest_gpubench.recipes.templating import is_computed

MAX_TOKENS = 10_000_000
MAX_CONCURRENCY = 1_000_000
_TOKEN = re.compile(r"[a-z0-9.]+")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FLAG = re.compile(r"[A-Za-z][A-Za-z0-9-]*(\.[A-Za-z0-9_.-]+)?")

_OUR_ENV = {"VLLM_API_KEY": "the plugin makes one per server", "CUDA_VISIBLE_DEVICES": "the plugin leases the GPUs"}


def fail(message: str) -> PydanticCustomError:
    """A validation error whose text is ours; braces in it are literal."""
    return PydanticCustomError("recipe", "{words}", {"words": message})


def _number(whole: bool, least: float, most: float) -> Callable[[Any], Any]:
    kind = "an integer" if whole else "a number"
    bounds = f"from {least} to {most}" if math.isfinite(most) else f"of at least {least}"

    def check(value: Any) -> Any:
        if is_computed(value):
            return value
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            raise fail(f"must be {kind} or a ${{...}} expression, not {shown(value)}")
        if not least <= value <= most:
            raise fail(f"must be {kind} {bounds}, not {shown(value)}")
        return value

    return check


def _computed_schema(kind: str, least: float) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [{"type": kind, "minimum": least}, {"type": "string", "pattern": r"\$\{"}]})


PositiveCount: TypeAlias = Annotated[Any, BeforeValidator(_number(True, 1, 10_000)), _computed_schema("integer", 1)]
Count: TypeAlias = Annotated[Any, BeforeValidator(_number(True, 0, 10_000)), _computed_schema("integer", 0)]
PositiveTokens: TypeAlias = Annotated[Any, BeforeValidator(_number(True, 1, MAX_TOKENS)), _computed_schema("integer", 1)]
NonNegative: TypeAlias = Annotated[Any, BeforeValidator(_number(False, 0, 1_000_000)), _computed_schema("number", 0)]
Seed: TypeAlias = Annotated[Any, BeforeValidator(_number(True, 0, 2**31 - 1)), _computed_schema("integer", 0)]
Temperature: TypeAlias = Annotated[Any, BeforeValidator(_number(False, 0, 2)), _computed_schema("number", 0)]
Rate: TypeAlias = Annotated[Any, BeforeValidator(_number(False, 0.001, 1_000_000)), _computed_schema("number", 0.001)]
Seconds: TypeAlias = Annotated[Any, BeforeValidator(_number(False, 0.001, 1_000_000)), _computed_schema("number", 0.001)]
Factor: TypeAlias = Annotated[Any, BeforeValidator(_number(False, 0.001, 1000)), _computed_schema("number", 0.001)]
HalfWidth: TypeAlias = Annotated[Any, BeforeValidator(_number(False, 0.0001, 0.9999)), _computed_schema("number", 0.0001)]
TokenCount: TypeAlias = Annotated[Any, BeforeValidator(_number(True, 0, MAX_TOKENS)), _computed_schema("integer", 0)]
Workers: TypeAlias = Annotated[Any, BeforeValidator(_number(True, 1, 256)), _computed_schema("integer", 1)]
Ratio: TypeAlias = Annotated[Any, BeforeValidator(_number(False, 0.01, 1)), _computed_schema("number", 0.01)]
Tokens: TypeAlias = Annotated[int, Field(ge=1, le=MAX_TOKENS)]
Concurrency: TypeAlias = Annotated[int, Field(ge=1, le=MAX_CONCURRENCY)]
Ranks: TypeAlias = Annotated[int, Field(ge=1, le=1024)]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise fail(f"must be text, not {shown(value)}; quote it")
    if not value.strip() or len(value) > 500:
        raise fail("must be text of 1 to 500 characters")
    return value


Text: TypeAlias = Annotated[str, BeforeValidator(_text)]


def _token(value: Any) -> str:
    if not _TOKEN.fullmatch(_text(value)):
        raise fail(f"must be one word of lower-case letters, digits and dots (it becomes part of test ids), not {shown(value)}")
    return str(value)


def is_token(word: str) -> bool:
    """Whether a word can be a part of an id and a mark."""
    return bool(_TOKEN.fullmatch(word))


Token: TypeAlias = Annotated[str, BeforeValidator(_token), WithJsonSchema({"type": "string", "pattern": f"^{_TOKEN.pattern}$"})]


def check_flag(name: str, value: Any) -> str | None:
    """What is wrong with one server flag of ``serve``, None if nothing; ``value`` may hold expressions."""
    if ours := our_flag(name):
        return f"this flag is not a recipe's to set: {ours[1]}"
    if name.startswith("-"):
        return f"flags are written without dashes; write '{name.lstrip('-')}'"
    if name.startswith("no-"):
        return f"write '{name[3:]}: false' for --{name}"
    if "_" in name.split(".")[0]:
        return f"flags are written with dashes; write '{name.replace('_', '-')}'"
    if not _FLAG.fullmatch(name):
        return "this is not the name of a flag"
    if isinstance(value, list) and any(isinstance(item, dict | list) or item is None for item in value):
        return "a list holds words and numbers only (--flag a b)"
    if isinstance(value, list) and (wrong := words_error([str(item) for item in value])):
        return wrong
    return _range_error(name, value)


_RANGES: dict[str, tuple[bool, float, float]] = {
    "gpu-memory-utilization": (False, 0.01, 1),
    "max-model-len": (True, 1, MAX_TOKENS),
    "max-num-batched-tokens": (True, 1, MAX_TOKENS),
    "max-num-seqs": (True, 1, MAX_CONCURRENCY),
    "max-cudagraph-capture-size": (True, 0, 65_536),
    "block-size": (True, 1, 65_536),
    "stream-interval": (True, 1, 100_000),
    "swap-space": (False, 0, 100_000),
    "cpu-offload-gb": (False, 0, 100_000),
}


def _range_error(name: str, value: Any) -> str | None:
    if name not in _RANGES:
        return None
    try:
        _number(*_RANGES[name])(value)
    except PydanticCustomError as error:
        return error.message()
    return None


def check_env(name: str, value: Any) -> str | None:
    """What is wrong with one environment variable, None if nothing."""
    if not _ENV_NAME.fullmatch(name):
        return "this is not the name of an environment variable"
    if name in _OUR_ENV:
        return f"this variable is not a recipe's to set: {_OUR_ENV[name]}"
    if isinstance(value, dict):
        unknown = set(value) - {"from", "default"}
        if unknown or not isinstance(value.get("from"), str) or not _ENV_NAME.fullmatch(value["from"]):
            return "a map must be {from: NAME, default: TEXT}, NAME being a variable of the host"
        value = value.get("default")
        if value is None:
            return None
    if value is None or (isinstance(value, str) and "\0" not in value) or (isinstance(value, int) and not isinstance(value, bool)):
        return None
    return f"must be text or an integer, not {shown(value)}; quote it: '{str(value).lower() if isinstance(value, bool) else value}'"


def check_gate(metric: str, value: Any) -> str | None:
    """What is wrong with one gate, None if nothing: a percentage, false (no gate), or a map of bounds."""
    if metric not in METRICS:
        return f"no metric is named {shown(metric)}{did_you_mean(metric, METRICS)}"
    if value is False:
        return None
    known = ["tolerance", "absolute", "at-least", "at-most"]
    if metric == ACCEPTANCE:
        known.append("golden")
    for key, part in (value if isinstance(value, dict) else {"tolerance": value}).items():
        if key not in known:
            return f"unknown key '{key}'{did_you_mean(str(key), known)} (known: {', '.join(known)})"
        if key == "tolerance":
            percent = re.fullmatch(r"(\d{1,3}(?:\.\d{1,6})?)%", part) if isinstance(part, str) else None
            if not percent or not 0 < float(percent[1]) < 100:
                return f"a tolerance is a percentage above 0% and below 100%, such as 5%, not {shown(part)}"
        elif key == "golden" and isinstance(part, bool):
            continue
        elif key == "golden" and (not isinstance(part, int | float) or not 1 <= part <= 1000):
            return f"'golden' is true or an acceptance length of at least 1, not {shown(part)}"
        elif isinstance(part, bool) or not isinstance(part, int | float) or part < 0:
            return f"'{key}' must be a number of at least 0, not {shown(part)}"
    return None


def metric_name(value: Any) -> str:
    """A metric of the metric table."""
    if _text(value) not in METRICS:
        raise fail(f"no metric is named {shown(value)}{did_you_mean(str(value), METRICS)}")
    return str(value)


def _specifier(value: Any) -> str:
    try:
        SpecifierSet(_text(value))
    except InvalidSpecifier:
        raise fail(f"must be a version specifier such as '>=0.24', not {shown(value)}") from None
    return str(value)


MetricName: TypeAlias = Annotated[str, BeforeValidator(metric_name), WithJsonSchema({"type": "string", "enum": sorted(METRICS)})]


def _texts(value: Any) -> Any:
    for item in value if isinstance(value, list) and value else [value]:
        _text(item)
    return value


_TEXTS_SCHEMA = WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})
Texts: TypeAlias = Annotated[Any, BeforeValidator(_texts), _TEXTS_SCHEMA]
"""One text, or a list of them."""


def _command(value: Any) -> Any:
    _texts(value)
    words = value
    if isinstance(value, str):
        try:
            words = shlex.split(value)
        except ValueError as error:
            raise fail(f"is not a command line: {str(error).lower()}") from None
    wrong = words_error(words, short=False)
    if wrong:
        raise fail(wrong)
    return value


Command: TypeAlias = Annotated[Any, BeforeValidator(_command), _TEXTS_SCHEMA]
"""A command line, or its words."""
VersionSpecifier: TypeAlias = Annotated[str, BeforeValidator(_specifier)]
