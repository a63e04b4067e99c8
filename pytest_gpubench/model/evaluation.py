"""Evaluations: questions with known answers, asked of a server beside its load."""

from __future__ import annotations

from dataclasses import dataclass

ACCURACY = "accuracy"
"""The metric, the mark and the tag of evaluations."""
EMBEDDED_TASK = "tiny-recall"
"""The task that ships with the package, for the embedded pair."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One task, asked of one server; how many questions are in flight says the case's workload."""

    task: str
    """A name that lm-eval knows, ``tiny-recall``, or the absolute path of a task's YAML file."""
    name: str
    """The task in ids: words of lower-case letters, digits and dots, joined by dashes."""
    label: str
    """``name``, with the concurrency where a server is asked at several."""
    metric: str = "exact_match"
    filter: str = ""
    """Of the task's filters the one whose answer is judged; empty: the task's first."""
    shots: int | None = None
    """Examples before each question; None: as the task has it."""
    limit: int | None = None
    """The first so many questions; None: all."""
    max_tokens: int | None = None
    """Of an answer; None: as the task has it."""
    at_least: float | None = None
    """Share of the questions that must be answered right; None: no limit is declared."""

    @property
    def is_file(self) -> bool:
        """Whether the task is a file of the user's."""
        return self.task.endswith((".yaml", ".yml"))

    def asked(self) -> dict[str, object]:
        """What decides the questions and how an answer is judged, for keys that tell whether two
        results may be compared: not the limit on the result, and no path."""
        return {
            "task": self.name if self.is_file else self.task,
            "metric": self.metric,
            "filter": self.filter,
            "shots": self.shots,
            "limit": self.limit,
            "max_tokens": self.max_tokens,
        }
