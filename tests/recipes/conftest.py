"""Recipes from text, and the smallest recipe that is whole."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from pytest_gpubench.model.cases import RecipeBook
from pytest_gpubench.model.policies import SharingPolicy
from pytest_gpubench.recipes.loading import load_recipes

Load: TypeAlias = Callable[..., RecipeBook]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Write texts to files r0.yaml, r1.yaml, ... and load them together."""

    def load_texts(*texts: str | bytes, policy: SharingPolicy | None = None) -> RecipeBook:
        paths = []
        for index, text in enumerate(texts):
            path = tmp_path / f"r{index}.yaml"
            path.write_bytes(text if isinstance(text, bytes) else textwrap.dedent(text).encode())
            paths.append(path)
        return load_recipes(paths, policy=policy)

    return load_texts


@pytest.fixture
def whole() -> str:
    """A recipe `m-fp8-h100-vllm` with one row and a `serve`; the row is line 12."""
    return textwrap.dedent("""\
        m-fp8-h100-vllm:
          model: org/m
          model-prefix: m
          precision: fp8
          framework: vllm
          runner: h100
          scenarios:
            fixed-seq-len:
            - isl: 1024
              osl: 1024
              search-space:
              - {tp: 8, conc-list: [4, 16]}
          serve: {block-size: 128}
        """)
