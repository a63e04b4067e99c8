"""Axes and labels: from values to places and tick marks, and texts that do not overlap. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["linear", "log2", "log10"]


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps values from ``low`` to ``high`` to pixels from ``start`` to ``end``, also backwards."""

    kind: Kind
    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        low, high, value = (self._flat(number) for number in (self.low, self.high, value))
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + min(max(share, -0.02), 1.02) * (self.end - self.start)

    def ticks(self, room: float) -> list[float]:
        """Values to mark, at least ``room`` pixels apart."""
        most = max(2, int(abs(self.end - self.start) / room) + 1)
        if self.kind == "linear":
            return _linear_ticks(self.low, self.high, most)
        return _log_ticks(self.low, self.high, most, 2 if self.kind == "log2" else 10)

    def _flat(self, value: float) -> float:
        return math.log(max(value, 1e-12)) if self.kind != "linear" else value


def scale_for(
    values: Sequence[float],
    kind: Kind,
    start: float,
    end: float,
    *,
    zero: bool = False,
    top: float | None = None,
) -> Scale:
    """A scale that holds the values, widened to round numbers; ``zero``: begins at 0 (linear only).

    Values that a logarithmic scale cannot show must be left out by the caller.
    """
    low, high = min(values, default=0.0), max(values, default=1.0)
    if kind == "linear":
        low = 0.0 if zero and low >= 0 else low
        high = high if top is None else top
        if high <= low:
            high = low + (abs(low) or 1.0)
        step = _step(high - low, 5)
        return Scale(
            kind,
            math.floor(low / step + 1e-9) * step,
            math.ceil(high / step - 1e-9) * step if top is None else top,
            start,
            end,
        )
    if high <= low * 1.0001:
        low, high = low / 2, high * 2
    return Scale(kind, low / 1.12, high * 1.12, start, end)


def _step(length: float, most: int) -> float:
    raw = length / max(most, 1)
    power = 10 ** math.floor(math.log10(raw)) if raw > 0 else 1.0
    return next(
        (factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999),
        10 * power,
    )


def _linear_ticks(low: float, high: float, most: int) -> list[float]:
    step = _step(high - low, most - 1)
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first + 1
    return [round((first + index) * step, 12) for index in range(max(0, min(count, 50)))]


def _log_ticks(low: float, high: float, most: int, base: int) -> list[float]:
    first, last = math.ceil(math.log(low, base) - 1e-9), math.floor(math.log(high, base) + 1e-9)
    powers = [float(base) ** power for power in range(first, last + 1)][:400]
    if base == 10 and len(powers) * 3 <= most:
        fine = [
            factor * 10.0**power for power in range(first - 1, last + 1) for factor in (1, 2, 5)
        ]
        powers = [value for value in fine if low <= value <= high]
    if len(powers) < 2:
        return _linear_ticks(low, high, most)
    stride = math.ceil(len(powers) / most)
    return powers[::stride]


FONT = 11.0
"""Of every text in a chart, pixels."""
CHARACTER = 0.7
"""Width of a character, a share of the font's size; generous: the reader's font is not ours."""
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
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )


@dataclass(frozen=True, slots=True)
class Placed:
    """A text's anchor: ``x`` is its left end, ``y`` its baseline."""

    text: str
    x: float
    y: float


def text_width(text: str) -> float:
    """Estimated width in pixels; wide scripts count double."""
    return FONT * sum(map(_letter_width, text))


def _letter_width(letter: str) -> float:
    if ord(letter) > 0x2E80:
        return 1.3
    return _WIDE if letter in _WIDE_LETTERS else CHARACTER


def shortened(text: str, room: float) -> str:
    """The text, or as much of it as fits, with an ellipsis."""
    if text_width(text) <= room:
        return text
    keep = len(text) - 1
    while keep > 1 and text_width(text[:keep] + "…") > room:
        keep -= 1
    return text[:keep].rstrip() + "…"


@dataclass
class Placer:
    """Places texts one after the other; what has no room is not placed."""

    area: Box
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
            anchors: points that it may stand beside, best first.
            crossings: points of lines, better not covered.
            over: whether marks may be covered; other texts never are.
        """
        width, height, gap = text_width(text), FONT * LINE, 7.0
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
                if not self._inside(box) or any(
                    box.meets(other)
                    for other in (self.taken if over else (*self.taken, *self.marks))
                ):
                    continue
                covered = sum(
                    box.left <= px <= box.right and box.top <= py <= box.bottom
                    for px, py in crossings
                )
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
        return (
            area.left <= box.left
            and box.right <= area.right
            and area.top <= box.top
            and box.bottom <= area.bottom
        )


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places near the wanted ones, in order, ``gap`` apart and in bounds as far as they fit."""
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
