"""Immutable, hashable JSON values.

Recipes carry free-form maps (server flags, JSON flags, environments). A frozen copy can be a field of a frozen dataclass, a
dictionary key and a pytest parameter. Equality follows the JSON text, so ``True`` and ``1`` are different values: as server flags
they are different command lines.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias, cast

Scalar: TypeAlias = "str | int | float | bool | None"
Frozen: TypeAlias = "Scalar | tuple[Frozen, ...] | FrozenMap"


class FrozenMap(Mapping[str, "Frozen"]):
    """A read-only mapping with string keys, hashable, in the order it was given; equality ignores the order of keys."""

    __slots__ = ("_canonical", "_items")

    def __init__(self, items: Mapping[str, Any] | None = None) -> None:
        self._items: dict[str, Frozen] = {str(key): freeze(value) for key, value in (items or {}).items()}
        self._canonical: str = canonical_json(self._items)

    def __getitem__(self, key: str) -> Frozen:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FrozenMap) and self._canonical == other._canonical

    def __hash__(self) -> int:
        return hash(self._canonical)

    def __repr__(self) -> str:
        return f"FrozenMap({self._items!r})"

    def __reduce__(self) -> tuple[type[FrozenMap], tuple[dict[str, Any]]]:
        return FrozenMap, (cast("dict[str, Any]", thaw(self)),)


def freeze(value: Any) -> Frozen:
    """Turn plain JSON-like data (dict, list, scalars) into its frozen form.

    Raises:
        TypeError: for a value that JSON cannot hold.
    """
    if isinstance(value, FrozenMap) or value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Mapping):
        return FrozenMap(value)
    if isinstance(value, list | tuple):
        return tuple(freeze(item) for item in value)
    raise TypeError(f"not a JSON value: {type(value).__name__}")


def thaw(value: Frozen) -> Any:
    """The plain dict, list or scalar of a frozen value, ready for ``json.dumps``."""
    if isinstance(value, FrozenMap):
        return {key: thaw(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [thaw(item) for item in value]
    return value


def canonical_json(value: Any) -> str:
    """One line of JSON that is equal for equal values: sorted keys, no spaces, no NaN."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
