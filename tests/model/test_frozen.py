"""Frozen JSON values: equality, hash, round trip."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gpubench.model.frozen import FrozenMap, canonical_json, freeze, thaw

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
)
MAPS = st.dictionaries(st.text(max_size=3), VALUES, max_size=4)


@given(MAPS)
def test_thaw_undoes_freeze(plain: dict[str, Any]) -> None:
    assert thaw(freeze(plain)) == plain


@given(MAPS, MAPS)
def test_equality_is_that_of_the_json_text(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert (FrozenMap(one) == FrozenMap(other)) == (canonical_json(one) == canonical_json(other))


@given(MAPS)
def test_order_of_keys_matters_to_neither_equality_nor_hash(plain: dict[str, Any]) -> None:
    turned = FrozenMap(dict(reversed(plain.items())))
    assert turned == FrozenMap(plain)
    assert hash(turned) == hash(FrozenMap(plain))


@pytest.mark.parametrize(
    ("one", "other"), [(True, 1), (1, 1.0), ([1], [True]), ({"a": 0}, {"a": False}), (None, False)]
)
def test_different_command_lines_are_different_values(one: object, other: object) -> None:
    assert FrozenMap({"flag": one}) != FrozenMap({"flag": other})


def test_copies_and_pickles_are_equal() -> None:
    frozen = FrozenMap({"a": [1, {"b": None}]})
    assert copy.deepcopy(frozen) == frozen
    assert pickle.loads(pickle.dumps(frozen)) == frozen


def test_what_json_cannot_hold_is_refused() -> None:
    with pytest.raises(TypeError, match="not a JSON value: set"):
        freeze({"a": {1, 2}})


def test_a_frozen_map_is_not_a_dict() -> None:
    assert FrozenMap({"a": 1}) != {"a": 1}
