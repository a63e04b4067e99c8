"""How often a case is measured on one launch of its server."""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_ROUNDS = 100


@dataclass(frozen=True, slots=True)
class Rounds:
    """The fewest and the most measurements of a case on one launch. No part of what makes numbers
    comparable: each round is the same load."""

    least: int = 1
    most: int = 8

    def __str__(self) -> str:
        return str(self.least) if self.least == self.most else f"{self.least}..{self.most}"

    @classmethod
    def parse(cls, text: str) -> Rounds:
        """``3``: three; ``1..8``: one, and as many up to eight as the gate needs.

        Raises:
            ValueError: for anything else, as a sentence.
        """
        match = re.fullmatch(r"\s*(\d{1,3})\s*(?:\.\.\s*(\d{1,3})\s*)?", text, re.ASCII)
        least, most = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= least <= most <= MAX_ROUNDS:
            raise ValueError(
                f"rounds '{text}': write a number such as 3, or a range such as 1..8, up to "
                f"{MAX_ROUNDS}"
            )
        return cls(least, most)


AS_USUAL = Rounds()
