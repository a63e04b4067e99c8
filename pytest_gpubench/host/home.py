"""Paths below a home folder, also for a user who has none (an unknown uid in a container)."""

from __future__ import annotations

from pathlib import Path


def expanded(path: str | Path) -> Path:
    """The path with ``~`` replaced; taken as it is written where no home folder is known, as a shell does."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)
