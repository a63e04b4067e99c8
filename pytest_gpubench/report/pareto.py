"""The Pareto frontier: points that no other point beats in both throughput and interactivity.
Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")

_WIDTH = 56
_HEIGHT = 12
FEWEST_POINTS = 3
"""Below this many points there is no curve to speak of."""


def frontier(points: Iterable[T], x: Callable[[T], float], y: Callable[[T], float]) -> list[T]:
    """The points for which no other is at least as good in both and better in one, by ascending
    ``x``; more is better in both."""
    best: list[T] = []
    for point in sorted(points, key=lambda point: (x(point), y(point)), reverse=True):
        if not best or y(point) > y(best[-1]):
            best.append(point)
    return best[::-1]


def frontier_lines(points: Sequence[tuple[str, float, float]], title: str = "") -> list[str]:
    """The points (name, interactivity, throughput per GPU) as a plot in text, frontier as ``o``,
    others as ``.``; [] for too few.

    Under the plot the frontier's points by name, from the highest throughput to the highest
    interactivity.
    """
    usable = [point for point in points if point[1] > 0 and point[2] > 0]
    if len(usable) < FEWEST_POINTS:
        return []
    best = frontier(usable, lambda point: point[1], lambda point: point[2])
    most_x, most_y = max(point[1] for point in usable), max(point[2] for point in usable)
    grid = [[" "] * _WIDTH for _ in range(_HEIGHT)]
    for mark, group in ((".", usable), ("o", best)):
        for _, across, up in group:
            column = round(across / most_x * (_WIDTH - 1))
            row = _HEIGHT - 1 - round(up / most_y * (_HEIGHT - 1))
            grid[row][column] = mark
    top, margin = f"{most_y:,.0f}", max(len(f"{most_y:,.0f}"), 3)
    lines = [title or "Pareto frontier", f"  {'tok/s/GPU'.rjust(margin)}"]
    lines += [
        f"  {(top if row == 0 else '').rjust(margin)} |{''.join(cells).rstrip()}"
        for row, cells in enumerate(grid)
    ]
    end = f"{most_x:,.0f} tok/s/user"
    lines += [
        f"  {'0'.rjust(margin)} +{'-' * _WIDTH}",
        f"  {' ' * margin}  0{end.rjust(_WIDTH - 1)}",
    ]
    width = max(len(name) for name, _, _ in best)
    return lines + [
        f"  o {name.ljust(width)}  {across:>8,.1f} tok/s/user  {up:>10,.1f} tok/s/GPU"
        for name, across, up in best
    ]
