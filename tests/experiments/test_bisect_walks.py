"""Walks over 16 edits with one planted, in memory: experiments/gate has more of them."""

from __future__ import annotations

import numpy as np
import pytest
from bisect_walks import CALM, EDITS, WORLDS, Simulated, World

from pytest_gpubench.commands.bisecting import DEFAULT_LAUNCHES


def _kinds(world: World, walks: int) -> list[str]:
    rng = np.random.default_rng([7, WORLDS.index(world)])
    return [
        Simulated(world, DEFAULT_LAUNCHES, rng).walk(place).kind
        for place in np.linspace(0, EDITS - 1, walks).astype(int).tolist()
    ]


def test_on_a_calm_host_every_walk_names_the_planted_edit() -> None:
    assert set(_kinds(CALM, 8)) == {"right"}


@pytest.mark.parametrize("world", WORLDS[3:], ids=lambda world: world.name)
def test_on_a_restless_one_no_walk_names_another(world: World) -> None:
    assert "wrong" not in _kinds(world, 4)
