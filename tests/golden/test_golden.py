"""Plan, command lines, page and comment are what they were. ``python -m tests.golden.make`` accepts
a change."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from tests.golden import make


def _parts(text: str) -> dict[str, Any]:
    """By name: what a difference is told about."""
    document = json.loads(text)
    return {f"case {case['id']}": case for case in document["cases"]} | {
        f"server {key}": server for key, server in document["servers"].items()
    }


@pytest.mark.slow
def test_the_plan_of_the_shipped_recipes_is_the_same_to_the_byte() -> None:
    before, now = gzip.decompress(make.PLAN.read_bytes()).decode(), make.plan()
    if before != now:
        old, new = _parts(before), _parts(now)
        changed = [name for name in old | new if old.get(name) != new.get(name)]
        pytest.fail(
            f"{len(changed)} parts of the plan differ, first {changed[:5]}; see "
            "tests/golden/make.py"
        )


def test_argv_and_environment_of_every_shipped_server_are_in_it() -> None:
    servers = json.loads(gzip.decompress(make.PLAN.read_bytes()))["servers"]
    assert len(servers) == 179
    assert all(server["argv"] for server in servers.values() if server.get("runnable", True))


def test_the_page_of_three_real_records_says_the_same() -> None:
    assert make.page_text() == make.PAGE.read_text()


def test_the_comment_of_three_real_records_is_the_same() -> None:
    assert make.comment() == make.COMMENT.read_text()
