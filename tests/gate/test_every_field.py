"""No field of a server is outside the comparison key, the axis, the fingerprint and the digest of
split groups."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from pytest_gpubench.gate.baseline_key import comparison_key, measurement_axis
from pytest_gpubench.model.frozen import FrozenMap, canonical_json
from pytest_gpubench.model.specs import ServerSpec, Speculative, Topology
from pytest_gpubench.recipes.server_groups import SAME_IN_A_GROUP, _digest
from pytest_gpubench.report.records import plain

DRAFT = Speculative("ngram", 3, options=FrozenMap({"prompt_lookup_max": 4}))
SPEC = ServerSpec(
    "vllm", "org/m", "h100", Topology(8), FrozenMap({"block-size": 128}), speculative=DRAFT
)
CHANGED: dict[str, Any] = {
    "framework": "sglang",
    "model": "org/other",
    "hardware": "h200",
    "topology": Topology(4),
    "serve": FrozenMap({"block-size": 64}),
    "revision": "v2",
    "speculative": None,
    "env": FrozenMap({"A": "1"}),
    "extra_args": ("--x",),
    "command": ("other", "serve"),
    "requires": FrozenMap({"vllm": ">=0.24"}),
    "image": "img",
}
DRAFTS: dict[str, Any] = {
    "method": "suffix",
    "num_speculative_tokens": 4,
    "model": "org/draft",
    "revision": "v2",
    "attention_backend": "FLASH_ATTN",
    "options": FrozenMap({"prompt_lookup_max": 5}),
}


def told(spec: ServerSpec) -> tuple[FrozenMap, FrozenMap]:
    key = comparison_key(None, spec, device="d", commits={}, measurement_version=1, policy="point")
    return key, measurement_axis(spec, {})


def test_the_lists_are_whole() -> None:
    assert CHANGED.keys() == {item.name for item in fields(ServerSpec)}
    assert DRAFTS.keys() == {item.name for item in fields(Speculative)}
    assert {item.name for item in fields(ServerSpec)} >= SAME_IN_A_GROUP


@pytest.mark.parametrize("name", CHANGED)
def test_a_field_of_a_server(name: str) -> None:
    other = replace(SPEC, **{name: CHANGED[name]})
    assert told(other) != told(SPEC)
    assert canonical_json(plain(other)) != canonical_json(plain(SPEC))
    assert name in SAME_IN_A_GROUP or _digest(other) != _digest(SPEC)


@pytest.mark.parametrize("name", DRAFTS)
def test_a_field_of_a_draft(name: str) -> None:
    other = replace(SPEC, speculative=replace(DRAFT, **{name: DRAFTS[name]}))
    assert told(other) != told(SPEC)
    assert _digest(other) != _digest(SPEC)


def test_what_earlier_baselines_hold_is_unchanged() -> None:
    spec = replace(
        SPEC, speculative=Speculative("eagle3", 3, "org/d"), env=FrozenMap({"A": "1"}), image="img"
    )
    key, axis = told(spec)
    assert key["speculative"] == '{"method":"eagle3","model":"org/d","num_speculative_tokens":3}'
    assert dict(axis) == {"image": "img", "serve.block-size": "128", "env.A": '"1"'}
    assert _digest(replace(SPEC, speculative=None)) == "f6e71f"


def test_the_axis_shows_no_secret() -> None:
    env = FrozenMap(
        {"MY_TOKEN": "abcdef", "URL": "http://u:pw@h", "X": {"from": "A_KEY", "default": "zzz"}}
    )
    axis = str(dict(told(replace(SPEC, env=env))[1]))
    assert not any(secret in axis for secret in ("abcdef", "u:pw"))
