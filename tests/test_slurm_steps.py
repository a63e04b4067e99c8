"""Steps inside a submission's jobs: the weights that are fetched are those that the tasks will look
for."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_gpubench.commands.slurm_steps import fetch_arguments

MANIFEST: dict[str, Any] = {
    "recipes": ["/r/recipes.yaml"],
    "include": [{"selection": "gpubench(server='a')"}, {"selection": "gpubench(server='b')"}],
    "server_per": None,
    "pytest": ["benchmarks"],
}


def test_all_tasks_are_fetched_for_at_once() -> None:
    both = "gpubench(server='a') or gpubench(server='b')"
    assert fetch_arguments(MANIFEST) == ["fetch", "/r/recipes.yaml", "-m", both]


def test_the_sharing_policy_goes_along() -> None:
    """Servers have other names under another policy: without it the selection would match
    nothing."""
    assert fetch_arguments(MANIFEST | {"server_per": "point"})[-2:] == ["--server-per", "point"]


@pytest.mark.parametrize("words", [["--gpubench-cache-dir=/c"], ["--gpubench-cache-dir", "/c"]])
def test_the_cache_folder_goes_along(words: list[str]) -> None:
    assert fetch_arguments(MANIFEST | {"pytest": ["-x", *words, "benchmarks"]})[-2:] == [
        "--cache-dir",
        "/c",
    ]
