"""One comparison of what runs with what was asked for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """Something asked for, and what the engine says that it runs with (None: it did not say)."""

    name: str
    asked: object
    running: object
    unseen: str = ""
    """The sentence where the engine did not say; empty: an ordinary one."""
    source: str = "the recipe asks for"

    @property
    def holds(self) -> bool:
        return _plain(self.asked) == _plain(self.running)


def _plain(value: object) -> str:
    return str(value).casefold().removeprefix("torch.")
