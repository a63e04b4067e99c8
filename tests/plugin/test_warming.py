"""The warm-up of a launch."""

from __future__ import annotations

import json

import pytest

from tests.plugin.conftest import Project

ONE = ("benchmarks", "-m", "cpu and not mtp and (c1 or c2)")


def test_a_launch_is_warmed_up_once_and_its_record_says_so(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUBENCH_STUB_WARM", "1")
    assert project.run(*ONE).ret == 0
    (path,) = project.pytester.path.rglob("init/launch-1.json")
    said = json.loads(path.read_text())["warmup"]
    assert said["requests"] == 4  # one rank: two one by one, then two at once
    assert said["failed"] == 0
    assert said["ranks"] == 1
    assert said["compiled"] == []
    assert said["seconds"] > 0
    for record in project.cases():
        totals = record["measurement"]["totals"]
        assert totals["output_tokens_with_warmup"] == totals["engine_output_tokens"]
