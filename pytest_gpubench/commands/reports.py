"""``gpubench report, and what else is made of result folders``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_gpubench.commands import Subparsers


def add_commands(commands: Subparsers) -> None:
    """Add the parsers."""
