"""Files that the pages for developers name are there."""

from __future__ import annotations

import re

import pytest

from tests.docs.sandbox import ROOT

PAGES = ("docs/architecture.md", "CONTRIBUTING.md", "tests/README.md")
_PATH = re.compile(r"`((?:[a-z_.]+/)+[a-z_.]*)`")


@pytest.mark.parametrize("page", PAGES)
def test_every_path_exists(page: str) -> None:
    named = _PATH.findall((ROOT / page).read_text(encoding="utf-8"))
    assert named
    missing = [
        name
        for name in named
        if not any((base / name).exists() for base in (ROOT, ROOT / "pytest_gpubench"))
    ]
    assert missing == []
