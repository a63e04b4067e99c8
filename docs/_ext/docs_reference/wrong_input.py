"""What commands answer to wrong input: the rows that `tests/test_wrong_input.py` runs."""

from __future__ import annotations

from pathlib import Path

_ROWS = Path(__file__).parents[3] / "tests" / "wrong-input.md"


def wrong_input_page() -> str:
    """The page, as it is."""
    return _ROWS.read_text(encoding="utf-8")
