"""Field types of the recipe schema: numbers that may also be expressions, free-form maps, versions.

Each checks one value and says what is wrong in the words of the file; the JSON Schema for editors
rides along.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainValidator,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from pytest_gpubench.dialects.server_flags import MAX_CONCURRENCY, MAX_TOKENS
from pytest_gpubench.model.evaluation import ACCURACY
from pytest_gpubench.model.metrics import METRICS
from pytest_gpubench.model.rounds import MAX_ROUNDS, Rounds
from pytest_gpubench.recipes.expressions import is_computed
from pytest_gpubench.recipes.problems import did_you_mean, shown


def _kebab(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


class Section(BaseModel):
    """Base of all parts: kebab-case keys, nothing unknown, no coercion."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        alias_generator=_kebab,
        frozen=True,
        use_attribute_docstrings=True,
    )


_IMAGE_PASSWORD = re.compile(r"(^|//)[^/@]*:[^/@]+@(?!sha\d+:)")
_TOKEN = re.compile(r"[a-z0-9.]+")


def fail(message: str) -> PydanticCustomError:
    """A validation error whose text is ours; braces in it are literal."""
    return PydanticCustomError("recipe", "{words}", {"words": message})


@dataclass(frozen=True, slots=True)
class Number:
    """A number within bounds, or an expression: the annotation of a field, with its schema for
    editors."""

    kind: Literal["integer", "number"]
    least: float
    most: float

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {
            "anyOf": [
                {"type": self.kind, "minimum": self.least},
                {"type": "string", "pattern": r"\$\{"},
            ]
        }

    def check(self, value: Any) -> Any:
        """The value as it is.

        Raises:
            PydanticCustomError: if it is neither such a number nor an expression.
        """
        if is_computed(value):
            return value
        a_number = "an integer" if self.kind == "integer" else "a number"
        allowed = int if self.kind == "integer" else (int, float)
        if isinstance(value, bool) or not isinstance(value, allowed):
            raise fail(f"must be {a_number} or a ${{...}} expression, not {shown(value)}")
        if not self.least <= value <= self.most:
            raise fail(f"must be {a_number} from {self.least} to {self.most}, not {shown(value)}")
        return value


PositiveCount: TypeAlias = Annotated[Any, Number("integer", 1, 10_000)]
Count: TypeAlias = Annotated[Any, Number("integer", 0, 10_000)]
PositiveTokens: TypeAlias = Annotated[Any, Number("integer", 1, MAX_TOKENS)]
NonNegative: TypeAlias = Annotated[Any, Number("number", 0, 1_000_000)]
Seed: TypeAlias = Annotated[Any, Number("integer", 0, 2**31 - 1)]
Temperature: TypeAlias = Annotated[Any, Number("number", 0, 2)]
Rate: TypeAlias = Annotated[Any, Number("number", 0.001, 1_000_000)]
Seconds: TypeAlias = Annotated[Any, Number("number", 0.001, 1_000_000)]
Factor: TypeAlias = Annotated[Any, Number("number", 0.001, 1000)]
HalfWidth: TypeAlias = Annotated[Any, Number("number", 0.0001, 0.9999)]
TokenCount: TypeAlias = Annotated[Any, Number("integer", 0, MAX_TOKENS)]
Workers: TypeAlias = Annotated[Any, Number("integer", 1, 256)]
Ratio: TypeAlias = Annotated[Any, Number("number", 0.01, 1)]


def _rounds(value: Any) -> Any:
    if is_computed(value):
        return value
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise fail(f"must be a number of rounds or a range such as 1..8, not {shown(value)}")
    try:
        Rounds.parse(str(value))
    except ValueError as error:
        raise fail(str(error)) from None
    return value


RoundsRange: TypeAlias = Annotated[
    Any,
    PlainValidator(_rounds),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": MAX_ROUNDS},
                {"type": "string", "pattern": r"\.\.|\$\{"},
            ]
        }
    ),
]
_SCIENTIFIC = re.compile(r"\d+(\.\d*)?[eE]\d{1,2}")


def _scientific(value: Any) -> Any:
    """YAML reads 57.3e9 as text: it wants a sign."""
    return float(value) if isinstance(value, str) and _SCIENTIFIC.fullmatch(value) else value


ByteCount: TypeAlias = Annotated[float, Field(ge=1, le=1e16), BeforeValidator(_scientific)]
Tokens: TypeAlias = Annotated[int, Field(ge=1, le=MAX_TOKENS)]
Concurrency: TypeAlias = Annotated[int, Field(ge=1, le=MAX_CONCURRENCY)]
Ranks: TypeAlias = Annotated[int, Field(ge=1, le=1024)]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        hint = "" if isinstance(value, dict | list) else "; quote it"
        raise fail(f"must be text, not {shown(value)}{hint}")
    if not value.strip() or len(value) > 500:
        raise fail("must be text of 1 to 500 characters")
    return value


Text: TypeAlias = Annotated[str, BeforeValidator(_text)]


def _image(value: Any) -> str:
    """The digest of an image stands behind an @, too."""
    if _IMAGE_PASSWORD.search(_text(value)):
        raise fail(
            "has a user and password, which plans and records would show; "
            "log the machine in to the registry instead (docker login)"
        )
    return str(value)


Image: TypeAlias = Annotated[str, BeforeValidator(_image)]


def _token(value: Any) -> str:
    if not _TOKEN.fullmatch(_text(value)):
        raise fail(
            "must be one word of lower-case letters, digits and dots (it becomes part "
            f"of test ids), not {shown(value)}"
        )
    return str(value)


def is_token(word: str) -> bool:
    """Whether a word can be a part of an id and a mark."""
    return bool(_TOKEN.fullmatch(word))


Token: TypeAlias = Annotated[
    str,
    BeforeValidator(_token),
    WithJsonSchema({"type": "string", "pattern": f"^{_TOKEN.pattern}$"}),
]


NOT_A_LOADS = "accuracy is judged where its questions are: write `at-least` in `evals`"


def metric_name(value: Any) -> str:
    """A metric of the metric table."""
    if value == ACCURACY:
        raise fail(NOT_A_LOADS)
    if _text(value) not in METRICS:
        raise fail(f"no metric is named {shown(value)}{did_you_mean(str(value), METRICS)}")
    return str(value)


def _specifier(value: Any) -> str:
    try:
        SpecifierSet(_text(value))
    except InvalidSpecifier:
        raise fail(f"must be a version specifier such as '>=0.24', not {shown(value)}") from None
    return str(value)


MetricName: TypeAlias = Annotated[
    str,
    BeforeValidator(metric_name),
    WithJsonSchema({"type": "string", "enum": sorted({*METRICS} - {ACCURACY})}),
]


def texts(value: Any) -> Any:
    for item in value if isinstance(value, list) and value else [value]:
        _text(item)
    return value


TEXTS_SCHEMA = WithJsonSchema(
    {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
)
Texts: TypeAlias = Annotated[Any, BeforeValidator(texts), TEXTS_SCHEMA]
"""One text, or a list of them."""


VersionSpecifier: TypeAlias = Annotated[str, BeforeValidator(_specifier)]
