"""What a recipe says of the official one that it follows."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from pydantic import GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from pytest_gpubench.recipes.fields import Section, Text


class SourceKeys(Section):
    """What is meant of an official recipe."""

    at: Text
    """Its address, shown in reports and read by `gpubench compare-source`."""
    variant: Text | None = None
    """The official variant (default: the one that serves the same model)."""
    strategy: Text | None = None
    """The official strategy (default: the one of the row's parallelism)."""
    hardware: Text | None = None
    """The official name of the node (default: the recipe's hardware)."""
    features: list[Text] | None = None
    """Official features that are on beside those that nobody has to ask for."""

    @model_validator(mode="before")
    @classmethod
    def _address(cls, value: Any) -> Any:
        return {"at": value} if isinstance(value, str) else value


class _OrAddress:
    """For editors: the address alone will do, too."""

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"anyOf": [{"type": "string"}, handler(schema)]}


Source: TypeAlias = Annotated[SourceKeys, _OrAddress()]
"""An address, or a map with what is meant of it."""
