"""The base of every part of the schema."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


def _kebab(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


class Section(BaseModel):
    """Base of all parts: kebab-case keys, nothing unknown, no coercion."""

    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=_kebab, frozen=True, use_attribute_docstrings=True)
