"""Where labels go in a chart so that no text lies on another text or on a mark. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

CHARACTER = 0.7
"""Width of a character, as a share of the font's size; generous, since the reader's font is not ours and names are bold."""
_WIDE = 0.88
_WIDE_LETTERS = frozenset("ABCDEFGHKLMNOPQRSTUVWXYZmw%@…")
LINE = 1.25


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        return self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom


@dataclass(frozen=True, slots=True)
class Placed:
    """A text's anchor: ``x`` is its left end, ``y`` its baseline."""

    text: str
    x: float
    y: float


def text_width(text: str, size: float) -> float:
    """Estimated width in pixels; wide scripts count double."""
    return size * sum(map(_letter_width, text))


def _letter_width(letter: str) -> float:
    if ord(letter) > 0x2E80:
        return 1.3
    return _WIDE if letter in _WIDE_LETTERS else CHARACTER


def shortened(text: str, room: float, size: float) -> str:
    """The text, or as much of it as fits, with an ellipsis."""
    if text_width(text, size) <= room:
        return text
    keep = len(text) - 1
    while keep > 1 and text_width(text[:keep] + "…", size) > room:
        keep -= 1
    return text[:keep].rstrip() + "…"


@dataclass
class Placer:
    """Places texts one after the other; what has no room is not placed."""

    area: Box
    size: float
    taken: list[Box] = field(default_factory=list)
    marks: list[Box] = field(default_factory=list)

    def block(self, boxes: Iterable[Box]) -> None:
        """Keep these free."""
        self.marks += boxes

    def place(
        self,
        text: str,
        anchors: Sequence[tuple[float, float]],
        crossings: Sequence[tuple[float, float]] = (),
        *,
        over: bool = False,
    ) -> Placed | None:
        """Put a text beside one of the anchors, the first with room.

        Args:
            text: what is put.
            anchors: points that it may stand beside, best first.
            crossings: points of lines, better not covered.
            over: whether marks may be covered; other texts never are.
        """
        width, height, gap = text_width(text, self.size), self.size * LINE, 7.0
        best: tuple[int, Box] | None = None
        for x, y in anchors:
            for left, middle in (
                (x + gap, y),
                (x + gap * 0.7, y - height * 0.85),
                (x - width / 2, y - height * 1.05),
                (x - width - gap * 0.7, y - height * 0.85),
                (x + gap * 0.7, y + height * 0.85),
                (x - width / 2, y + height * 1.05),
                (x - width - gap, y),
                (x - width - gap * 0.7, y + height * 0.85),
            ):
                box = Box(left, middle - height / 2, left + width, middle + height / 2)
                if not self._inside(box) or any(box.meets(other) for other in (self.taken if over else (*self.taken, *self.marks))):
                    continue
                covered = sum(box.left <= px <= box.right and box.top <= py <= box.bottom for px, py in crossings)
                if best is None or covered < best[0]:
                    best = covered, box
                if not covered:
                    break
            if best is not None and best[0] == 0:
                break
        if best is None:
            return None
        box = best[1]
        self.taken.append(box)
        return Placed(text, box.left, box.bottom - height * 0.27)

    def _inside(self, box: Box) -> bool:
        area = self.area
        return area.left <= box.left and box.right <= area.right and area.top <= box.top and box.bottom <= area.bottom


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places near the wanted ones, in the same order, at least ``gap`` apart and within the bounds as far as they fit."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    gap = min(gap, (high - low) / max(1, len(wanted) - 1)) if len(wanted) > 1 else gap
    placed = [0.0] * len(wanted)
    floor = low
    for index in order:
        placed[index] = max(wanted[index], floor)
        floor = placed[index] + gap
    ceiling = high
    for index in reversed(order):
        placed[index] = min(placed[index], ceiling)
        ceiling = placed[index] - gap
    return placed
