"""``gpubench matrix, submit, status, cancel``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_gpubench.commands import Subparsers


def add_commands(commands: Subparsers) -> None:
    """Add the parsers."""
