"""Bisection: which of a row of changes made it worse, where some of them cannot be judged. Pure.

The candidates are in order, oldest first, each holding what those before it changed. What was
before the first one is good; the last one is to be shown bad before anything else is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from pytest_gpubench.model.verdicts import Status


class Answer(str, Enum):
    """What a step of the walk says of a candidate."""

    GOOD = "good"
    """Not worse than the good end, beyond reasonable doubt."""
    BAD = "bad"
    """Worse, beyond reasonable doubt."""
    SKIPPED = "skipped"
    """It could not be told, or not be measured: nothing is concluded from it."""

    @classmethod
    def of(cls, status: Status) -> Answer:
        """What a verdict against the good end says; only PASS and FAIL say something, and a FAIL
        that is waived is one: a known bug has a change that made it."""
        if status in (Status.FAIL, Status.WAIVED):
            return cls.BAD
        return cls.GOOD if status is Status.PASS else cls.SKIPPED


@dataclass(frozen=True, slots=True)
class Bisection:
    """The state of a walk; places count from 0, oldest first."""

    length: int
    """Candidates; at least one."""
    answers: Mapping[int, Answer] = field(default_factory=dict)
    """By place, of those that were asked."""
    alone: Answer | None = None
    """What the first bad candidate is beside the one right before it; None: not asked yet."""

    @property
    def end(self) -> Answer | None:
        """What is known of the last candidate, the bad end."""
        return self.answers.get(self.length - 1)

    @property
    def bad(self) -> int:
        """Place of the earliest candidate that is known bad; that of the bad end before any is."""
        found = (place for place, answer in self.answers.items() if answer is Answer.BAD)
        return min(found, default=self.length - 1)

    @property
    def good(self) -> int:
        """Place of the latest good candidate before the earliest bad one; -1: the good end."""
        bad = self.bad
        found = (
            place for place, answer in self.answers.items() if answer is Answer.GOOD and place < bad
        )
        return max(found, default=-1)

    @property
    def suspects(self) -> range:
        """Places of which one is the first bad candidate."""
        return range(self.good + 1, self.bad + 1)

    @property
    def next(self) -> int | None:
        """Place to be asked now; None where the walk is over.

        First the bad end; then the suspect that nobody has asked and that is next to the middle, so
        that a skipped one costs a step and nothing else.
        """
        if self.end is None:
            return self.length - 1
        if self.end is not Answer.BAD:
            return None
        middle = (self.good + self.bad) // 2
        open_ones = (place for place in self.suspects[:-1] if place not in self.answers)
        return min(open_ones, key=lambda place: (abs(place - middle), place), default=None)

    @property
    def found(self) -> int | None:
        """Place of the first bad candidate, once it is the only suspect; None before, and where
        skipped ones are left beside it."""
        suspects = self.suspects
        return suspects[0] if self.end is Answer.BAD and len(suspects) == 1 else None

    @property
    def unconfirmed(self) -> int | None:
        """Place of the first bad candidate that nobody has compared with the one before it; None
        where none is found, or the good end is the one before it.

        A row of verdicts has more chances to be wrong than one, and a loss may be the sum of small
        ones: found is where the sum passed the tolerance.
        """
        return self.found if self.found and self.alone is None else None

    @property
    def confirmed(self) -> bool:
        """Whether the first bad candidate is known, and is worse than the one before it."""
        return self.found == 0 or (self.found is not None and self.alone is Answer.BAD)

    @property
    def steps_left(self) -> int:
        """About how many more places will be asked."""
        return (len(self.suspects) - 1).bit_length() + (self.end is None)
