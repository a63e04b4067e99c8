"""Failures: every one has a cause, a class that says who must act, evidence and a remedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from pytest_gpubench.model.printing import for_terminal

FailureClass: TypeAlias = Literal[
    "infrastructure", "recipe", "engine", "client", "performance", "unknown"
]
"""Only ``infrastructure`` (node, network, download, foreign process) may be retried by a
machine."""
FAILURE_CLASSES: dict[FailureClass, str] = {
    "infrastructure": (
        "the node, its network or disk, a download, or a foreign process; it may be run "
        "again as it is"
    ),
    "recipe": "what the recipe or the command line asks for cannot work; correct it",
    "engine": (
        "the engine failed, hangs, or says something that does not add up; report it or "
        "use another version"
    ),
    "client": "the measuring side failed, or the run was ended",
    "performance": "a gate: the numbers are worse than allowed",
    "unknown": "an engine that died of what gpubench does not know; read its log, and report it",
}
"""Who must act, by class."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why something failed, in words for a person.

    ``cause`` is a stable kebab-case name (``wrong-argument``, ``engine-died``); ``evidence`` are
    the engine's own lines. The fields are as they came, ``str()`` is fit for a terminal.
    """

    cause: str
    failure_class: FailureClass
    summary: str
    evidence: tuple[str, ...] = ()
    remedy: str = ""

    def __str__(self) -> str:
        parts = [failure_words(self)]
        parts += [f"    {line}" for line in self.evidence]
        if self.remedy:
            parts.append(self.remedy)
        return for_terminal("\n".join(parts))


def failure_words(failure: Failure) -> str:
    """``summary [cause, class]``, in one line."""
    return f"{failure.summary} [{failure.cause}, {failure.failure_class}]"


class GpubenchError(Exception):
    """An error that a user can cause or must know of: its text is a sentence with what, where and
    what to do.

    It is shown without a traceback, and as text that a terminal and a CI only print.
    """

    def __str__(self) -> str:
        return for_terminal(super().__str__())


class CommandError(GpubenchError):
    """A command of ``gpubench`` ends with an exit code of its own."""

    def __init__(self, sentence: str, exit_code: int) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code


class BenchmarkError(GpubenchError):
    """A case or a server failed; carries the cause."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure))
        self.failure = failure
