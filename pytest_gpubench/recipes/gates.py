"""What a recipe may say of a gate.

One model checks the file, is the editor's schema, and is what the gate's policy is made from.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    BeforeValidator,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, core_schema

from pytest_gpubench.model.evaluation import ACCURACY
from pytest_gpubench.model.frozen import Frozen, is_number, thaw
from pytest_gpubench.model.metrics import ACCEPTANCE, METRICS
from pytest_gpubench.recipes.fields import NOT_A_LOADS, MetricName, Section, fail
from pytest_gpubench.recipes.problems import did_you_mean, shown

_PERCENTAGE = re.compile(r"\d{1,3}(\.\d{1,6})?%")


def _share(value: Any) -> float:
    if isinstance(value, str) and _PERCENTAGE.fullmatch(value) and 0 < float(value[:-1]) < 100:
        return float(value[:-1]) / 100
    raise fail(
        f"a tolerance is a percentage above 0% and below 100%, such as 5%, not {shown(value)}"
    )


def _amount(value: Any, info: ValidationInfo) -> float:
    if not is_number(value) or value < 0:
        key = str(info.field_name).replace("_", "-")
        raise fail(f"'{key}' must be a number of at least 0, not {shown(value)}")
    return float(value)


def _golden(value: Any) -> float | bool:
    if isinstance(value, bool):
        return value
    if not isinstance(value, int | float) or not 1 <= value <= 1000:
        raise fail(f"'golden' is true or an acceptance length of at least 1, not {shown(value)}")
    return float(value)


Share: TypeAlias = Annotated[
    float,
    BeforeValidator(_share),
    WithJsonSchema({"type": "string", "pattern": f"^{_PERCENTAGE.pattern}$"}),
]
"""A percentage in the file, a share here: 5% is 0.05."""
Amount: TypeAlias = Annotated[
    float, BeforeValidator(_amount), WithJsonSchema({"type": "number", "minimum": 0})
]


class GateKeys(Section):
    """What is asked of one metric."""

    tolerance: Share | None = None
    """How far it may be worse than the baseline."""
    absolute: Amount | None = None
    """In the metric's unit: a worsening counts only if it is larger than this as well."""
    at_least: Amount | None = None
    """Lower bound, in the metric's unit; needs no baseline."""
    at_most: Amount | None = None
    """Upper bound, in the metric's unit; needs no baseline."""


class AcceptanceGateKeys(GateKeys):
    """What is asked of a draft's acceptance length."""

    golden: Annotated[float | bool, BeforeValidator(_golden)] | None = None
    """`true`: what InferenceX publishes for the draft; a number: that length. `tolerance` is then
    how far below it may be."""


def read_gate(metric: str, written: Frozen) -> GateKeys | None:
    """A recipe's words on one metric (a percentage, a map, or false) as a gate; None: the metric is
    not gated.

    Raises:
        ValidationError: if they are none of these; a recipe that was loaded holds no such words.
    """
    if written is False:
        return None
    plain = thaw(written)
    if not isinstance(plain, dict):
        plain = {"tolerance": plain}
    return _model_of(metric).model_validate(plain)


def _model_of(metric: str) -> type[GateKeys]:
    return AcceptanceGateKeys if metric == ACCEPTANCE else GateKeys


def name_error(metric: str) -> str | None:
    """Why no gate of a load or a start can be on a metric of this name, None if one can."""
    if metric in METRICS and METRICS[metric].direction != "neutral" and metric != ACCURACY:
        return None
    gated = [name for name, one in METRICS.items() if one.direction != "neutral" and name != metric]
    return f"{metric!r} is no metric that can be gated{did_you_mean(metric, gated)}"


def check_gate(metric: str, value: Any) -> str | None:
    """What is wrong with one gate, None if nothing."""
    if metric == ACCURACY:
        return NOT_A_LOADS
    if metric not in METRICS:
        return f"no metric is named {shown(metric)}{did_you_mean(metric, METRICS)}"
    try:
        read_gate(metric, value)
    except ValidationError as error:
        order = list(value) if isinstance(value, dict) else ["tolerance"]
        first = min(
            error.errors(include_url=False), key=lambda detail: order.index(str(detail["loc"][0]))
        )
        key = str(first["loc"][0])
        if first["type"] != "extra_forbidden":
            return first["msg"]
        known = [field.alias or name for name, field in _model_of(metric).model_fields.items()]
        return f"unknown key '{key}'{did_you_mean(key, known)} (known: {', '.join(known)})"
    return None


def contradiction(metric: str, written: Frozen) -> str | None:
    """What a gate says that nothing can satisfy, or that asks for nothing; None: it is sound. Asked
    of a merged recipe, whose layers may each say a part of it."""
    gate = read_gate(metric, written)
    if gate is None:
        return None
    if all(value is None for _, value in gate):
        return "asks for nothing; write a tolerance such as 5% or a limit, or remove it"
    if gate.at_least is not None and gate.at_most is not None and gate.at_least > gate.at_most:
        return (
            f"'at-least' {gate.at_least:g} is above 'at-most' {gate.at_most:g}: nothing is both; "
            "mend one of them"
        )
    compared = gate.tolerance is not None or gate.absolute is not None
    if compared and METRICS[metric].direction == "neutral":
        return "has no direction in which it could be worse; write at-least or at-most"
    return None


class _Unread:
    """Leaves ``gates`` as they are written: `check_gate` says what is wrong with them, in the order
    of the file.

    Editors get the type's schema, in which only the acceptance length has `golden`.
    """

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        def as_written(value: Any, read: Any) -> Any:
            return value if isinstance(value, dict) else read(value)

        return core_schema.no_info_wrap_validator_function(as_written, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        any_metric = handler(schema)
        *others, gate, acceptance, null = any_metric["additionalProperties"]["anyOf"]
        return any_metric | {
            "patternProperties": {f"^{ACCEPTANCE}$": {"anyOf": [*others, acceptance, null]}},
            "additionalProperties": {"anyOf": [*others, gate, null]},
        }


Gates: TypeAlias = Annotated[
    dict[MetricName, Share | Literal[False] | GateKeys | AcceptanceGateKeys | None], _Unread()
]
"""Metric to what is asked of it."""
