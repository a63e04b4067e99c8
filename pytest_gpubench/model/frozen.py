"""JSON values: immutable, hashable ones, and reading those that may be anything.

Recipes carry free-form maps (server flags, JSON flags, environments). A frozen copy can be a field
of a frozen dataclass, a dictionary key and a pytest parameter. Equality is strict about types:
``True``, ``1`` and ``1.0`` are different values, since as server flags they are different command
lines.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypeGuard, cast

Scalar: TypeAlias = "str | int | float | bool | None"
Frozen: TypeAlias = "Scalar | tuple[Frozen, ...] | FrozenMap"
_SCALARS = frozenset({str, int, float, bool, type(None)})


class FrozenMap(Mapping[str, "Frozen"]):
    """A read-only mapping with string keys, hashable, in the order it was given; equality ignores
    the order of keys."""

    __slots__ = ("_hash", "_items")

    def __init__(self, items: Mapping[str, Any] | None = None) -> None:
        self._items: dict[str, Frozen] = {
            str(key): freeze(value) for key, value in (items or {}).items()
        }
        # Of the keys alone: maps with equal keys are rare where hashes matter, and equality
        # decides.
        self._hash: int = hash(frozenset(self._items))

    def __getitem__(self, key: str) -> Frozen:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, FrozenMap) and _same_items(self._items, other._items)
        )

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"FrozenMap({self._items!r})"

    def __reduce__(self) -> tuple[type[FrozenMap], tuple[dict[str, Any]]]:
        return FrozenMap, (cast("dict[str, Any]", thaw(self)),)


def freeze(value: Any) -> Frozen:
    """Turn plain JSON-like data (dict, list, scalars) into its frozen form.

    Raises:
        TypeError: for a value that JSON cannot hold.
    """
    kind = type(value)
    if kind in _SCALARS or kind is FrozenMap or isinstance(value, (FrozenMap, str, int, float)):
        frozen: Frozen = value
        return frozen
    if isinstance(value, Mapping):
        return FrozenMap(value)
    if isinstance(value, list | tuple):
        return tuple(freeze(item) for item in value)
    raise TypeError(f"not a JSON value: {type(value).__name__}")


def _same_items(left: Mapping[str, Frozen], right: Mapping[str, Frozen]) -> bool:
    return left.keys() == right.keys() and all(
        _same(value, right[key]) for key, value in left.items()
    )


def _same(left: Frozen, right: Frozen) -> bool:
    if type(left) is not type(right):
        return False
    if isinstance(left, tuple) and isinstance(right, tuple):
        return len(left) == len(right) and all(map(_same, left, right))
    if isinstance(left, float):
        return repr(left) == repr(right)  # -0.0 is written differently
    return left == right


def thaw(value: Frozen) -> Any:
    """The plain dict, list or scalar of a frozen value, ready for ``json.dumps``."""
    if isinstance(value, FrozenMap):
        return {key: thaw(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [thaw(item) for item in value]
    return value


def is_whole(value: object) -> TypeGuard[int]:
    """Whether a JSON value is a whole number; true and false, which Python counts as such, are
    none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a JSON value is a number, likewise."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def mapping(value: object) -> Mapping[str, Any]:
    """The value, or nothing where it is no map."""
    return value if isinstance(value, Mapping) else {}


def entries(value: object) -> Sequence[Any]:
    """The entries of a list, none where the value is no list."""
    return value if isinstance(value, list | tuple) else ()


def integer(value: object) -> int | None:
    """The value, None where it is no whole number."""
    return value if is_whole(value) else None


def number(source: Mapping[str, Any], *keys: str) -> int | None:
    """The first of the keys that holds a positive integer."""
    given = (integer(source.get(key)) for key in keys)
    return next((one for one in given if one is not None and one > 0), None)


def word(source: Mapping[str, Any], *keys: str) -> str:
    """The first of the keys that holds a text; empty where none does."""
    return next((source[key] for key in keys if isinstance(source.get(key), str)), "")


def integers(value: object) -> tuple[int, ...]:
    """The whole numbers of a list."""
    return tuple(one for one in map(integer, entries(value)) if one is not None)


def words(value: object) -> list[str]:
    """The texts of a list."""
    return [one for one in entries(value) if isinstance(one, str)]


def spelled(value: object) -> str:
    """A scalar as recipes and command lines write it: ``true``, ``8``, ``fp8``."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def canonical_json(value: Any) -> str:
    """One line of JSON that is equal for equal values: sorted keys, no spaces, no NaN."""
    return json.dumps(
        _plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
