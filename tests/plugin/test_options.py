from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_gpubench.plugin.options import OPTIONS
from pytest_gpubench.plugin.resolve_settings import resolve_settings


class Asked:
    """Stands in for pytest's config where nothing is given, and counts what is asked for."""

    def __init__(self, root: Path) -> None:
        self.rootpath = root
        self.invocation_params = SimpleNamespace(dir=root)
        self.options: Counter[str] = Counter()
        self.inis: set[str] = set()

    def getoption(self, key: str) -> Any:
        self.options[key] += 1
        return None

    def getini(self, key: str) -> Any:
        self.inis.add(key)
        return ""


def test_every_option_and_ini_value_becomes_a_setting(tmp_path: Path) -> None:
    """One that is declared and never read would be taken without a word, and do nothing."""
    asked = Asked(tmp_path)
    resolve_settings(cast("pytest.Config", asked))
    # once for all of them, to find contradictions
    unread = [one.key for one in OPTIONS if asked.options[one.key] < 2]
    assert unread == [], "give them a line: plugin/resolve_settings.py"
    assert {one.key for one in OPTIONS if one.ini} == asked.inis
