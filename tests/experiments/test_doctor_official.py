"""The doctor against public configurations (experiments/doctor)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments" / "doctor"))
import official

PUBLISHED_AT_ONE_BYTE = "meta-llama/Llama-3.1-405B-Instruct-FP8"
"""The published size counts its attention at one byte; its config.json says two."""


def test_official_recipes_have_no_errors() -> None:
    models, entries = official.read("models"), official.read("official")
    wrong = {
        (entry["model"], entry["hardware"], entry["strategy"], one.rule)
        for entry in entries
        for one in official.findings(entry, models[entry["model"]]["config"])
        if one.severity == "error"
    }
    assert len(entries) > 250
    assert wrong == {
        (model, "h200", "single_node_dep", "weights-above-memory")
        for model in ("Qwen/Qwen3-Coder-480B-A35B-Instruct", "moonshotai/Kimi-K2-Instruct")
    }


@pytest.mark.parametrize(
    ("name", "published", "estimate"), list(official.sizes(official.read("models")))
)
def test_estimated_weights_are_those_that_were_published(
    name: str, published: float, estimate: float | None
) -> None:
    if estimate is not None and name != PUBLISHED_AT_ONE_BYTE:
        assert estimate == pytest.approx(published, rel=0.05)
