"""Values of a config.json, whatever it holds: what is unknown or malformed counts as absent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pytest_gpubench.model.frozen import is_whole


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


def quantized_cache(quant: Mapping[str, Any]) -> str:
    """The type of KV cache that weights were calibrated for, which ``kv-cache-dtype: auto`` takes:
    ``fp8``, ``nvfp4``, or empty."""
    scheme = quant.get("kv_cache_scheme")
    if not isinstance(scheme, Mapping):
        algorithm = word(quant, "kv_cache_scheme", "kv_cache_quant_algo").lower()
        return algorithm if algorithm in ("fp8", "nvfp4") else ""
    if scheme.get("type") != "float":
        return ""
    return {8: "fp8", 4: "nvfp4"}.get(integer(scheme.get("num_bits")) or 0, "")


def words(value: object) -> list[str]:
    """The texts of a list."""
    return [one for one in entries(value) if isinstance(one, str)]
